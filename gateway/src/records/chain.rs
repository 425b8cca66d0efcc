//! Each record tied to the one before: its number, the hash of the one before, and last the hash of all that stands before it.

use super::Line;
use serde_json::{Map, Value};
use std::io;
use tidegate_plugins::records::Chain;

/// What stands before the hash of a line, and behind it.
const BEFORE: &str = ",\"hash\":\"";
const BEHIND: &str = "\"}";
const DIGITS: usize = 64;

/// The last record that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Its number; the first is 1.
    pub seq: u64,
    /// Its hash in hex, if it has one.
    pub hash: Option<String>,
}

impl Tail {
    /// What the next one has to say of it.
    pub(super) fn prev(&self) -> String {
        self.hash.clone().unwrap_or_else(|| "0".repeat(DIGITS))
    }

    /// Of this last line.
    pub(super) fn of(line: &str) -> io::Result<Self> {
        let record: Value = serde_json::from_str(line)?;
        let seq = record["seq"].as_u64().ok_or_else(|| io::Error::other("the last record has no number"))?;
        Ok(Self { seq, hash: record["hash"].as_str().map(str::to_owned) })
    }
}

/// Records as lines, tied to the last one where that is wanted, and what is the last one then.
pub(super) fn seal(
    records: &mut [Map<String, Value>],
    tail: &Tail,
    chain: Option<&Chain>,
) -> io::Result<(Vec<Line>, Tail)> {
    let mut last = tail.clone();
    let mut lines = Vec::with_capacity(records.len());
    for record in records {
        last.seq += 1;
        record.insert("seq".to_owned(), last.seq.into());
        if chain.is_some() {
            record.insert("prev".to_owned(), last.prev().into());
        }
        let member = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
        let (time, request_id, org) = (member("time"), member("request_id"), member("org"));
        let mut text = serde_json::to_string(record)?;
        last.hash = chain.map(|chain| {
            let hash = hash(text.as_bytes(), chain.key.as_ref());
            text.pop();
            text.push_str(BEFORE);
            text.push_str(&hash);
            text.push_str(BEHIND);
            hash
        });
        let (time, request_id) = (time.unwrap_or_default(), request_id.unwrap_or_default());
        lines.push(Line { seq: last.seq, time, request_id, org, text });
    }
    Ok((lines, last))
}

/// The hash that a line has to have, and the one that it has.
pub(super) fn hashes(line: &str, key: Option<&[u8; 32]>) -> Option<(String, String)> {
    let rest = line.strip_suffix(BEHIND)?;
    let at = rest.len().checked_sub(DIGITS)?;
    let (before, has) = (rest.get(..at)?.strip_suffix(BEFORE)?, rest.get(at..)?);
    Some((hash(format!("{before}}}").as_bytes(), key), has.to_owned()))
}

fn hash(text: &[u8], key: Option<&[u8; 32]>) -> String {
    let hash = match key {
        Some(key) => blake3::keyed_hash(key, text),
        None => blake3::hash(text),
    };
    hash.to_hex().to_string()
}
