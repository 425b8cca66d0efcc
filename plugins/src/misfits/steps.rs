//! Ways from settings to what is in them, and what they are called.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// One step from settings to what is in them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

/// Whether `inner` is `outer`, or in it.
pub(super) fn within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether neither is in the other.
pub(crate) fn apart(one: &str, other: &str) -> bool {
    !within(one, other) && !within(other, one)
}

/// Whether `path` is a setting of this very table.
pub(super) fn beside(path: &str, table: &str) -> bool {
    within(path, table) && !path[table.len()..].trim_start_matches('.').contains(['.', '['])
}

pub(super) fn steps(path: &Path, settings: &Value) -> Vec<Step> {
    let (mut steps, mut here) = (Vec::new(), Some(settings));
    for segment in path.iter() {
        let step = match segment {
            Segment::Map { key } => Step::Key(key.clone()),
            Segment::Seq { index } => Step::Item(*index),
            // A choice that is written as a table with its word.
            Segment::Enum { variant } if here.is_some_and(|here| here.get(variant).is_some()) => {
                Step::Key(variant.clone())
            }
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        here = here.and_then(|here| child(here, &step));
        steps.push(step);
    }
    steps
}

fn child<'a>(value: &'a Value, step: &Step) -> Option<&'a Value> {
    match step {
        Step::Key(key) => value.get(key),
        Step::Item(index) => value.get(index),
    }
}

pub(super) fn get<'a>(settings: &'a Value, at: &[Step]) -> Option<&'a Value> {
    at.iter().try_fold(settings, child)
}

fn holder<'a>(settings: &'a mut Value, at: &'a [Step]) -> Option<(&'a mut Value, &'a Step)> {
    let (last, above) = at.split_last()?;
    let holder = above.iter().try_fold(settings, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Item(index) => value.get_mut(index),
    })?;
    Some((holder, last))
}

pub(super) fn take(settings: &mut Value, at: &[Step]) -> Option<Value> {
    match holder(settings, at)? {
        (Value::Object(table), Step::Key(key)) => table.remove(key),
        (Value::Array(list), Step::Item(index)) if *index < list.len() => Some(list.remove(*index)),
        _ => None,
    }
}

/// Puts a value into a table, or in the place of an item of a list.
pub(super) fn put(settings: &mut Value, at: &[Step], value: Value) -> bool {
    match holder(settings, at) {
        Some((Value::Object(table), Step::Key(key))) => {
            table.insert(key.clone(), value);
            true
        }
        Some((Value::Array(list), Step::Item(index))) if *index < list.len() => {
            list[*index] = value;
            true
        }
        _ => false,
    }
}
