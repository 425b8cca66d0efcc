//! What is recorded of an answer while it comes.
//!
//! Of the pieces of a stream each is mostly as the one before: another token between the same names and numbers. So of each
//! is kept where it differs: a stream that is open for a minute holds the text it carries, not all that is told with it.

use bytes::{Buf, Bytes, BytesMut};

/// The pieces of an answer, in their order.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// How long the first piece is, which mostly is all of an answer that is no stream.
    first: usize,
    /// The first piece; then, of each other, how much of it is as the piece before begins and ends, how long it is, and the
    /// rest.
    bytes: Vec<u8>,
    /// The last piece, where there is more than one.
    last: Vec<u8>,
    /// Bytes of all pieces.
    length: usize,
}

/// What a change takes beside its bytes.
const HEAD: usize = 12;

/// How much is compared at once.
const STEP: usize = size_of::<u64>();

impl Recorded {
    /// Bytes of all pieces.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The next piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        if self.length == 0 {
            self.first = piece.len();
            self.bytes = piece.to_vec();
        } else {
            self.add(piece);
        }
        self.length += piece.len();
    }

    fn add(&mut self, piece: &[u8]) {
        if self.last.is_empty() {
            self.last.extend_from_slice(&self.bytes);
        }
        let begin = alike(&self.last, piece);
        let end = alike_at_end(&self.last[begin..], &piece[begin..]);
        let changed = &piece[begin..piece.len() - end];
        self.bytes.reserve_exact(room(self.bytes.len(), HEAD + changed.len(), self.bytes.capacity()));
        for number in [begin, end, changed.len()] {
            self.bytes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.bytes.extend_from_slice(changed);
        self.last.truncate(begin);
        self.last.extend_from_slice(&piece[begin..]);
    }

    /// All of it, in one piece.
    pub(super) fn whole(self) -> Bytes {
        if self.first == self.bytes.len() { self.bytes.into() } else { self.kept().whole() }
    }

    /// As it is kept.
    pub(super) fn kept(self) -> Pieces {
        Pieces { first: self.first, bytes: self.bytes.into_boxed_slice().into(), length: self.length }
    }
}

/// The pieces of an answer, each as what differs from the one before; see [`Recorded`].
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    first: usize,
    bytes: Bytes,
    length: usize,
}

/// How much of a piece is as the one before begins and as it ends, and what stands between.
struct Change<'a> {
    begin: usize,
    end: usize,
    changed: &'a [u8],
}

/// Takes a change off the beginning of `changes`.
fn next<'a>(changes: &mut &'a [u8]) -> Option<Change<'a>> {
    let (head, rest) = changes.split_first_chunk::<HEAD>()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (changed, rest) = rest.split_at_checked(number(8))?;
    *changes = rest;
    Some(Change { begin: number(0), end: number(4), changed })
}

impl Pieces {
    /// Bytes of all pieces.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Bytes that they are kept in.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// All of them, in one.
    pub(super) fn whole(&self) -> Bytes {
        let mut whole = Vec::with_capacity(self.length);
        let (first, mut changes) = self.bytes.split_at(self.first);
        whole.extend_from_slice(first);
        let mut last = 0..whole.len();
        while let Some(Change { begin, end, changed }) = next(&mut changes) {
            let start = whole.len();
            whole.extend_from_within(last.start..last.start + begin);
            whole.extend_from_slice(changed);
            whole.extend_from_within(last.end - end..last.end);
            last = start..whole.len();
        }
        whole.into()
    }

    /// To be told one after the other.
    pub(super) fn telling(self) -> Telling {
        Telling { first: self.first, rest: self.bytes, left: self.length, last: Vec::new() }
    }
}

/// Pieces on their way to a client.
pub(super) struct Telling {
    /// How long the first piece is; none once it has been told.
    first: usize,
    /// Those that are still to be told.
    rest: Bytes,
    /// How many bytes they are.
    left: usize,
    /// The one that was told last.
    last: Vec<u8>,
}

