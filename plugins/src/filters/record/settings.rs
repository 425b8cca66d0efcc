//! What a file says about records.

use super::redact::Rule;
use crate::condition::Lists;
use crate::units::{Percent, Size, Time};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps records of requests and their answers, after the answer and never in its way. What secrets and addresses look like is
/// taken out before anything is written. See [guide-records.md](guide-records.md).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where.
    pub to: To,
    /// What it is called in metrics and log. Absent: `records`.
    #[serde(default = "records")]
    pub name: String,
    /// What of a request is kept.
    #[serde(default)]
    pub what: What,
    /// What is kept of the requests of an organisation, in the place of `what`, by its name.
    #[serde(default)]
    pub orgs: BTreeMap<String, What>,
    /// Who writes summaries, for `what: summary`.
    #[serde(default)]
    pub summary: Option<Summary>,
    /// Requests that are kept in full although they would be summed up, such as `flag("keep_raw")`. Absent: none.
    #[serde(default)]
    pub raw_when: Option<String>,
    /// Lists of names that the conditions can refer to.
    #[serde(default)]
    pub lists: Lists,
    /// Which requests are meant, such as `model == "gpt-4o"`. Absent: all.
    #[serde(default)]
    pub when: Option<String>,
    /// How many of those are kept.
    #[serde(default = "all")]
    #[schemars(extend("default" = "100%"))]
    pub share: Percent,
    /// What is taken out: `key` (keys of this gateway and of common providers), `email`, `card`, `iban`, or a table with a
    /// `pattern` of your own.
    #[serde(default = "keys")]
    #[schemars(extend("default" = ["key"]))]
    pub redact: Vec<Rule>,
    /// The largest body, of a request and of an answer each, that is kept; of a larger one its length is.
    #[serde(default = "large")]
    #[schemars(extend("default" = "64KiB"))]
    pub content: Size,
    /// The most memory that records take which are not written yet.
    #[serde(default = "memory")]
    #[schemars(extend("default" = "32MiB"))]
    pub memory: Size,
    /// What becomes of a request when there is no memory left for its record: `drop` answers it without one, `refuse` does
    /// not answer it (503).
    #[serde(default)]
    pub when_full: WhenFull,
    /// How long records are kept. Absent: for ever.
    #[serde(default)]
    pub keep: Option<Time>,
    /// How much of the disk records may take: the oldest go. Absent: as much as they take. What is written at the time, a file
    /// or the last record, stays.
    #[serde(default)]
    pub keep_bytes: Option<Size>,
    /// Ties each record to the one before by a hash, so that one that was changed, put in or taken out shows:
    /// `tidegate records verify`. Absent: not.
    #[serde(default)]
    pub chain: Option<Chain>,
}

/// Where records are kept: one of these.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum To {
    /// Lines of JSON in the files of a directory.
    Files(Files),
    /// A table in an SQLite file.
    Sqlite(Sqlite),
}

/// Lines of JSON in the files of a directory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The directory, relative to that of this file; it has to be there.
    pub path: PathBuf,
    /// From this size on another file is begun.
    #[serde(default = "file")]
    #[schemars(extend("default" = "64MiB"))]
    pub size: Size,
    /// And after this long.
    #[serde(default = "a_day")]
    #[schemars(extend("default" = "1d"))]
    pub every: Time,
    /// Whether files that are full are compressed (zstd).
    #[serde(default = "yes")]
    pub compress: bool,
}

/// A table in an SQLite file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sqlite {
    /// The file, relative to the directory of this one; made if it is not there.
    pub path: PathBuf,
}

/// What of a request is kept.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Nothing.
    Off,
    /// Who asked which model, when, and what came of it.
    #[default]
    Metadata,
    /// And in a few words what was asked and answered.
    Summary,
    /// And what was asked and answered.
    Full,
}

/// What becomes of a request when there is no memory left for its record.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is answered, without a record, which is counted.
    #[default]
    Drop,
    /// It is refused (503): no answer without a record.
    Refuse,
}

/// Who writes summaries.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The model: one of `models`.
    pub model: String,
    /// About how long a summary is, in words.
    #[serde(default = "words")]
    pub words: u32,
    /// How long it may take; without one the record is kept all the same.
    #[serde(default = "a_while")]
    #[schemars(extend("default" = "30s"))]
    pub timeout: Time,
    /// The most that are written at one time.
    #[serde(default = "few")]
    pub in_flight: usize,
}

/// Ties records together.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chain {
    /// A secret, without which nobody can make a chain that holds, who can write the records even. Absent: whoever can write
    /// all of them can make another chain.
    pub key: Option<String>,
}

fn records() -> String {
    "records".to_owned()
}

fn all() -> Percent {
    Percent::ALL
}

fn keys() -> Vec<Rule> {
    vec![Rule::Known(super::redact::Known::Key)]
}

fn large() -> Size {
    Size(64 << 10)
}

fn memory() -> Size {
    Size(32 << 20)
}

fn file() -> Size {
    Size(64 << 20)
}

fn a_day() -> Time {
    Time(Duration::from_secs(24 * 3600))
}

fn yes() -> bool {
    true
}

fn words() -> u32 {
    60
}

fn a_while() -> Time {
    Time(Duration::from_secs(30))
}

fn few() -> usize {
    2
}
