//! Whether a chain of records holds: no record changed, put in or taken out, but for those at the beginning that were too old.

use super::chain::{Tail, hashes};
use super::files;
use serde_json::Value;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

/// A chain that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many records it has.
    pub records: u64,
    /// The number of the first.
    pub first: u64,
    /// The last.
    pub tail: Tail,
}

/// Where it does not, and why.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// What.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It does not hold here.
    #[error("{place}: {why}")]
    Here {
        /// The file and the line, or the row.
        place: String,
        /// Why.
        why: String,
    },
}

/// Reads all records at `path`, a directory with files of that name or an SQLite file.
///
/// # Errors
/// The first place where the chain does not hold.
pub fn verify(path: &Path, name: &str, key: Option<&[u8; 32]>) -> Result<Verified, Broken> {
    let mut reading = Reading { key, verified: None };
    let unreadable = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Broken::Unreadable { path, error }
    };
    if path.is_dir() {
        let files: Vec<PathBuf> = files::all(path, name).map_err(unreadable(path))?;
        for file in files {
            for (at, line) in files::lines(&file).map_err(unreadable(&file))?.lines().enumerate() {
                let place = || format!("{}:{}", file.display(), at + 1);
                reading.line(&line.map_err(unreadable(&file))?, place)?;
            }
        }
    } else {
        let sqlite = |error: rusqlite::Error| io::Error::other(error);
        let connection = crate::storage::look(path).map_err(|error| unreadable(path)(io::Error::other(error)))?;
        let mut rows = connection
            .prepare("SELECT seq, line FROM records ORDER BY seq")
            .map_err(|error| unreadable(path)(sqlite(error)))?;
        let mut rows = rows.query([]).map_err(|error| unreadable(path)(sqlite(error)))?;
        while let Some(row) = rows.next().map_err(|error| unreadable(path)(sqlite(error)))? {
            let read = |error| unreadable(path)(sqlite(error));
            let (seq, line): (i64, String) = (row.get(0).map_err(read)?, row.get(1).map_err(read)?);
            reading.line(&line, || format!("{}: record {seq}", path.display()))?;
        }
    }
    let none = || Broken::Here { place: path.display().to_string(), why: "there are no records".to_owned() };
    reading.verified.ok_or_else(none)
}

struct Reading<'a> {
    key: Option<&'a [u8; 32]>,
    verified: Option<Verified>,
}

impl Reading<'_> {
    fn line(&mut self, line: &str, place: impl Fn() -> String) -> Result<(), Broken> {
        let broken = |why: &str| Err(Broken::Here { place: place(), why: why.to_owned() });
        let Ok(record) = serde_json::from_str::<Value>(line) else { return broken("this is no record") };
        let Some((hash, has)) = hashes(line, self.key) else { return broken("this record is in no chain") };
        if hash != has {
            return broken("this record was changed after it was written, or has another key");
        }
        let (seq, prev) = (record["seq"].as_u64().unwrap_or(0), record["prev"].as_str().unwrap_or_default());
        let tail = Tail { seq, hash: Some(hash) };
        match &mut self.verified {
            None if seq == 1 && prev != Tail::default().prev() => return broken("the first record has one before it"),
            None => self.verified = Some(Verified { records: 1, first: seq, tail }),
            Some(verified) if seq != verified.tail.seq + 1 => {
                return broken(&format!("record {seq} comes after record {}", verified.tail.seq));
            }
            Some(verified) if prev != verified.tail.prev() => {
                return broken("the record before it is not the one that was there when it was written");
            }
            Some(verified) => (verified.records, verified.tail) = (verified.records + 1, tail),
        }
        Ok(())
    }
}
