//! What the configuration was, is, and how one came after the other.

use crate::telemetry::ReloadBy;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write;
use tidegate_config::{self as config, Change, Config, Step};
use tidegate_plugins::when::When;

/// How many versions are kept.
const KEPT: usize = 20;

/// The longest text about changes in the log, in bytes.
const LONGEST: usize = 4 << 10;

/// What the process keeps as it was started, whatever the file says now.
const LASTING: [&[&str]; 5] = [&["listen"], &["admin"], &["drain"], &["storage"], &["log", "format"]];

/// One configuration that was, or is, in use.
#[derive(Clone)]
pub(crate) struct Version {
    /// Counted from 1.
    pub(crate) number: u64,
    /// Since when.
    pub(crate) at: When,
    /// Who asked for it; nobody: the process was started with it.
    pub(crate) by: Option<ReloadBy>,
    /// Names it in metrics.
    pub(crate) hash: String,
    /// What it says.
    pub(crate) config: Config,
    /// What differs from the one before.
    pub(crate) changes: Vec<Change>,
    /// What of it waits for a restart.
    pub(crate) restart: Vec<String>,
}

impl Version {
    /// As operators see it, without the configuration itself.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "version": self.number,
            "hash": self.hash,
            "since": self.at.to_string(),
            "by": self.by.map_or("start", ReloadBy::label),
            "changes": self.changes.iter().map(shown).collect::<Vec<_>>(),
            "restart": self.restart,
        })
    }
}

/// A change, with null for what is not there.
pub(crate) fn shown(change: &Change) -> Value {
    json!({ "path": change.path.to_string(), "from": change.from, "to": change.to })
}

/// The last versions; there is always one.
pub(crate) struct History(VecDeque<Version>);

impl History {
    /// Of a process that has just been started.
    pub(super) fn begin(config: Config, hash: String) -> Self {
        let (changes, restart) = (Vec::new(), Vec::new());
        Self([Version { number: 1, at: When::now(), by: None, hash, config, changes, restart }].into())
    }

    /// The one in use.
    pub(crate) fn now(&self) -> &Version {
        &self.0[self.0.len() - 1]
    }

    /// The one with this number, if it is still here.
    pub(crate) fn find(&self, number: u64) -> Option<&Version> {
        self.0.iter().find(|version| version.number == number)
    }

    /// All of them, the one in use first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Version> {
        self.0.iter().rev()
    }

    /// Another is in use from now on; it is given its number.
    pub(super) fn push(&mut self, version: Version) {
        let number = self.now().number + 1;
        self.0.push_back(Version { number, ..version });
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}

/// Where `now` differs from what the process was started with, and needs another start.
pub(super) fn restart_for(started: &Config, now: &Config) -> Vec<String> {
    let lasting = |change: &Change| {
        let begins = |keys: &&[&str]| {
            let steps = change.path.steps();
            steps.len() >= keys.len()
                && keys.iter().zip(steps).all(|(key, step)| matches!(step, Step::Key(named) if named == key))
        };
        LASTING.iter().any(begins)
    };
    let changes = config::changes(started, now);
    changes.iter().filter(|change| lasting(change)).map(|change| change.path.to_string()).collect()
}

/// Changes for the log.
pub(super) fn told(changes: &[Change]) -> String {
    let mut text = String::new();
    for (at, change) in changes.iter().enumerate() {
        if text.len() > LONGEST {
            // Writing to memory does not fail.
            let _ = write!(text, "; and {} more", changes.len() - at);
            break;
        }
        let separator = if at == 0 { "" } else { "; " };
        let _ = match (&change.from, &change.to) {
            (Some(from), Some(to)) => write!(text, "{separator}{}: {} -> {}", change.path, short(from), short(to)),
            (None, Some(to)) => write!(text, "{separator}{}: + {}", change.path, short(to)),
            (Some(from), None) => write!(text, "{separator}{}: - {}", change.path, short(from)),
            (None, None) => Ok(()),
        };
    }
    text
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.floor_char_boundary(200) {
        end if end < text.len() => format!("{}...", &text[..end]),
        _ => text,
    }
}
