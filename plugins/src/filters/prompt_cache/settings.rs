//! The settings of the cache.

use crate::cache_key::Scope;
use crate::call::Endpoint;
use crate::filter::SettingsError;
use crate::units::{Size, Time};
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Answers that have been given are kept, and given again to whoever asks for the same. See
/// [guide-cache.md](guide-cache.md).
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long an answer is good for.
    pub r#for: Time,
    /// The same for single models, by the name the file's `models` have for them; 0: never cached.
    pub models: BTreeMap<String, Time>,
    /// Memory for all answers together, what it costs to keep them included.
    pub size: Size,
    /// The largest answer that is kept.
    pub max_entry: Size,
    /// Among whom answers are shared: `org`, `key`, `user` or `global` (everybody, strangers included).
    pub scope: Scope,
    /// What is cached: `all`, or only what comes out the same every time (`temperature` 0, or a `seed`).
    pub cache: What,
    /// The ids and times of answers that are given again: `fresh`, or the `original` ones.
    pub ids: IdsAre,
    /// Events a second at which a stream is given again; 0: at once.
    pub pace: u32,
    /// The size from which answers are compressed in memory, once more than half of `size` is taken.
    pub compress_above: Size,
    /// Whether requests may say `Cache-Control`, and answers say `Cache-Status` and `Age`.
    pub http: bool,
    /// Headers that change an answer, beside those that are known to (`anthropic-version`, `anthropic-beta` and the
    /// like).
    pub vary: Vec<String>,
    /// Whether streams of chat and completions are asked to tell their usage although the client did not ask: without it
    /// a stream cannot be given again as a whole answer. The client does not see it.
    pub ask_usage: bool,
    /// Whether the tokens of an answer that is given again count for those who are given it, as if it were new.
    pub charge: bool,
    /// Whether an answer is read to its end, to be kept, although its client has left.
    pub finish: bool,
    /// How long after its time an answer is still given, while a new one is fetched behind it.
    pub stale_while_revalidate: Time,
    /// How long after its time an answer is still given when the backend fails.
    pub stale_if_error: Time,
    /// A file that answers are kept in too, so that they survive a restart. Absent: memory only.
    pub file: Option<File>,
    /// What keys are made with, so that they are the same after a restart, or in another process. Absent: at random.
    pub secret: Option<String>,
}

/// A file that answers are kept in beside memory.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where, relative to the directory of the configuration; made if it is not there. SQLite's, with two more beside it
    /// while it is in use: on a disk of this machine.
    pub path: PathBuf,
    /// How much it may keep; the oldest answers give way.
    #[serde(default = "file_size")]
    pub size: Size,
}

fn file_size() -> Size {
    Size(1 << 30)
}

/// What is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Everything.
    All,
    /// What comes out the same every time.
    Deterministic,
}

/// How answers that are given again are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdsAre {
    /// As new ones.
    Fresh,
    /// As they were.
    Original,
}

impl IdsAre {
    /// Whether answers of this kind get new ones.
    pub(super) fn are_fresh(self, endpoint: Endpoint) -> bool {
        // A conversation that is kept at the backend goes on under the id that the backend knows.
        self == Self::Fresh && endpoint != Endpoint::Responses
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            r#for: Time(Duration::from_secs(600)),
            models: BTreeMap::new(),
            size: Size(256 << 20),
            max_entry: Size(4 << 20),
            scope: Scope::Org,
            cache: What::All,
            ids: IdsAre::Fresh,
            pace: 0,
            compress_above: Size(128 << 10),
            http: true,
            vary: Vec::new(),
            ask_usage: true,
            charge: false,
            finish: false,
            stale_while_revalidate: Time::default(),
            stale_if_error: Time::default(),
            file: None,
            secret: None,
        }
    }
}

/// The least memory that is any use.
const LEAST: u64 = 64 << 10;

/// The shortest secret that cannot be guessed.
const SHORTEST_SECRET: usize = 16;

impl Settings {
    /// The headers of `vary`, and all that cannot be meant.
    pub(super) fn check(&self, known: &[std::sync::Arc<str>]) -> Result<Vec<HeaderName>, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let mut fault = |path: &str, message: String| faults.push(SettingsError::at(path, message));
        if self.r#for.0.is_zero() && self.models.values().all(|time| time.0.is_zero()) {
            fault("for", "an answer that is good for no time is never given again".to_owned());
        }
        for model in self.models.keys() {
            if !known.is_empty() && !known.iter().any(|known| **known == **model) {
                fault(&format!("models.{model}"), format!("`models` of this file has no entry `{model}`"));
            }
        }
        if self.size.0 < LEAST {
            fault("size", "less than 64KiB keeps nothing worth keeping".to_owned());
        }
        if self.max_entry.0 > self.size.0 {
            fault("max_entry", "one answer may be larger than all of them together (`size`)".to_owned());
        }
        if self.file.as_ref().is_some_and(|file| file.size.0 < self.max_entry.0) {
            fault("file.size", "one answer may be larger than the file (`max_entry`)".to_owned());
        }
        if self.pace > 1000 {
            fault("pace", "more than 1000 events a second is at once: say 0".to_owned());
        }
        if self.secret.as_ref().is_some_and(|secret| secret.len() < SHORTEST_SECRET) {
            fault("secret", format!("a secret of less than {SHORTEST_SECRET} bytes can be guessed"));
        }
        let mut headers = Vec::new();
        for (index, name) in self.vary.iter().enumerate() {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => headers.push(name),
                Err(_) => fault(&format!("vary[{index}]"), format!("`{name}` is not the name of a header")),
            }
        }
        if faults.is_empty() { Ok(headers) } else { Err(faults) }
    }
}
