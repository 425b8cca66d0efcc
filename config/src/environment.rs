//! What the file may refer to outside itself: environment variables and other files.
//!
//! `load` asks an [`Environment`] instead of the process, so that tests (and `tidegate check` for another machine)
//! can say what is there.

use std::io::{self, Read};
use std::path::Path;

/// The world around the file.
pub trait Environment {
    /// The value of one variable; `None` if it is not set.
    fn var(&self, name: &str) -> Option<String>;
    /// All variables, for the `TIDEGATE_*` overrides.
    fn vars(&self) -> Vec<(String, String)>;
    /// The text of a file: a `${file:...}`, a certificate, a key.
    fn read_file(&self, path: &Path) -> io::Result<String>;
    /// Whether this directory is there. A world that knows no directories has them all.
    fn is_directory(&self, path: &Path) -> bool {
        let _ = path;
        true
    }
}

/// The variables and files of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn vars(&self) -> Vec<(String, String)> {
        // A variable that is not text cannot be a setting; `std::env::vars` would panic on it.
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        // More than any secret, certificate or list of keys, and less than a device without an end.
        const LARGEST: u64 = 16 << 20;
        let mut text = String::new();
        let read = std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
        if read as u64 > LARGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
        }
        Ok(text)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }
}
