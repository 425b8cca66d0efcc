//! The crate from its front door: text in, configuration or faults out.

mod changes;
mod examples;
mod faults;
mod fuzz;
mod outside;
mod reference;
mod schema;
mod secrets;
mod warnings;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::{Environment, Fault, Faults, Loaded, Source, load};

/// Variables and files that exist only here.
#[derive(Default)]
struct World {
    vars: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl World {
    fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn load(&self, text: &str) -> Result<Loaded, Faults> {
        load(&Source { name: "gateway.yaml".to_owned(), text: text.to_owned() }, self)
    }
}

impl Environment for World {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    fn vars(&self) -> Vec<(String, String)> {
        self.vars.clone().into_iter().collect()
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        let found = path.to_str().and_then(|path| self.files.get(path));
        found.cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }
}

/// A pool that is all right, for files that are about something else.
const POOL: &str = "pools: { main: { backends: [http://127.0.0.1:8000] } }\n";

fn loaded(text: &str) -> Loaded {
    World::default().load(text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The errors of a file.
fn faults(text: &str) -> Vec<Fault> {
    World::default().load(text).map(|loaded| loaded.config).expect_err("the file has faults").0
}
