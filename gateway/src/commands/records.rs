//! `tidegate records`: whether the chain of records that was kept holds.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tidegate::records::verify::{Broken, verify};
use tidegate_plugins::filters::record::chain_key;

use super::Failure;
use super::say::say;

/// Look at the records that the filter `record` has kept.
#[derive(Args)]
pub(super) struct Records {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Verify(Verify),
}

/// Check that no record was changed, put in or taken out since it was written.
#[derive(Args)]
struct Verify {
    /// The directory of the files, or the SQLite file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What the filter calls them
    #[arg(long, default_value = "records")]
    name: String,
    /// The key of the chain, if it has one
    #[arg(long, value_name = "KEY", env = "RECORDS_CHAIN_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The hash that the last record has to have: by it, an end that was cut off shows
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
}

impl Records {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Verify(verb) => verb.run(),
        }
    }
}

impl Verify {
    fn run(self) -> Result<(), Failure> {
        if !Path::new(&self.path).exists() {
            return Err(Failure::bad_input(format!("there is no {}", self.path.display())));
        }
        let key = self.key.as_deref().map(chain_key);
        let verified = verify(&self.path, &self.name, key.as_ref()).map_err(|broken| match broken {
            Broken::Here { .. } => Failure::could_not(format!("the chain does not hold: {broken}")),
            Broken::Unreadable { .. } => Failure::could_not(broken.to_string()),
        })?;
        let head = verified.tail.hash.unwrap_or_default();
        if self.head.is_some_and(|wanted| wanted != head) {
            return Err(Failure::could_not(format!(
                "the last record is number {}, with the hash {head}",
                verified.tail.seq
            )));
        }
        let (records, first, last) = (verified.records, verified.first, verified.tail.seq);
        say(&format!("the chain holds: {records} records, from number {first} to {last}\nhead {head}"));
        Ok(())
    }
}
