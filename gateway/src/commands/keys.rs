//! `tidegate keys new`: a key for a client, shown once.

use clap::{Args, Subcommand};
use tidegate_plugins::keys::KeyHasher;

use super::Failure;
use super::say::{Paint, complain, say};
use super::starter::scalar;

/// Make keys for clients.
#[derive(Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(New),
}

/// Make a key, print it once, and the entry for the configuration that lets it in.
#[derive(Args)]
struct New {
    /// What the key is called in logs
    #[arg(long, default_value = "my-app")]
    id: String,
    /// Who uses it
    #[arg(long)]
    user: Option<String>,
    /// Their team
    #[arg(long)]
    team: Option<String>,
    /// Their organisation
    #[arg(long)]
    org: Option<String>,
}

impl Keys {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Verb::New(new) = self.verb;
        let key = Key::generate(None)?;
        let paint = Paint::on_stderr();
        say(&key.plain);
        complain(&format!(
            "\n{}",
            paint.dim("This is the only time it is shown. What lets it in, under api_key's keys:")
        ));
        complain(&new.entry(&key.hash));
        Ok(())
    }
}

impl New {
    /// The entry for `keys` of the api_key filter.
    fn entry(&self, hash: &str) -> String {
        let mut lines = vec![format!("- id: {}", scalar(&self.id)), format!("  hash: {}", scalar(hash))];
        for (name, value) in [("user", &self.user), ("team", &self.team), ("org", &self.org)] {
            lines.extend(value.as_ref().map(|value| format!("  {name}: {}", scalar(value))));
        }
        lines.join("\n")
    }
}

/// A key, to be shown once, and the hash that goes into the file.
pub(super) struct Key {
    pub(super) plain: String,
    pub(super) hash: String,
}

impl Key {
    /// A new one.
    pub(super) fn generate(pepper: Option<&str>) -> Result<Self, Failure> {
        let key = KeyHasher::new(pepper).generate();
        let key = key.map_err(|error| Failure::could_not(format!("the system gives no random numbers: {error}")))?;
        Ok(Self { plain: key.secret().to_owned(), hash: key.hash().to_string() })
    }

    /// One that somebody has already.
    pub(super) fn brought(plain: &str) -> Self {
        Self { plain: plain.to_owned(), hash: KeyHasher::new(None).hash(plain).to_string() }
    }
}
