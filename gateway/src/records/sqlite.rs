//! Records in a table of an SQLite file: the line as it is in files, and beside it what one looks for.

use super::chain::Tail;
use super::shared::{identity, is_at};
use super::{Backing, Line};
use crate::storage::{Table, direct};
use rusqlite::{Connection, OptionalExtension, params};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tidegate_plugins::records::To;
use tidegate_plugins::when::When;

/// What is kept in it.
pub(super) const TABLES: &[Table] = &[Table {
    name: "records",
    migrations: &["
        CREATE TABLE records (
            seq INTEGER PRIMARY KEY, time TEXT NOT NULL, request_id TEXT NOT NULL, org TEXT, line TEXT NOT NULL
        ) STRICT;
        CREATE INDEX records_time ON records (time);
        CREATE INDEX records_request ON records (request_id);
    "],
}];

pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
    /// Which file it is. (One of our own that were open too would, when it is closed, take SQLite's locks along.)
    file: (u64, u64),
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let connection = direct(path, TABLES).map_err(io::Error::other)?;
        Ok(Self { connection, path: path.to_owned(), file: identity(&fs::metadata(path)?) })
    }
}

impl Backing for Sqlite {
    fn tail(&mut self) -> io::Result<Tail> {
        let last = "SELECT line FROM records ORDER BY seq DESC LIMIT 1";
        let line: Option<String> =
            self.connection.query_row(last, [], |row| row.get(0)).optional().map_err(io::Error::other)?;
        line.map_or_else(|| Ok(Tail::default()), |line| Tail::of(&line))
    }

    fn write(&mut self, lines: &[Line], _: &Tail) -> io::Result<()> {
        let written = (|| {
            let transaction = self.connection.transaction()?;
            for line in lines {
                let sql = "INSERT INTO records (seq, time, request_id, org, line) VALUES (?, ?, ?, ?, ?)";
                // More than there will ever be.
                let seq = i64::try_from(line.seq).unwrap_or(i64::MAX);
                let row = params![seq, line.time, line.request_id, line.org, line.text];
                transaction.prepare_cached(sql)?.execute(row)?;
            }
            transaction.commit()
        })();
        written.map_err(io::Error::other)
    }

    fn is_gone(&self) -> bool {
        !is_at(self.file, &self.path)
    }

    fn tidy(&mut self, to: &To) -> io::Result<()> {
        if let Some(before) = to.keep.and_then(|keep| SystemTime::now().checked_sub(keep)) {
            let seconds = before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let before = When::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX)).to_string();
            // From the oldest on, so that what is left is one piece; and not the last, to which the next is tied.
            let sql = "DELETE FROM records WHERE seq <
                (SELECT COALESCE((SELECT MIN(seq) FROM records WHERE time >= ?1), (SELECT MAX(seq) FROM records)))";
            self.connection.execute(sql, params![before]).map_err(io::Error::other)?;
        }
        if let Some(most) = to.keep_bytes {
            // A part of them at a time.
            let sql = "DELETE FROM records WHERE seq <
                (SELECT MIN(seq) + MAX(1, (MAX(seq) - MIN(seq)) / 16) FROM records HAVING MAX(seq) > MIN(seq))";
            while self.bytes()? > most && self.connection.execute(sql, []).map_err(io::Error::other)? > 0 {}
        }
        Ok(())
    }
}

impl Sqlite {
    /// Of the file, without what was freed in it and is used again.
    fn bytes(&self) -> io::Result<u64> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = pragma("page_count").and_then(|all| Ok(all - pragma("freelist_count")?));
        let bytes = pages.and_then(|pages| Ok(pages * pragma("page_size")?)).map_err(io::Error::other)?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }
}
