//! Edits to a JSON body that leave every other byte alone.
//!
//! What a backend gets is what the client sent, but for the few values the gateway has a reason to change: no number
//! is respelt, no key reordered, no blank lost. Edits are collected while a request is prepared and applied once, into
//! one allocation of the exact size. Answers are edited in two places only, the model's name and the usage that we asked
//! for: see [`ModelRenamer`] and [`without_usage`].

mod rename;
mod usage;

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

pub use rename::ModelRenamer;
pub use usage::{ask_usage, split_usage, take_usage, without_usage};

use crate::call::{Call, Key};
use crate::json;

/// Replacements and insertions for one body.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    list: Vec<Edit>,
}

#[derive(Clone, Debug)]
struct Edit {
    range: Range<usize>,
    text: Bytes,
    /// The key, where a whole member is inserted.
    member: Option<String>,
}

/// Why an edit is not possible.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SpliceFault {
    /// It reaches into a part of the body that another edit has replaced, or beyond the body.
    #[error("two edits of a body overlap")]
    Overlap,
    /// A member was to be set where there is no object.
    #[error("a member can only be set in an object")]
    NotAnObject,
}

/// `body` with `model` in the place of its model, and how it reads now: only that value, and the place of what stands
/// behind it, is another.
#[must_use]
pub fn set_model(call: &Call, body: &Bytes, model: &str) -> (Bytes, Call) {
    set_value(call, body, Key::Model, json::quoted(model).as_bytes())
}

/// The same for any of the members we read; a member that is not there is added at the end. `value` is JSON.
fn set_value(call: &Call, body: &Bytes, key: Key, value: &[u8]) -> (Bytes, Call) {
    let (old, before) = match call.span(key) {
        Some(span) => (span, String::new()),
        None => {
            let comma = if call.is_empty() { "" } else { "," };
            (call.end()..call.end(), format!("{comma}\"{}\":", key.name()))
        }
    };
    let start = old.start + before.len();
    let parts = [&body[..old.start], before.as_bytes(), value, &body[old.end..]];
    let call = call.moved(&old, key, start..start + value.len());
    (Bytes::from(parts.concat()), call)
}

impl Edits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Puts `text` in the place of `range`. Earlier edits of the same range, or within it, give way.
    pub fn replace(&mut self, range: Range<usize>, text: impl Into<Bytes>) -> Result<(), SpliceFault> {
        if !self.are_all_before(range.start) {
            self.list.retain(|edit| !edit.lies_within(&range));
        }
        self.add(Edit { range, text: text.into(), member: None })
    }

    /// Puts `text` before the byte at `at`, behind what was inserted there before.
    pub fn insert(&mut self, at: usize, text: impl Into<Bytes>) -> Result<(), SpliceFault> {
        self.add(Edit { range: at..at, text: text.into(), member: None })
    }

    /// Sets a member that the call knows the place of, or adds it at the end. `value` is JSON.
    pub fn set_key(&mut self, call: &Call, key: Key, value: &str) -> Result<(), SpliceFault> {
        match call.span(key) {
            Some(span) => self.replace(span, value.to_owned()),
            None => self.add_member(call.end(), call.is_empty(), key.name(), value),
        }
    }

    /// Sets the member `name` of the object at `object` of `body` wherever it is given, or adds it at that object's
    /// end. `value` is JSON. This walks over the object; [`Edits::set_key`] does not have to.
    pub fn set_member(
        &mut self,
        body: &[u8],
        object: Range<usize>,
        name: &str,
        value: &str,
    ) -> Result<(), SpliceFault> {
        let text = body.get(object.clone()).unwrap_or_default().trim_ascii_end();
        if !text.trim_ascii_start().starts_with(b"{") || !text.ends_with(b"}") {
            return Err(SpliceFault::NotAnObject);
        }
        let (mut is_empty, mut is_given) = (true, false);
        for member in json::members_within(body, object.clone()) {
            is_empty = false;
            if member.is(name) {
                is_given = true;
                self.replace(member.value, value.to_owned())?;
            }
        }
        if is_given {
            return Ok(());
        }
        self.add_member(object.start + text.len() - 1, is_empty, name, value)
    }

    /// Adds a member before the `}` at `at`; or changes it, if an edit has added it before.
    fn add_member(&mut self, at: usize, is_empty: bool, name: &str, value: &str) -> Result<(), SpliceFault> {
        let is_first = |edit: &Edit| edit.text.first() != Some(&b',');
        let mut added = self.list.iter_mut().filter(|edit| edit.range == (at..at) && edit.member.is_some()).peekable();
        let is_alone = is_empty && added.peek().is_none();
        let earlier = added.find(|edit| edit.member.as_deref() == Some(name));
        let comma = if earlier.as_deref().map_or(is_alone, is_first) { "" } else { "," };
        let text = Bytes::from(format!("{comma}{}:{value}", json::quoted(name)));
        match earlier {
            Some(edit) => edit.text = text,
            None => self.add(Edit { range: at..at, text, member: Some(name.to_owned()) })?,
        }
        Ok(())
    }

    fn add(&mut self, new: Edit) -> Result<(), SpliceFault> {
        let apart = |edit: &Edit| edit.range.end <= new.range.start || new.range.end <= edit.range.start;
        let fits = self.are_all_before(new.range.start) || self.list.iter().all(apart);
        if new.range.start > new.range.end || !fits {
            return Err(SpliceFault::Overlap);
        }
        // Behind what begins where it begins: insertions keep their order, and come before a replacement.
        let order = |edit: &Edit| (edit.range.start, edit.range.end);
        let place = self.list.partition_point(|edit| order(edit) <= order(&new));
        self.list.insert(place, new);
        Ok(())
    }

    /// The usual case, edits being made from front to back, and the one in which many of them cost no more than few.
    fn are_all_before(&self, position: usize) -> bool {
        self.list.last().is_none_or(|last| last.range.end <= position)
    }

    /// The body as edited; itself, at no cost, if nothing is to be done.
    pub fn apply(&self, body: &Bytes) -> Result<Bytes, SpliceFault> {
        if self.list.is_empty() {
            return Ok(body.clone());
        }
        let grown: usize = self.list.iter().map(|edit| edit.text.len()).sum();
        let mut edited = BytesMut::with_capacity(body.len() + grown);
        let mut copied = 0;
        for edit in &self.list {
            edited.extend_from_slice(body.get(copied..edit.range.start).ok_or(SpliceFault::Overlap)?);
            edited.extend_from_slice(&edit.text);
            copied = edit.range.end;
        }
        edited.extend_from_slice(body.get(copied..).ok_or(SpliceFault::Overlap)?);
        Ok(edited.freeze())
    }
}

impl Edit {
    /// Whether a replacement of `range` makes this edit moot. An insertion at its edge it does not.
    fn lies_within(&self, range: &Range<usize>) -> bool {
        if self.range.is_empty() {
            return range.start < self.range.start && self.range.start < range.end;
        }
        range.start <= self.range.start && self.range.end <= range.end
    }
}

#[cfg(test)]
mod tests;
