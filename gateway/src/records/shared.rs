//! A place that several processes write to in turns: the old one of an upgrade finishes its streams while the new one
//! answers already, and both keep records.
//!
//! Who writes a batch holds the lock of the place meanwhile. In the file of the lock stands who wrote last: where that was
//! somebody else, the end of the chain is read again first.

use super::chain::{self, Tail};
use super::{Backing, Line, files, sqlite};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_plugins::records::{Chain, Place, To};
use uuid::Uuid;

/// How long one waits for the other. A batch takes some milliseconds, a file that is compressed a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often one looks whether the other is done.
const LOOK: Duration = Duration::from_millis(1);

/// The place as this process has it.
pub(super) struct Shared {
    path: PathBuf,
    lock: File,
    me: Uuid,
    backing: Box<dyn Backing>,
    tail: Tail,
    /// What was to be written was not: what is there is looked at again.
    doubts: bool,
}

/// The right to write, until it is dropped.
pub(super) struct Turn<'a>(&'a mut Shared);

impl Shared {
    pub(super) fn open(to: &To) -> io::Result<Self> {
        let path = match &to.place {
            Place::Files { path, .. } => path.join(format!(".{}.lock", to.name)),
            Place::Sqlite { path } => path.with_added_extension("lock"),
        };
        let lock = File::options().create(true).read(true).write(true).truncate(false).mode(0o600).open(&path)?;
        let backing: Box<dyn Backing> = match &to.place {
            Place::Files { .. } => Box::new(files::Files::open(to)?),
            Place::Sqlite { path } => Box::new(sqlite::Sqlite::open(path)?),
        };
        Ok(Self { path, lock, me: Uuid::now_v7(), backing, tail: Tail::default(), doubts: false })
    }

    /// Waits for the others, but not for long; and finds the place again if it was taken away.
    pub(super) fn turn(&mut self, to: &To) -> io::Result<Turn<'_>> {
        if self.backing.is_gone() || !is_at(identity(&self.lock.metadata()?), &self.path) {
            *self = Self::open(to)?;
        }
        let until = Instant::now() + PATIENCE;
        while self.lock.try_lock().is_err() {
            if Instant::now() > until {
                return Err(io::Error::other("another process writes there"));
            }
            std::thread::sleep(LOOK);
        }
        let turn = Turn(self);
        turn.0.catch_up()?;
        Ok(turn)
    }

    /// Reads what others have written.
    fn catch_up(&mut self) -> io::Result<()> {
        let mut last = [0; 16];
        // One that is new has nobody in it.
        let read = self.lock.read_at(&mut last, 0)?;
        if read == last.len() && last == *self.me.as_bytes() && !self.doubts {
            return Ok(());
        }
        self.tail = self.backing.tail()?;
        self.lock.write_all_at(self.me.as_bytes(), 0)?;
        self.doubts = false;
        Ok(())
    }
}

impl Turn<'_> {
    /// Ties records to the last one, and keeps them; gives how many bytes that were.
    pub(super) fn write(&mut self, records: &mut [Map<String, Value>], chain: Option<&Chain>) -> io::Result<u64> {
        let (lines, sealed) = chain::seal(records, &self.0.tail, chain)?;
        self.0.doubts = true;
        self.0.backing.write(&lines, &sealed)?;
        self.0.doubts = false;
        self.0.tail = sealed;
        Ok(lines.iter().map(|Line { text, .. }| text.len() as u64 + 1).sum())
    }

    /// See [`Backing::tidy`].
    pub(super) fn tidy(&mut self, to: &To) -> io::Result<()> {
        self.0.backing.tidy(to)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It goes with the process at the latest.
        let _ = self.0.lock.unlock();
    }
}

/// Which file this is, whatever it is called.
pub(super) fn identity(about: &fs::Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Whether a file that is open, and so cannot be another one of the same number, is still the one of that name.
pub(super) fn is_at(file: (u64, u64), path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| identity(&there) == file)
}
