//! What a filter may ask for when it is built.

use crate::filters::limits::Estimates;
use crate::prices::Prices;
use crate::store::{Local, Store};
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

/// What outlives a reload: the same for every version of the configuration.
#[derive(Clone)]
pub struct Shared {
    /// Where limits are counted.
    pub store: Arc<dyn Store>,
    /// What requests are expected to cost, as learned from what others have cost.
    pub estimates: Arc<Estimates>,
}

impl Default for Shared {
    fn default() -> Self {
        Self::with(Arc::new(Local::default()))
    }
}

impl Shared {
    /// With a store, and nothing learned yet.
    pub fn with(store: Arc<dyn Store>) -> Self {
        Self { store, estimates: Arc::default() }
    }
}

/// Handed to each filter when it is built.
#[derive(Clone)]
pub struct Services {
    /// What outlives a reload.
    pub shared: Shared,
    /// The models that clients may ask for, as the file names them: a wildcard has a `*` at its end.
    pub models: Arc<[Arc<str>]>,
    /// What requests cost.
    pub prices: Arc<Prices>,
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
        Self {
            shared: Shared::default(),
            models: Arc::default(),
            prices: Arc::default(),
            files: Arc::new(NoFiles),
            pepper: None,
        }
    }
}
