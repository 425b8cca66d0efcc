//! A configuration file that depends on nothing around it.

use std::io::{Error, ErrorKind};
use std::path::Path;
use tidegate_config::{Config, Environment, Source, load};

struct Nothing;

impl Environment for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn vars(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn read_file(&self, _: &Path) -> std::io::Result<String> {
        Err(Error::from(ErrorKind::NotFound))
    }
}

/// What `text` means.
///
/// # Panics
/// If it is no good file.
pub fn config(text: String) -> Config {
    match load(&Source { name: "bench".to_owned(), text }, &Nothing) {
        Ok(loaded) => loaded.config,
        Err(faults) => panic!("{faults}"),
    }
}
