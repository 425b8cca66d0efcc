//! A piece of the journal: what was recorded in about a second, in a file in memory that outlives the process.

use super::line::{self, Sums, Whose};
use super::place::Piece;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A piece that is being written, or was.
pub(super) struct Segment {
    pub(super) number: u64,
    file: Option<(File, PathBuf)>,
    /// What could not be written to the file.
    rest: Mutex<Vec<u8>>,
    bytes: AtomicU64,
    pub(super) begun: Instant,
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Journal,
    Memory,
}

impl Segment {
    /// One with this file; without it is kept in this process alone.
    pub(super) fn new(number: u64, file: Option<(File, PathBuf)>) -> Self {
        Self { number, file, rest: Mutex::default(), bytes: AtomicU64::new(0), begun: Instant::now() }
    }

    /// Makes the file of one.
    pub(super) fn make(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
    }

    /// Adds a line. One system call that copies it, where the file is in memory: nobody waits for a disk.
    pub(super) fn append(&self, line: &[u8]) -> Kept {
        self.bytes.fetch_add(line.len() as u64, Relaxed);
        let written = self.file.as_ref().and_then(|(file, _)| { file }.write(line).ok());
        if written == Some(line.len()) {
            return Kept::Journal;
        }
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        Kept::Memory
    }

    /// Whether it has a file to write to.
    pub(super) fn is_in_a_file(&self) -> bool {
        self.file.is_some()
    }

    /// How much it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Nobody writes to it any more.
    pub(super) fn close(self) -> Block {
        let rest = self.rest.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (from, to, bytes) = (self.number, self.number, self.bytes.into_inner());
        Block { from, to, file: self.file, rest, bytes, begun: self.begun, is_tried: false }
    }
}

/// What was recorded in pieces `from` to `to`: it is in the store as a whole, or not at all.
pub(super) struct Block {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) file: Option<(File, PathBuf)>,
    /// What of it is in no file.
    pub(super) rest: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) begun: Instant,
    /// Whether the store has seen it, and may have taken it although it has not said so: it stays as it is.
    pub(super) is_tried: bool,
}

impl Block {
    /// One that another process has left. It takes nothing of this one's room.
    pub(super) fn open(piece: Piece) -> io::Result<Self> {
        let file = File::open(&piece.path)?;
        let (Piece { from, to, path }, begun) = (piece, Instant::now());
        Ok(Self { from, to, file: Some((file, path)), rest: Vec::new(), bytes: 0, begun, is_tried: false })
    }

    /// Adds up what it says. The file is read as it was opened: whoever has removed it meanwhile has lost nothing.
    pub(super) fn add_to(&self, sums: &mut HashMap<Whose, Sums>) -> io::Result<()> {
        if let Some((file, _)) = &self.file {
            let mut lines = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
            file.read_exact_at(&mut lines, 0)?;
            line::read(&lines, sums);
        }
        line::read(&self.rest, sums);
        Ok(())
    }

    /// Removes its file.
    pub(super) fn remove(&self) {
        if let Some((_, path)) = &self.file {
            // Should it stay, the store knows that it has it.
            let _ = fs::remove_file(path);
        }
    }
}