impl Telling {
    /// Whether all have been told.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// Appends the next pieces to `out`, which is empty, until it has `least` bytes or all are told.
    pub(super) fn fill(&mut self, out: &mut BytesMut, least: usize) {
        // Where the piece before stands. Until it is followed by the next one, nothing in it may be changed.
        let mut last = 0..self.last.len();
        // One more may be begun when there is nearly enough.
        out.reserve(last.len() + self.left.min(least + 2 * last.len().max(512)));
        out.extend_from_slice(&self.last);
        let told = last.len();
        if self.first > 0 {
            out.extend_from_slice(&self.rest.split_to(std::mem::take(&mut self.first)));
            last = 0..out.len();
        }
        let mut rest = &self.rest[..];
        while out.len() < told + least
            && let Some(Change { begin, end, changed }) = next(&mut rest)
        {
            let start = out.len();
            let (middle, over) = (start + begin, start + begin + changed.len() + end);
            out.resize(over, 0);
            out.copy_within(last.start..last.start + begin, start);
            out[middle..middle + changed.len()].copy_from_slice(changed);
            out.copy_within(last.end - end..last.end, over - end);
            last = start..over;
        }
        self.last.clear();
        if !rest.is_empty() {
            self.last.extend_from_slice(&out[last]);
        }
        self.rest.advance(self.rest.len() - rest.len());
        out.advance(told);
        self.left -= out.len();
    }
}

/// How much more room is made where there is none: half of what there is, since most streams end soon.
fn room(length: usize, more: usize, capacity: usize) -> usize {
    if capacity - length >= more { 0 } else { more.max(length / 2).max(512) }
}

/// How many bytes both begin with.
fn alike(one: &[u8], other: &[u8]) -> usize {
    let ((ones, _), (others, _)) = (one.as_chunks::<STEP>(), other.as_chunks::<STEP>());
    let mut same = 0;
    for (one, other) in ones.iter().zip(others) {
        let differ = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return same + differ.trailing_zeros() as usize / 8;
        }
        same += STEP;
    }
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

/// How many bytes both end with.
fn alike_at_end(one: &[u8], other: &[u8]) -> usize {
    let ((_, ones), (_, others)) = (one.as_rchunks::<STEP>(), other.as_rchunks::<STEP>());
    let mut same = 0;
    for (one, other) in ones.iter().rev().zip(others.iter().rev()) {
        let differ = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if differ != 0 {
            return same + differ.leading_zeros() as usize / 8;
        }
        same += STEP;
    }
    let (one, other) = (&one[..one.len() - same], &other[..other.len() - same]);
    same + one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recorded(pieces: &[Vec<u8>]) -> Recorded {
        let mut recorded = Recorded::default();
        for piece in pieces {
            recorded.push(piece);
        }
        recorded
    }

    fn event(token: &str) -> Vec<u8> {
        format!(
            "data: {{\"id\":\"chatcmpl-123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
             \"model\":\"a-model\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{token}\"}},\
             \"finish_reason\":null}}]}}\n\n"
        )
        .into_bytes()
    }

    proptest! {
        #[test]
        fn it_is_what_came(pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..70), 0..20)) {
            let all = pieces.concat();
            prop_assert_eq!(recorded(&pieces).whole(), &all);
            let recorded = recorded(&pieces);
            prop_assert_eq!(recorded.len(), all.len());
            let kept = recorded.kept();
            prop_assert_eq!((kept.len(), kept.whole()), (all.len(), Bytes::from(all.clone())));
            for least in [1, 20, 100] {
                let (mut telling, mut told, mut block) = (kept.clone().telling(), Vec::new(), BytesMut::new());
                while !telling.is_over() {
                    telling.fill(&mut block, least);
                    prop_assert!(block.len() >= least || telling.is_over());
                    told.extend_from_slice(&block.split());
                }
                prop_assert_eq!(&told, &all);
            }
        }
    }

    #[test]
    fn events_of_a_stream_hold_little_more_than_their_tokens() {
        let events: Vec<_> = (0..200).map(|number| event(&format!(" token{number}"))).collect();
        let recorded = recorded(&events);
        let held = recorded.last.capacity() + recorded.bytes.capacity();
        assert!(recorded.len() > 30_000 && held < 5_000, "{held} bytes for {}", recorded.len());
        let kept = recorded.kept();
        assert!(kept.held() < 4_500, "{} bytes kept", kept.held());
        assert_eq!(kept.whole(), events.concat());
    }
}
