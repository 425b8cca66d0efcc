//! What differs between two configurations, setting by setting, with every secret in it as `***`.

use serde_json::{Map, Value};

use crate::key_path::KeyPath;
use crate::meant::Config;
use crate::secret::marked;

/// A setting that is not as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it stands: in the new configuration, or in the old one if it is gone.
    pub path: KeyPath,
    /// What it was; none: it was not there.
    pub from: Option<Value>,
    /// What it is; none: it is gone.
    pub to: Option<Value>,
}

impl Config {
    /// The whole configuration, defaults written out, secrets as `***`.
    pub fn masked(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What differs. A secret that has changed shows as a change from `***` to `***`.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let sides = [before, after].map(|config| (marked(|| config.masked()), config.masked()));
    let [(before, shown_before), (after, shown_after)] = &sides;
    let mut changes = Vec::new();
    compare(Side::new(before, shown_before), Side::new(after, shown_after), &KeyPath::root(), &mut changes);
    changes
}

/// A value, with marks in the place of secrets to be compared by, and as it may be shown.
#[derive(Clone, Copy)]
struct Side<'a> {
    value: &'a Value,
    shown: &'a Value,
}

impl<'a> Side<'a> {
    fn new(value: &'a Value, shown: &'a Value) -> Self {
        Self { value, shown }
    }

    fn key(self, key: &str) -> Option<Self> {
        Some(Self::new(self.value.get(key)?, self.shown.get(key)?))
    }

    fn items(self) -> Vec<Self> {
        let (values, shown) = (self.value.as_array(), self.shown.as_array());
        values.into_iter().flatten().zip(shown.into_iter().flatten()).map(|(v, s)| Self::new(v, s)).collect()
    }
}

fn compare(before: Side<'_>, after: Side<'_>, path: &KeyPath, changes: &mut Vec<Change>) {
    match (before.value, after.value) {
        (same, as_before) if same == as_before => {}
        (Value::Object(old), Value::Object(new)) => tables(before, after, (old, new), path, changes),
        (Value::Array(_), Value::Array(_)) => lists(&before.items(), &after.items(), path, changes),
        _ => changes.push(change(path.clone(), Some(before), Some(after))),
    }
}

fn change(path: KeyPath, from: Option<Side<'_>>, to: Option<Side<'_>>) -> Change {
    let shown = |side: Option<Side<'_>>| side.map(|side| side.shown.clone());
    Change { path, from: shown(from), to: shown(to) }
}

type Table = Map<String, Value>;

fn tables(before: Side<'_>, after: Side<'_>, (old, new): (&Table, &Table), path: &KeyPath, changes: &mut Vec<Change>) {
    for key in old.keys() {
        match (before.key(key), after.key(key)) {
            (Some(before), Some(after)) => compare(before, after, &path.key(key), changes),
            (from, to) => changes.push(change(path.key(key), from, to)),
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        changes.push(change(path.key(key), None, after.key(key)));
    }
}

/// What both begin and end with has not changed; what is between is compared one by one.
fn lists(before: &[Side<'_>], after: &[Side<'_>], path: &KeyPath, changes: &mut Vec<Change>) {
    let same = |(a, b): &(&Side<'_>, &Side<'_>)| a.value == b.value;
    let head = before.iter().zip(after).take_while(same).count();
    let tail = before[head..].iter().rev().zip(after[head..].iter().rev()).take_while(same).count();
    let (old, new) = (&before[head..before.len() - tail], &after[head..after.len() - tail]);
    for at in 0..old.len().max(new.len()) {
        let path = path.item(head + at);
        match (old.get(at), new.get(at)) {
            (Some(before), Some(after)) => compare(*before, *after, &path, changes),
            (from, to) => changes.push(change(path, from.copied(), to.copied())),
        }
    }
}
