//! Keys that somebody wrote down where only their hashes may stand: found in settings before those are read, and told
//! without being said back.

use super::PREFIX;
use crate::filter::SettingsError;
use crate::tenants::below;
use serde_json::Value;

/// So many letters and digits behind [`PREFIX`] may be a key: not all that there are, so that one which lost some on the
/// way is seen too.
const DIGITS: usize = 24;

/// What to do about it.
pub(crate) const HELP: &str = "`tidegate keys hash` reads a key that somebody has already and prints its hash, for \
                               `{ id: NAME, hash: HASH }`; `tidegate keys new` makes a new key and prints its entry";

/// Whether a key of ours stands in a text.
pub(crate) fn holds_key(text: &str) -> bool {
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
    text.match_indices(PREFIX).any(|(at, prefix)| digits(&text[at + prefix.len()..]) >= DIGITS)
}

/// A fault for each place in settings where a key of ours stands itself.
pub(crate) fn plain_keys(settings: &Value) -> Vec<SettingsError> {
    let mut faults = Vec::new();
    look(settings, String::new(), &mut faults);
    faults
}

fn look(value: &Value, path: String, faults: &mut Vec<SettingsError>) {
    let named = |table: &serde_json::Map<_, _>| table.keys().any(|name: &String| holds_key(name));
    match value {
        Value::String(text) if holds_key(text) => faults.push(fault(path)),
        Value::Object(table) if named(table) => faults.push(fault(path)),
        Value::Object(table) => table.iter().for_each(|(name, value)| look(value, below(&path, name), faults)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| look(value, format!("{path}[{at}]"), faults));
        }
        _ => {}
    }
}

fn fault(path: String) -> SettingsError {
    SettingsError::at(path, "here stands a key itself, and keys are never written down, only their hashes").help(HELP)
}

/// What serde says of a value that does not fit, without the value: a text may be a key of whatever form.
pub(crate) fn without_value(said: &str) -> String {
    let cut = || {
        let (before, rest) = said.split_once(": string \"")?;
        let (_, after) = rest.rsplit_once("\", expected ")?;
        Some(format!("{before}: a text, expected {after}"))
    };
    cut().unwrap_or_else(|| said.to_owned())
}
