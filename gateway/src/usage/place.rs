//! Where journals are: `BASE/tidegate-UID/STORE/PROCESS/FROM-TO`, in a file system that is in memory.
//!
//! Each process writes to a folder of its own, whose lock it holds as long as it lives. What a process that is no more
//! has left is taken over by the next one that uses the same store.

use super::segment::Segment;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// In memory on Linux, for everybody, and shared by the containers of a pod.
const DEFAULT: &str = "/dev/shm";

/// Where whoever starts the gateway wants it instead: our systemd unit, which empties the other one at each end.
const VARIABLE: &str = "TIDEGATE_JOURNAL";

/// Where that unit wants it.
const OF_THE_UNIT: &str = "/run/tidegate";

/// Held by the process that writes here.
const LOCK: &str = "lock";

/// Says for people which store a folder belongs to.
const STORE: &str = "store";

/// The folder of one process.
pub(super) struct Place {
    /// Its name: what the store knows it by.
    pub(super) id: String,
    folder: PathBuf,
    _lock: File,
}

/// A file of a journal: what was recorded in pieces `from` to `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) path: PathBuf,
}

/// Where journals are of a configuration that does not say: where they are written, and elsewhere they may be.
fn by_default() -> [PathBuf; 2] {
    let (here, elsewhere) = match std::env::var_os(VARIABLE) {
        Some(named) => (named.into(), DEFAULT),
        None => (DEFAULT.into(), OF_THE_UNIT),
    };
    [here, elsewhere.into()]
}

/// The folder for the journals of a store.
pub(super) fn of_store(base: Option<&Path>, store: &Path) -> io::Result<PathBuf> {
    let [by_default, _] = by_default();
    of_user(base.unwrap_or(&by_default), store, user()?)
}

fn of_user(base: &Path, store: &Path, user: u32) -> io::Result<PathBuf> {
    let hash = blake3::hash(absolute(store)?.as_os_str().as_bytes()).to_hex();
    Ok(base.join(format!("tidegate-{user}")).join(&hash.as_str()[..16]))
}

/// All folders with journals of a store that may be believed: this user's, and those of the store's owner and of root.
pub(super) fn believed(base: Option<&Path>, store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut users = vec![user()?, fs::metadata(store)?.uid(), 0];
    users.sort_unstable();
    users.dedup();
    let bases = base.map_or_else(|| by_default().to_vec(), |base| vec![base.to_owned()]);
    let mut folders = Vec::new();
    for (base, user) in bases.iter().flat_map(|base| users.iter().map(move |user| (base, *user))) {
        let folder = of_user(base, store, user)?;
        if folder.symlink_metadata().is_ok_and(|there| there.is_dir() && there.uid() == user) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Where a store is, by whatever name it is called, whether it is there or not.
fn absolute(store: &Path) -> io::Result<PathBuf> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(folder)?.join(store.file_name().unwrap_or_default()))
}

impl Place {
    /// Makes a folder for this process.
    ///
    /// # Errors
    /// If it cannot be made, or would be on a disk, or could be somebody else's.
    pub(super) fn make(base: Option<&Path>, store: &Path) -> io::Result<Self> {
        let of_store = of_store(base, store)?;
        let ours = of_store.parent().unwrap_or(&of_store);
        is_in_memory(ours.parent().unwrap_or(ours))?;
        for folder in [ours, &*of_store] {
            make_private(folder)?;
        }
        let named = of_store.join(STORE);
        if !named.exists() {
            fs::write(named, absolute(store)?.as_os_str().as_bytes())?;
        }
        // It has its name only once it is locked: nobody takes it for one whose process is no more.
        let id = Uuid::now_v7().to_string();
        let (new, folder) = (of_store.join(format!(".{id}")), of_store.join(&id));
        make_private(&new)?;
        let lock = File::create(new.join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&new, &folder)?;
        Ok(Self { id, folder, _lock: lock })
    }

    /// The pieces that are here, in order.
    pub(super) fn pieces(&self) -> io::Result<Vec<Piece>> {
        pieces(&self.folder)
    }

    /// A file for one piece.
    pub(super) fn segment(&self, number: u64) -> io::Result<(File, PathBuf)> {
        let path = self.folder.join(name(number, number));
        Segment::make(&path).map(|file| (file, path))
    }

    /// Puts one file in the place of several.
    pub(super) fn put(&self, from: u64, to: u64, lines: &[u8]) -> io::Result<(File, PathBuf)> {
        let (new, path) = (self.folder.join(".new"), self.folder.join(name(from, to)));
        let put = fs::write(&new, lines).and_then(|()| fs::rename(&new, &path)).and_then(|()| File::open(&path));
        if put.is_err() {
            // Half a file is of no use, and takes room.
            let _ = fs::remove_file(&new);
        }
        put.map(|file| (file, path))
    }

    /// Nothing is left in it.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }

    /// Takes over what processes have left that are no more.
    pub(super) fn left_behind(&self) -> io::Result<Vec<Self>> {
        let of_store = self.folder.parent().unwrap_or(&self.folder);
        let mut left = Vec::new();
        for (id, folder) in journals(of_store)? {
            if id == self.id {
                continue;
            }
            let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
            match lock.try_lock() {
                Ok(()) => left.push(Self { id, folder, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(left)
    }
}

/// The folders of processes below that of a store, with their names.
pub(super) fn journals(of_store: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of_store)? {
        let path = entry?.path();
        let id = path.file_name().and_then(OsStr::to_str).filter(|name| Uuid::try_parse(name).is_ok());
        if let Some(id) = id {
            found.push((id.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// The pieces in a folder, in order, none of them twice: what was put together counts, and not what it was made of.
pub(super) fn pieces(folder: &Path) -> io::Result<Vec<Piece>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let range = path.file_name().and_then(OsStr::to_str).and_then(|name| name.split_once('-'));
        let range = range.map(|(from, to)| (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)));
        if let Some((Ok(from), Ok(to))) = range {
            all.push(Piece { from, to, path });
        }
    }
    all.sort_by_key(|piece| (piece.from, std::cmp::Reverse(piece.to)));
    let mut last = 0;
    all.retain(|piece| {
        let is_new = piece.to > last;
        last = last.max(piece.to);
        is_new
    });
    Ok(all)
}

fn name(from: u64, to: u64) -> String {
    format!("{from:016x}-{to:016x}")
}

/// Who this process is.
fn user() -> io::Result<u32> {
    fs::metadata("/proc/self").map(|process| process.uid())
}

/// A folder for this user alone.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let there = fs::symlink_metadata(folder)?;
    if there.is_dir() && there.uid() == user()? && there.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is not a folder of this user alone", folder.display())))
}

/// A request never waits for a disk: what is written on its way is written to memory.
#[cfg(target_os = "linux")]
pub(crate) fn is_in_memory(folder: &Path) -> io::Result<()> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    if matches!(u64::try_from(kind), Ok(TMPFS | RAMFS)) {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is not in memory (no tmpfs)", folder.display())))
}

/// Elsewhere there is none.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_in_memory(_: &Path) -> io::Result<()> {
    Err(io::Error::other("there are no files in memory here"))
}
