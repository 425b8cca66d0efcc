//! One event of a stream of text, as far as resuming has to know it.

use crate::call::Endpoint;
use crate::events::Event;
use crate::json::{self, Member};
use std::borrow::Cow;
use std::ops::Range;

/// Where in an event everything stands that is kept, compared or rewritten.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// `id`, `created`, `model` and `system_fingerprint`.
    pub(super) identity: [Option<Range<usize>>; IDENTITY.len()],
    /// The text, with its quotes.
    pub(super) text: Option<Range<usize>>,
    /// The member that names the role, with a comma that goes with it.
    pub(super) role: Option<Range<usize>>,
    /// The reason to finish, with its quotes.
    pub(super) finish: Option<Range<usize>>,
    /// The usage, if it is told.
    pub(super) usage: Option<Range<usize>>,
    /// Something is in it that is neither: a tool call, reasoning, log probabilities, another choice.
    pub(super) is_odd: bool,
}

/// What all chunks of one stream have in common.
pub(super) const IDENTITY: [&str; 4] = ["id", "created", "model", "system_fingerprint"];

impl Chunk {
    /// Reads an event of a block; none if it is no chunk: a comment, `[DONE]`, an error, what is no JSON object.
    pub(super) fn read(block: &[u8], event: &Event<'_>, endpoint: Endpoint) -> Option<Self> {
        let data = event.data_range().filter(|data| block[data.clone()].trim_ascii_start().starts_with(b"{"))?;
        let (mut chunk, mut is_chunk) = (Self { is_odd: event.data_lines != 1, ..Self::default() }, false);
        for member in json::members_within(block, data) {
            match member.key {
                b"choices" => {
                    is_chunk = true;
                    chunk.choices(block, member.value, endpoint);
                }
                b"usage" => chunk.usage = Some(member.value).filter(|value| block[value.start] == b'{'),
                key => {
                    if let Some(at) = IDENTITY.iter().position(|name| name.as_bytes() == key) {
                        chunk.identity[at] = Some(member.value);
                    }
                }
            }
        }
        is_chunk.then_some(chunk)
    }

    /// What it says.
    pub(super) fn said<'a>(&self, block: &'a [u8]) -> Option<Cow<'a, str>> {
        let quoted = self.text.clone()?;
        json::unquoted(&block[quoted.start + 1..quoted.end - 1])
    }

    fn choices(&mut self, block: &[u8], choices: Range<usize>, endpoint: Endpoint) {
        let mut choices = json::elements_within(block, choices);
        let Some(choice) = choices.next() else { return };
        self.is_odd |= choices.next().is_some();
        for member in json::members_within(block, choice) {
            match member.key {
                b"delta" => self.delta(block, member.value),
                b"text" if endpoint == Endpoint::Completions => self.text(block, member.value),
                b"finish_reason" => self.finish = Some(member.value).filter(|value| block[value.start] == b'"'),
                b"index" => self.is_odd |= block[member.value] != *b"0",
                b"logprobs" => self.is_odd |= !is_nothing(&block[member.value]),
                _ => {}
            }
        }
    }

    fn delta(&mut self, block: &[u8], delta: Range<usize>) {
        let mut before = json::skip_blanks(block, delta.start) + 1;
        let mut is_first = true;
        for member in json::members_within(block, delta.clone()) {
            match member.key {
                b"content" => self.text(block, member.value.clone()),
                b"role" => self.role = Some(with_comma(block, &member, is_first, before)),
                _ => self.is_odd |= !is_nothing(&block[member.value.clone()]),
            }
            (before, is_first) = (member.value.end, false);
        }
    }

    fn text(&mut self, block: &[u8], value: Range<usize>) {
        match block[value.start] {
            b'"' => {
                self.text = Some(value);
                // Half of a pair of surrogates, say.
                self.is_odd |= self.said(block).is_none();
            }
            _ => self.is_odd |= !is_nothing(&block[value]),
        }
    }
}

/// A member with the comma before it, or behind it where it is the first.
fn with_comma(block: &[u8], member: &Member<'_>, is_first: bool, before: usize) -> Range<usize> {
    if !is_first {
        return before..member.value.end;
    }
    let behind = json::skip_blanks(block, member.value.end);
    before..if block.get(behind) == Some(&b',') { behind + 1 } else { member.value.end }
}

/// A value that says nothing.
fn is_nothing(value: &[u8]) -> bool {
    matches!(value, b"null" | b"\"\"" | b"[]" | b"{}")
}
