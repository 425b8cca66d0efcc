//! `tidegate keys`: keys for clients, made, listed, rotated and revoked. A secret is shown once.

mod managed;
mod new;
mod place;

use std::io::Read;

use clap::{Args, Subcommand};
use tidegate_plugins::keys::KeyHasher;

use super::Failure;
use super::say::say;
use place::Place;

/// Make keys for clients, and manage those in the store.
#[derive(Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(new::New),
    List(managed::List),
    Show(managed::Show),
    Revoke(managed::Revoke),
    Rotate(managed::Rotate),
    Hash(Hash),
}

/// Read a key from standard input and print its hash, for the file: a key that somebody has already.
#[derive(Args)]
struct Hash {
    #[command(flatten)]
    place: Place,
}

impl Keys {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::New(new) => new.run(),
            Verb::List(list) => list.run(),
            Verb::Show(show) => show.run(),
            Verb::Revoke(revoke) => revoke.run(),
            Verb::Rotate(rotate) => rotate.run(),
            Verb::Hash(hash) => hash.run(),
        }
    }
}

impl Hash {
    fn run(self) -> Result<(), Failure> {
        const LONGEST: u64 = 4096;
        let (rules, mut text) = (self.place.rules()?, String::new());
        let read = std::io::stdin().take(LONGEST).read_to_string(&mut text);
        read.map_err(|error| Failure::bad_input(format!("standard input: {error}")))?;
        match text.trim() {
            "" => Err(Failure::bad_input("there is no key on standard input: printf %s KEY | tidegate keys hash")),
            key => {
                say(&rules.hasher.hash(key).to_string());
                Ok(())
            }
        }
    }
}

/// A key, to be shown once, and the hash that goes into the file.
pub(super) struct Key {
    pub(super) plain: String,
    pub(super) hash: String,
}

impl Key {
    /// A new one, for a file without a pepper.
    pub(super) fn generate() -> Result<Self, Failure> {
        let key = KeyHasher::new(None).generate();
        let key = key.map_err(|error| Failure::could_not(format!("the system gives no random numbers: {error}")))?;
        Ok(Self { plain: key.secret().to_owned(), hash: key.hash().to_string() })
    }

    /// One that somebody has already.
    pub(super) fn brought(plain: &str) -> Self {
        Self { plain: plain.to_owned(), hash: KeyHasher::new(None).hash(plain).to_string() }
    }
}
