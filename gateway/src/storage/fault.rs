//! What goes wrong with a store, and whose fault it is.

use rusqlite::{Error, ErrorCode};

/// Why something was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The store is locked, full, gone, or not a store. Another time it may be there.
    #[error("the store cannot be used now: {0}")]
    Away(String),
    /// What was asked of it is wrong: nothing another time would change.
    #[error("the store refuses this: {0}")]
    Refused(String),
    /// The disk takes so long that nobody can say whether it was written.
    #[error("the store has not said whether it was written")]
    Unknown,
}

impl From<Error> for StorageError {
    fn from(error: Error) -> Self {
        if is_away(&error) { Self::Away(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

/// Whether the fault is the store's (try again) and not that of the statement.
pub(super) fn is_away(error: &Error) -> bool {
    let Error::SqliteFailure(failure, _) = error else { return false };
    matches!(
        failure.code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted
    )
}
