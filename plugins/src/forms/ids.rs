//! An answer's id and the time it was made, found once and given anew as often as it is told again.
//!
//! The new ones are as long as the old, so that nothing else of an answer moves. They are found by what stands in quotes:
//! within a text of the answer every quote is escaped, so no text is taken for an id.

use crate::call::Endpoint;
use crate::events::Events;
use crate::json;
use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use std::ops::Range;

/// What an answer is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The id with its quotes.
    id: Option<Box<[u8]>>,
    /// The second in which it was made, as it is written: ten digits.
    made: Option<Box<[u8]>>,
}

/// The names that the time goes by.
const MADE: [&[u8]; 3] = [b"\"created\"", b"\"created_at\"", b"\"completed_at\""];

impl Ids {
    /// Of a whole answer.
    pub fn of_whole(endpoint: Endpoint, whole: &[u8]) -> Self {
        let inner = match endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages | Endpoint::Rerank => {
                whole
            }
            _ => return Self::default(),
        };
        Self::of_object(inner)
    }

    /// Of a stream: of what its first events say.
    pub fn of_events(endpoint: Endpoint, events: &[u8]) -> Self {
        let object = match endpoint {
            Endpoint::Messages => "message",
            Endpoint::Responses => "response",
            _ => "",
        };
        let mut told = Events::new(events).filter(|event| !event.is_comment_only() && !event.is_done());
        let Some(first) = told.next() else { return Self::default() };
        let payload = first.payload();
        match object {
            "" => Self::of_object(&payload),
            name => json::member(&payload, name).map_or_else(Self::default, |at| Self::of_object(&payload[at])),
        }
    }

    fn of_object(object: &[u8]) -> Self {
        let member = |name| json::member(object, name).map(|at| &object[at]);
        let looks_like_one = |id: &&[u8]| (SHORTEST + 1..=LONGEST).contains(&id.len()) && id[0] == b'"';
        let id = member("id").filter(looks_like_one).filter(|id| !id.contains(&b'\\'));
        let made = member("created").or_else(|| member("created_at"));
        let made = made.and_then(|made| made.get(..10)).filter(|made| made.iter().all(u8::is_ascii_digit));
        Self { id: id.map(Into::into), made: made.map(Into::into) }
    }

    /// The id with its quotes, and the second, as they are written; empty where there is none.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        (self.id.as_deref().unwrap_or_default(), self.made.as_deref().unwrap_or_default())
    }

    /// From what [`Self::parts`] gave.
    pub fn from_parts(id: &[u8], made: &[u8]) -> Self {
        let part = |part: &[u8]| (!part.is_empty()).then(|| part.into());
        Self { id: part(id), made: part(made) }
    }

    /// Whether there is anything to give anew.
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.made.is_none()
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.id.as_ref().map_or(0, |id| id.len()) + self.made.as_ref().map_or(0, |made| made.len())
    }
}

/// Shorter ids than this are no ids to tell an answer by.
const SHORTEST: usize = 8;

/// Nor are longer ones.
const LONGEST: usize = 256;

/// Up to so many bytes it is cheaper to copy than to write apart.
const SHORT: usize = 2 << 10;

/// New ones for one telling of an answer.
pub struct Fresh {
    id: Option<(Finder<'static>, Vec<u8>)>,
    made: Option<(Box<[u8]>, Vec<u8>)>,
}

impl Fresh {
    /// For an answer with `ids`, told at `now` (seconds since 1970), with `random` bytes.
    pub fn new(ids: &Ids, now: u64, random: u128) -> Self {
        let id = ids.id.as_ref().map(|id| (Finder::new(&id[..]).into_owned(), another(id, random)));
        let now = now.to_string().into_bytes();
        let made = ids.made.clone().filter(|made| made.len() == now.len()).map(|made| (made, now));
        Self { id, made }
    }

    /// The block with the new ones: what has none of the old is handed on as it is.
    pub fn apply(&self, block: &Bytes) -> Bytes {
        if self.places(block).is_empty() {
            return block.clone();
        }
        let mut out = BytesMut::from(&block[..]);
        self.renew(&mut out);
        out.freeze()
    }

