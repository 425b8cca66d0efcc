//! What is recorded of an answer while it comes.
//!
//! Of the pieces of a stream each is mostly as the one before: another token between the same names and numbers. So of each
//! is kept where it differs: a stream that is open for a minute holds the text it carries, not all that is told with it.

use bytes::Bytes;

/// The pieces of an answer, in their order.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The first piece, which mostly is all of an answer that is no stream. A copy: what it was cut from is larger.
    first: Bytes,
    /// The last piece, where there is more than one.
    last: Vec<u8>,
    /// Of each piece but the first: how much of it is as the piece before begins and ends, how long it is, and the rest.
    changes: Vec<u8>,
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
    pub(super) fn push(&mut self, piece: &Bytes) {
        if piece.is_empty() {
            return;
        }
        if self.length == 0 {
            self.first = Bytes::copy_from_slice(piece);
        } else {
            self.add(piece);
        }
        self.length += piece.len();
    }

    fn add(&mut self, piece: &[u8]) {
        if self.changes.is_empty() {
            self.last.extend_from_slice(&self.first);
        }
        let begin = alike(&self.last, piece);
        let end = alike_at_end(&self.last[begin..], &piece[begin..]);
        let changed = &piece[begin..piece.len() - end];
        self.changes.reserve_exact(room(self.changes.len(), HEAD + changed.len(), self.changes.capacity()));
        for number in [begin, end, changed.len()] {
            self.changes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.changes.extend_from_slice(changed);
        self.last.truncate(begin);
        self.last.extend_from_slice(&piece[begin..]);
    }

    /// All of it, in one piece.
    pub(super) fn whole(self) -> Bytes {
        if self.changes.is_empty() {
            return self.first;
        }
        let mut whole = Vec::with_capacity(self.length);
        whole.extend_from_slice(&self.first);
        let (mut last, mut changes) = (0..whole.len(), &self.changes[..]);
        while let Some((head, rest)) = changes.split_first_chunk::<HEAD>() {
            let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
            let (begin, end, (changed, rest)) = (number(0), number(4), rest.split_at(number(8)));
            let start = whole.len();
            whole.extend_from_within(last.start..last.start + begin);
            whole.extend_from_slice(changed);
            whole.extend_from_within(last.end - end..last.end);
            (last, changes) = (start..whole.len(), rest);
        }
        whole.into()
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
            recorded.push(&Bytes::copy_from_slice(piece));
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
            let recorded = recorded(&pieces);
            let all = pieces.concat();
            prop_assert_eq!(recorded.len(), all.len());
            prop_assert_eq!(recorded.whole(), all);
        }
    }

    #[test]
    fn events_of_a_stream_hold_little_more_than_their_tokens() {
        let events: Vec<_> = (0..200).map(|number| event(&format!(" token{number}"))).collect();
        let recorded = recorded(&events);
        let held = recorded.first.len() + recorded.last.capacity() + recorded.changes.capacity();
        assert!(recorded.len() > 30_000 && held < 5_000, "{held} bytes for {}", recorded.len());
        assert_eq!(recorded.whole(), events.concat());
    }
}
