//! Records as lines of JSON in files: `NAME-SEQ.jsonl`, by the number of the first record in it. A file that is full is
//! closed and, if that is wanted, compressed to `NAME-SEQ.jsonl.zst`, by a thread of its own: records do not wait for it.
//!
//! The file that is being written is plain: what has been written is there after a kill, but for the end of a line, which is
//! cut off when the file is opened again.

use super::chain::Tail;
use super::pack::{Packer, packed};
use super::shared::{identity, is_at};
use super::{Backing, Line};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tidegate_plugins::records::{Place, To};

/// How much of the end of a file is read to find its last line, at first.
const END: u64 = 64 << 10;

pub(super) struct Files {
    to: To,
    folder: PathBuf,
    open: Option<Open>,
    packer: Packer,
}

struct Open {
    path: PathBuf,
    file: File,
    length: u64,
    began: SystemTime,
}

impl Files {
    pub(super) fn open(to: &To) -> io::Result<Self> {
        let Place::Files { path, .. } = &to.place else { return Err(io::Error::other("not a directory")) };
        Ok(Self { to: to.clone(), folder: path.clone(), open: None, packer: Packer::default() })
    }

    fn bounds(&self) -> (u64, Duration, bool) {
        match &self.to.place {
            Place::Files { size, every, compress, .. } => (*size, *every, *compress),
            Place::Sqlite { .. } => (u64::MAX, Duration::MAX, false),
        }
    }

    /// Closes the file if it is full, or old.
    fn rotate(&mut self) -> io::Result<()> {
        let (size, every, compresses) = self.bounds();
        let Some(open) = &self.open else { return Ok(()) };
        let age = open.began.elapsed().unwrap_or_default();
        if open.length < size && (age < every || open.length == 0) {
            return Ok(());
        }
        open.file.sync_all()?;
        if let Some(Open { path, file, .. }) = self.open.take() {
            // While somebody has it open to write it is not compressed.
            drop(file);
            if compresses {
                self.packer.pack(path)?;
            }
        }
        Ok(())
    }

    /// Has compressed what was closed and is not: a process has ended in between, or had it open still. Gives the newest,
    /// if that can be gone on with.
    fn put_away(&mut self) -> io::Result<Option<PathBuf>> {
        let (_, _, compresses) = self.bounds();
        let mut there = all(&self.folder, &self.to.name)?;
        let newest = there.pop_if(|path| is_plain(path) && !packed(path).exists());
        for path in there.into_iter().filter(|path| is_plain(path) && (compresses || packed(path).exists())) {
            self.packer.pack(path)?;
        }
        Ok(newest)
    }

    fn current(&mut self, first: u64) -> io::Result<&mut Open> {
        self.rotate()?;
        if self.open.is_none() {
            let path = self.folder.join(format!("{}-{first:012}.jsonl", self.to.name));
            let file = File::options().create(true).append(true).mode(0o600).open(&path)?;
            file.lock_shared()?;
            let length = file.metadata()?.len();
            File::open(&self.folder)?.sync_all()?;
            self.open = Some(Open { path, file, length, began: SystemTime::now() });
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("no file is open"))
    }
}

impl Backing for Files {
    fn tail(&mut self) -> io::Result<Tail> {
        self.open = None;
        if let Some(path) = self.put_away()? {
            let mut file = File::options().read(true).append(true).open(&path)?;
            // Not one that is being compressed, because it was full or old.
            if file.try_lock_shared().is_ok() && path.exists() {
                let length = whole_lines(&mut file)?;
                file.set_len(length)?;
                let began = file.metadata().and_then(|about| about.created()).unwrap_or_else(|_| SystemTime::now());
                self.open = Some(Open { path, file, length, began });
            }
        }
        let mut tail = Tail::default();
        for path in all(&self.folder, &self.to.name)?.iter().rev() {
            if let Some(line) = last_line(path)? {
                tail = Tail::of(&line)?;
                break;
            }
        }
        Ok(tail)
    }

