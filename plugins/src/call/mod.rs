//! The JSON body of an LLM call, read once into ranges over its bytes.
//!
//! A [`Call`] says what routing, limits and accounting need to know, and where in the body it stands, so that
//! [`crate::splice`] can change exactly that. It holds positions only: the body stays where it is, and what is not
//! changed is forwarded as it came. That is safe only if no backend can read the body differently from us, so a body
//! that leaves a choice (a key we read given twice, spelt with escapes, or in another case) is refused here.

mod endpoint;
mod fault;
mod keys;
mod object;
mod read;
mod scan;

use std::borrow::Cow;
use std::ops::Range;

use crate::json::Outline;
pub use endpoint::Endpoint;
pub use fault::{CallFault, FaultKind};
pub use keys::Key;

/// How deep a body may nest; the body itself is the first level.
pub const MAX_DEPTH: usize = 128;

/// The longest name of a model, in bytes. It comes back in every event of a renamed stream, so that a longer one would
/// be a lever.
pub const MAX_MODEL: usize = 256;

/// What a body says, as positions within it. Small, and tied to the bytes it was read from only by convention:
/// methods that take `body` want those very bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the request asks for.
    pub endpoint: Endpoint,
    /// Whether the answer is to be an event stream.
    pub stream: bool,
    /// `stream_options.include_usage`, if it is there.
    pub include_usage: Option<bool>,
    /// The most tokens the answer may have: the largest of the names this goes by, where it is a whole number.
    pub max_tokens: Option<u64>,
    /// The name that goes by, if it is given.
    pub max_tokens_key: Option<Key>,
    /// How many choices are asked for.
    pub n: Option<u64>,
    /// How many are made, the best of which are given.
    pub best_of: Option<u64>,
    spans: [Span; Key::COUNT],
    end: u32,
    is_empty: bool,
}

/// A range of a body; empty where there is nothing, since no value is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Call {
    /// Reads `body`. A body without a model is no fault here, since the gateway may know a default: see
    /// [`Call::model`] and [`CallFault::missing_model`].
    pub fn read(body: &[u8], endpoint: Endpoint) -> Result<Self, CallFault> {
        read::read(body, endpoint, &mut ())
    }

    /// The same, with an outline of the body for who has to look through it again; none where it is written in an unusual
    /// way, or made of so many parts that it would be large.
    pub fn outlined(body: &[u8], endpoint: Endpoint) -> Result<(Self, Option<Outline>), CallFault> {
        let mut outline = Outline::beside(body.len());
        let call = read::read(body, endpoint, &mut outline)?;
        Ok((call, outline.whole()))
    }

    /// The model that the call names. Borrowed, unless the name is written with escapes.
    #[must_use]
    pub fn model<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        let quoted = body.get(self.span(Key::Model)?)?;
        crate::json::unquoted(&quoted[1..quoted.len() - 1])
    }

    /// Where the value of `key` stands in the body, quotes and brackets included.
    #[must_use]
    pub fn span(&self, key: Key) -> Option<Range<usize>> {
        let span = self.spans[key as usize];
        (span.end > 0).then_some(span.start as usize..span.end as usize)
    }

    /// Where the body's last `}` stands: a new member goes before it.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end as usize
    }

    /// Whether the body has no member at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The same call in a body where the bytes at `old` have given way, and the value of `key` stands at `value`, with
    /// which the new bytes end.
    pub(crate) fn moved(&self, old: &Range<usize>, key: Key, value: Range<usize>) -> Self {
        let (old_end, start, end) = (old.end as u32, value.start as u32, value.end as u32);
        let shift = |at: u32| at - old_end + end;
        let mut spans = self.spans.map(|span| match span {
            Span { start, end } if start >= old_end => Span { start: shift(start), end: shift(end) },
            before => before,
        });
        spans[key as usize] = Span { start, end };
        Self { spans, end: shift(self.end), is_empty: false, ..self.clone() }
    }
}

#[cfg(test)]
mod tests;
