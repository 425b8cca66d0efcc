//! What a filter may ask for when it is built.

use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Reads a file that settings name. A leaf does not touch the file system by itself, so that `check`, tests and
/// embedders decide what a path means.
pub trait Files: Send + Sync {
    /// What the file says, whatever format it is written in.
    ///
    /// # Errors
    /// What the file system says, or where the file is malformed.
    fn read(&self, path: &Path) -> io::Result<Value>;
}

/// Handed to each filter when it is built.
#[derive(Clone)]
pub struct Services {
    /// Files that settings name, relative to the configuration file.
    pub files: Arc<dyn Files>,
    /// The pepper for key hashes, if the operator set one.
    pub pepper: Option<Arc<str>>,
}

impl Services {
    /// Services for a filter that reads no file.
    pub fn none() -> Self {
        struct NoFiles;
        impl Files for NoFiles {
            fn read(&self, _: &Path) -> io::Result<Value> {
                Err(io::Error::from(io::ErrorKind::NotFound))
            }
        }
        Self { files: Arc::new(NoFiles), pepper: None }
    }
}