    /// Puts the new ones in the place of the old, with no memory of its own.
    pub fn renew(&self, block: &mut [u8]) {
        let next = |block: &[u8], from: usize, finder: &Finder<'_>| finder.find(&block[from..]).map(|at| from + at);
        if let Some((finder, new)) = &self.id {
            let mut from = 0;
            while let Some(at) = next(block, from, finder) {
                from = at + new.len();
                block[at..from].copy_from_slice(new);
            }
        }
        let Some((old, new)) = &self.made else { return };
        for name in MADE {
            let (mut from, finder) = (0, Finder::new(name));
            while let Some(at) = next(block, from, &finder) {
                from = at + name.len();
                if let Some(value) = time_after(block, from, old) {
                    block[value..value + new.len()].copy_from_slice(new);
                }
            }
        }
    }

    /// The block with the new ones, as slices of it with the new ones between: for large blocks with few of them. What
    /// is short is copied, so that it goes out with what changes beside it.
    pub fn segments(&self, block: &Bytes) -> Vec<Bytes> {
        let mut segments = Vec::new();
        let (mut copied, mut short) = (0, BytesMut::new());
        let mut share = |slice: Bytes, short: &mut BytesMut| {
            if slice.len() <= SHORT {
                short.extend_from_slice(&slice);
                return;
            }
            segments.extend([short.split().freeze(), slice]);
        };
        for (at, new) in self.places(block) {
            share(block.slice(copied..at), &mut short);
            short.extend_from_slice(new);
            copied = at + new.len();
        }
        share(block.slice(copied..), &mut short);
        segments.push(short.freeze());
        segments
    }

    /// Where in the block something is put, in order.
    pub fn spans(&self, block: &[u8]) -> Vec<Range<usize>> {
        self.places(block).into_iter().map(|(at, new)| at..at + new.len()).collect()
    }

    /// Where what stands, in order.
    fn places(&self, block: &[u8]) -> Vec<(usize, &[u8])> {
        let mut places: Vec<(usize, &[u8])> = Vec::new();
        if let Some((finder, new)) = &self.id {
            places.extend(finder.find_iter(block).map(|at| (at, &new[..])));
        }
        if let Some((old, new)) = &self.made {
            for name in MADE {
                let values = memchr::memmem::find_iter(block, name);
                let values = values.filter_map(|at| time_after(block, at + name.len(), old));
                places.extend(values.map(|value| (value, &new[..])));
            }
        }
        places.sort_unstable_by_key(|(at, _)| *at);
        places
    }
}

/// Where the time `old` stands that is the value of the name that ends at `end`; none if it is another's.
fn time_after(block: &[u8], end: usize, old: &[u8]) -> Option<usize> {
    let colon = json::skip_blanks(block, end);
    let value = json::skip_blanks(block, colon + 1);
    let is_it = block.get(colon) == Some(&b':')
        && block[value..].starts_with(old)
        && !block.get(value + old.len()).is_some_and(u8::is_ascii_digit);
    is_it.then_some(value)
}

/// An id that looks like this one: what is before its last mark of a kind stays, and each letter gives way to one of its
/// kind.
fn another(id: &[u8], random: u128) -> Vec<u8> {
    let begin = id.iter().position(|byte| matches!(byte, b'-' | b'_')).map_or(1, |at| at + 1);
    let is_hex = id[begin..id.len() - 1].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    // The generator of Steele and others (SplitMix64), from 128 bits that cannot be guessed.
    let (mut state, other) = (random as u64, (random >> 64) as u64);
    let mut next = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state ^ other;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % below
    };
    let renewed = id.iter().enumerate().map(|(at, byte)| match byte {
        _ if at < begin || at == id.len() - 1 => *byte,
        b'0'..=b'9' | b'a'..=b'f' if is_hex => b"0123456789abcdef"[next(16)],
        b'0'..=b'9' => b"0123456789"[next(10)],
        b'a'..=b'z' => b"abcdefghijklmnopqrstuvwxyz"[next(26)],
        b'A'..=b'Z' => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[next(26)],
        other => *other,
    });
    renewed.collect()
}