    fn write(&mut self, lines: &[Line], sealed: &Tail) -> io::Result<()> {
        let Some(first) = lines.first() else { return Ok(()) };
        let mut text = String::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            text.push_str(&line.text);
            text.push('\n');
        }
        let name = self.to.name.clone();
        let open = self.current(first.seq)?;
        let written = open.file.write_all(text.as_bytes()).and_then(|()| open.file.sync_data());
        if let Err(error) = written {
            // All of it, or none: half of it would be there twice.
            open.file.set_len(open.length)?;
            return Err(error);
        }
        if open.length == 0
            && let Some(head) = &sealed.hash
        {
            // Kept elsewhere, by it an end that was cut off shows.
            tracing::info!(sink = &*name, seq = sealed.seq, head, "the chain of records goes on in another file");
        }
        open.length += text.len() as u64;
        Ok(())
    }

    fn is_gone(&self) -> bool {
        let stays = |open: &Open| open.file.metadata().is_ok_and(|about| is_at(identity(&about), &open.path));
        !self.open.as_ref().is_none_or(stays)
    }

    fn tidy(&mut self, to: &To) -> io::Result<()> {
        self.to = to.clone();
        self.rotate()?;
        self.put_away()?;
        let current = self.open.as_ref().map(|open| open.path.clone());
        let mut bytes = 0_u64;
        // The newest first.
        for path in all(&self.folder, &to.name)?.into_iter().rev() {
            // One that has just become another, smaller one is looked at the next time.
            let Ok(about) = fs::metadata(&path) else { continue };
            bytes = bytes.saturating_add(about.len());
            let is_old = to
                .keep
                .is_some_and(|keep| about.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > keep)));
            let is_much = to.keep_bytes.is_some_and(|most| bytes > most);
            if (is_old || is_much) && Some(&path) != current.as_ref() {
                fs::remove_file(&path)?;
                // Where one was just being made of the other, both go.
                drop(fs::remove_file(packed(&path)));
            }
        }
        Ok(())
    }
}

/// The files of a place, the oldest first. Of one that was just compressed, the one that it was made of.
pub(super) fn all(folder: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|file| file.to_str()).and_then(|file| {
            let number = file.strip_prefix(name)?.strip_prefix('-')?;
            number.strip_suffix(".jsonl").or_else(|| number.strip_suffix(".jsonl.zst"))?.parse::<u64>().ok()
        });
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    found.dedup_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The lines of a file, compressed or not.
pub(super) fn lines(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    Ok(match path.extension().is_some_and(|extension| extension == "zst") {
        true => Box::new(BufReader::new(zstd::Decoder::new(file)?)),
        false => Box::new(BufReader::new(file)),
    })
}

fn last_line(path: &Path) -> io::Result<Option<String>> {
    if path.extension().is_some_and(|extension| extension == "zst") {
        return lines(path)?.lines().last().transpose();
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut most = END;
    loop {
        let from = length.saturating_sub(most);
        file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        let end = end.strip_suffix(b"\n").unwrap_or(&end);
        match memchr::memrchr(b'\n', end) {
            Some(at) => return Ok(Some(String::from_utf8_lossy(&end[at + 1..]).into_owned())),
            None if from == 0 => return Ok((!end.is_empty()).then(|| String::from_utf8_lossy(end).into_owned())),
            None => most = most.saturating_mul(4),
        }
    }
}

/// How long a file is without the beginning of a line that has no end.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut length = file.metadata()?.len();
    while length > 0 {
        let from = length.saturating_sub(END);
        file.seek(SeekFrom::Start(from))?;
        let mut end = vec![0; usize::try_from(length - from).unwrap_or(0)];
        file.read_exact(&mut end)?;
        if let Some(at) = memchr::memrchr(b'\n', &end) {
            return Ok(from + at as u64 + 1);
        }
        length = from;
    }
    Ok(0)
}

fn is_plain(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}
