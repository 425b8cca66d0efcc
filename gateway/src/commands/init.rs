//! `tidegate init --from URL`: a starter file from servers that run.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::banner::{APPS, OPERATORS};
use super::file::count;
use super::proxy::discover;
use super::say::{complain, in_words, say};
use super::starter::{Starter, models};

/// Write an annotated configuration file for model servers that are running.
#[derive(Args)]
pub(super) struct Init {
    /// The model servers: http://HOST:PORT, https://HOST or unix:PATH
    #[arg(long, required = true, num_args = 1.., value_name = "URL")]
    from: Vec<String>,
    /// The file to write; it must not exist. Without it the text is printed
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The key the servers want; the file will refer to ${env:BACKEND_KEY}
    #[arg(long, value_name = "KEY", env = "BACKEND_KEY", hide_env_values = true)]
    backend_key: Option<String>,
}

impl Init {
    pub(super) fn run(self) -> Result<(), Failure> {
        let backends = discover(&self.from, self.backend_key.as_deref())?;
        let urls: Vec<&str> = backends.iter().map(|backend| backend.url.as_str()).collect();
        let starter = Starter {
            origin: &format!("A Tidegate configuration, written by `tidegate init` from {}.", urls.join(" ")),
            listen: APPS,
            admin: OPERATORS,
            backend_key: self.backend_key.as_ref().map(|_| "${env:BACKEND_KEY}"),
            client_key: None,
            aliases: &[],
        };
        let text = starter.yaml(&backends);
        match &self.output {
            None => say(text.trim_end()),
            Some(path) => {
                write(path, &text)?;
                let (path, models) = (path.display(), count(models(&backends).len(), "model"));
                complain(&format!("Wrote {path} with {models}. Next: tidegate run --config {path}"));
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = path.display();
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::could_not(format!("{shown} exists already: name another file with -o")),
        _ => Failure::could_not(format!("cannot write {shown}: {}", in_words(&error))),
    })
}
