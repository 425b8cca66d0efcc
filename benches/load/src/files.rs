//! Open files: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Result;

/// Takes as many as may be had: shells begin with 1,024, and thousands of streams are meant to be open at once.
///
/// # Errors
/// The system refuses what it says may be had.
pub fn open_files() -> Result<()> {
    let most = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most })?)
}
