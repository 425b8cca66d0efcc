//! The file of a store: how it is opened, whose it is, and how its tables come to be what this version expects.

use super::fault::StorageError;
use super::{Options, metrics};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Says in the file itself that it is ours: `TDGT`.
const APPLICATION: i32 = 0x5444_4754;

/// How the file keeps track of its tables: SQLite's `user_version`.
const FORMAT: i32 = 1;

/// How long a statement of the gateway's own waits for another process: what waits longer is tried again.
const BUSY: Duration = Duration::from_millis(500);

/// The same for the command line, behind which somebody waits.
const PATIENT: Duration = Duration::from_secs(5);

/// What one module keeps in a store.
pub struct Table {
    /// Its name, for keeping track of its migrations.
    pub name: &'static str,
    /// The statements that make it and change it, from the first version to the current. Only ever added to.
    pub migrations: &'static [&'static str],
}

/// Which file it is: not the path, which another may be put at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

/// A store's file.
pub(super) struct File {
    options: Options,
    /// Once it was there it is never made anew: what then stood in it is not lost, but elsewhere, and who knows where
    /// will put it back.
    was_there: AtomicBool,
}

impl File {
    pub(super) fn new(options: Options) -> Self {
        Self { options, was_there: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.options.name
    }

    /// Which file is there now.
    pub(super) fn identity(&self) -> io::Result<Identity> {
        fs::metadata(&self.options.path).map(|metadata| Identity(metadata.dev(), metadata.ino()))
    }

    /// A connection that can write, its tables as this version expects them, and which file it is to.
    pub(super) fn writer(&self) -> Result<(Connection, Identity), StorageError> {
        if !self.was_there.load(Relaxed) {
            make(&self.options.path).map_err(|error| self.away(&error))?;
        }
        let identity = self.identity().map_err(|error| self.away(&error))?;
        let mut connection = open(&self.options.path, BUSY)?;
        if !self.options.durable {
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
        migrate(&mut connection, self.options.tables)?;
        self.was_there.store(true, Relaxed);
        Ok((connection, identity))
    }

    /// A connection that reads, and, if that sees the file as it stands now, when this was last written to.
    pub(super) fn reader(&self) -> Result<(Connection, Option<SystemTime>), StorageError> {
        let written = self.written();
        let (connection, stands) = reader(&self.options.path)?;
        Ok((connection, written.filter(|_| stands)))
    }

    /// When the file was last written to.
    pub(super) fn written(&self) -> Option<SystemTime> {
        fs::metadata(&self.options.path).and_then(|metadata| metadata.modified()).ok()
    }

    fn away(&self, error: &io::Error) -> StorageError {
        StorageError::Away(format!("{}: {error}", self.options.path.display()))
    }
}

/// A connection for a command that runs once, beside a gateway or without one; the file is made if it is not there.
///
/// # Errors
/// If it cannot be opened, or is not a store of ours.
pub fn direct(path: &Path, tables: &[Table]) -> Result<Connection, StorageError> {
    make(path).map_err(|error| StorageError::Away(format!("{}: {error}", path.display())))?;
    let mut connection = open(path, PATIENT)?;
    migrate(&mut connection, tables)?;
    Ok(connection)
}

/// A connection for a look at a store that is there already.
///
/// # Errors
/// If it cannot be opened.
pub fn look(path: &Path) -> Result<Connection, StorageError> {
    Ok(reader(path)?.0)
}

/// A connection that reads, and whether it sees the file as it stood when it was opened.
fn reader(path: &Path) -> Result<(Connection, bool), StorageError> {
    let connection = open(path, BUSY)?;
    connection.pragma_update(None, "query_only", true)?;
    match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        // Beside a file that others write to there is their journal, and readers make theirs. Where there is none, and
        // none can be made, nobody writes: then it is read as it stands.
        Err(error) if is_read_only(&error) && !journal(path).exists() => Ok((as_it_stands(path)?, true)),
        read => read.map(|()| (connection, false)).map_err(StorageError::from),
    }
}

fn is_read_only(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen))
}

fn journal(path: &Path) -> PathBuf {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    journal.into()
}

fn as_it_stands(path: &Path) -> Result<Connection, StorageError> {
    let path = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string().replace("%2F", "/");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)?)
}

/// Finds out whether a store could be written there, without changing it or making one.
///
/// # Errors
/// Why not.
pub fn try_write(path: &Path) -> Result<(), StorageError> {
    if !path.exists() {
        let mut probe = path.as_os_str().to_owned();
        probe.push(format!("-probe-{}", std::process::id()));
        let made = make(Path::new(&probe)).and_then(|()| fs::remove_file(&probe));
        return made.map_err(|error| StorageError::Away(error.to_string()));
    }
    let mut connection = open(path, BUSY)?;
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(Transaction::rollback);
    match begun {
        // Somebody is writing to it.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        begun => Ok(begun?),
    }
}

/// Looks whether what is there is a store of ours, without changing it.
///
/// # Errors
/// If it is none, or cannot be opened.
pub fn inspect(path: &Path) -> Result<(), StorageError> {
    ours(&look(path)?)
}

/// Makes the file, readable by nobody else, unless it is there.
fn make(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn open(path: &Path, busy: Duration) -> Result<Connection, StorageError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(busy)?;
    Ok(connection)
}

/// Brings the tables to the version of this program, or says why not.
fn migrate(connection: &mut Connection, tables: &[Table]) -> Result<(), StorageError> {
    ours(connection)?;
    // Readers do not wait for the writer, nor it for them.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if current(connection, tables)? {
        // Nothing to write, so nobody who writes is in the way.
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT",
    )?;
    for table in tables {
        one(&transaction, table)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    Ok(transaction.commit()?)
}

fn current(connection: &Connection, tables: &[Table]) -> Result<bool, StorageError> {
    if connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))? != FORMAT {
        return Ok(false);
    }
    let mut all = true;
    for table in tables {
        all &= version(connection, table)? == table.migrations.len();
    }
    Ok(all)
}

/// How many of a table's migrations have been made.
fn version(connection: &Connection, table: &Table) -> Result<usize, StorageError> {
    let version = "SELECT version FROM migrations WHERE name = ?1";
    let done: Option<i64> = connection.query_row(version, [table.name], |row| row.get(0)).optional()?;
    Ok(usize::try_from(done.unwrap_or(0)).unwrap_or(usize::MAX))
}

/// Refuses what another program, or a later version of this one, has made.
fn ours(connection: &Connection) -> Result<(), StorageError> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, format) = (number("application_id")?, number("user_version")?);
    let things: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (application != 0 || things > 0) {
        return Err(StorageError::Refused("it is the database of another program".to_owned()));
    }
    if format > FORMAT {
        return Err(StorageError::Refused("a later version of this program has made it".to_owned()));
    }
    Ok(())
}

fn one(transaction: &Transaction<'_>, table: &Table) -> Result<(), StorageError> {
    let Some(rest) = table.migrations.get(version(transaction, table)?..) else {
        let message = format!("a later version of this program has changed its table of {}", table.name);
        return Err(StorageError::Refused(message));
    };
    for migration in rest {
        transaction.execute_batch(migration)?;
    }
    let version = metrics::whole(table.migrations.len());
    transaction.execute("INSERT OR REPLACE INTO migrations (name, version) VALUES (?1, ?2)", (table.name, version))?;
    Ok(())
}
