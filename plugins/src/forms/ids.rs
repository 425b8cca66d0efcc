//! An answer's id and the time it was made, found once and given anew as often as it is told again.
//!
//! The new ones are as long as the old, so that nothing else of an answer moves. They are found by what stands in quotes:
//! within a text of the answer every quote is escaped, so no text is taken for an id. An answer whose id is too short for
//! that (few others are as long) gets a longer one when it is kept: [`with_long_id`].

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
        in_whole(endpoint, whole, Self::of_object).unwrap_or_default()
    }

    /// Of a stream: of what its first events say.
    pub fn of_events(endpoint: Endpoint, events: &[u8]) -> Self {
        in_events(endpoint, events, Self::of_object).unwrap_or_default()
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

/// Reads the object of a whole answer that has the id.
fn in_whole<T>(endpoint: Endpoint, whole: &[u8], read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    use Endpoint::{Chat, Completions, Messages, Rerank, Responses};
    matches!(endpoint, Chat | Completions | Responses | Messages | Rerank).then(|| read(whole))
}

/// The same of a stream.
fn in_events<T>(endpoint: Endpoint, events: &[u8], read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let object = match endpoint {
        Endpoint::Messages => "message",
        Endpoint::Responses => "response",
        _ => "",
    };
    let mut told = Events::new(events).filter(|event| !event.is_comment_only() && !event.is_done());
    let payload = told.next()?.payload();
    match object {
        "" => Some(read(&payload)),
        name => json::member(&payload, name).map(|at| read(&payload[at])),
    }
}

/// Shorter ids than this are no ids to tell an answer by.
const SHORTEST: usize = 8;

/// So many letters and digits behind what says its kind are enough that no two tellings have the same.
pub const RANDOM: usize = 24;

/// The answer with another id, of the same kind and as long as an id is elsewhere, if its own has too few letters and
/// digits to be given anew: or two tellings of it would have the same before long.
pub fn with_long_id(endpoint: Endpoint, answer: Bytes, streamed: bool, random: &[u8; RANDOM]) -> Bytes {
    let read = |object: &[u8]| {
        let id = &object[json::member(object, "id")?];
        let text = id.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let plain = !text.contains(&b'\\');
        let varies = text[kind(text)..].iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
        (plain && varies < RANDOM).then(|| id.to_vec())
    };
    let id = if streamed { in_events(endpoint, &answer, read) } else { in_whole(endpoint, &answer, read) };
    let Some(id) = id.flatten() else { return answer };
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut long = id[..1 + kind(&id[1..id.len() - 1])].to_vec();
    long.extend(random.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]));
    long.push(b'"');
    let (mut out, mut copied) = (BytesMut::with_capacity(answer.len() + long.len()), 0);
    // Only where it is an id: so short a text may stand for something else elsewhere.
    for name in memchr::memmem::find_iter(&answer, b"\"id\"") {
        if let Some(at) = value_after(&answer, name + 4).filter(|at| answer[*at..].starts_with(&id)) {
            out.extend_from_slice(&answer[copied..at]);
            out.extend_from_slice(&long);
            copied = at + id.len();
        }
    }
    out.extend_from_slice(&answer[copied..]);
    out.freeze()
}

/// Where in an id, without its quotes, ends what says of which kind it is.
fn kind(id: &[u8]) -> usize {
    id.iter().position(|byte| matches!(byte, b'-' | b'_')).map_or(0, |at| at + 1)
}

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
    let value = value_after(block, end)?;
    let is_it = block[value..].starts_with(old) && !block.get(value + old.len()).is_some_and(u8::is_ascii_digit);
    is_it.then_some(value)
}

/// Where the value begins of the name that ends at `end`.
fn value_after(block: &[u8], end: usize) -> Option<usize> {
    let colon = json::skip_blanks(block, end);
    (block.get(colon) == Some(&b':')).then(|| json::skip_blanks(block, colon + 1)).filter(|at| *at <= block.len())
}

/// An id that looks like this one: what is before its last mark of a kind stays, and each letter gives way to one of its
/// kind.
fn another(id: &[u8], random: u128) -> Vec<u8> {
    let begin = 1 + kind(&id[1..]);
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
