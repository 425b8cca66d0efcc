//! An answer's id and the time it was made, found once and given anew as often as it is told again.
//!
//! The new ones are as long as the old, so that nothing else of an answer moves. They are found by what stands in quotes:
//! within a text of the answer every quote is escaped, so no text is taken for an id. An answer whose id is too short for
//! that (few others are as long) gets a longer one when it is kept: a [`LongId`].

use crate::call::Endpoint;
use crate::events::Events;
use crate::json;
use crate::json::blocks::{Marked, Quote};
use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

/// What an answer is known by, if by anything.
#[derive(Debug, Clone, Default)]
pub struct Ids(Option<Arc<Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    /// The id with its quotes; empty if there is none.
    id: Box<[u8]>,
    /// The second in which it was made, as it is written: ten digits, or none.
    made: Box<[u8]>,
    /// Where they stand in a whole answer, so that it need not be searched each time it is told. None: it has to be.
    places: Box<[Place]>,
}

/// Where an id or a time begins.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    is_id: bool,
}

/// The name that the id goes by.
static ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"id\""));

/// The names that the time goes by.
const MADE: [&[u8]; 3] = [br#""created""#, br#""created_at""#, br#""completed_at""#];

/// The same, to look for where much is read.
static MADE_FINDERS: LazyLock<[Finder<'static>; 3]> = LazyLock::new(|| MADE.map(Finder::new));

impl Ids {
    /// Of a whole answer.
    pub fn of_whole(endpoint: Endpoint, whole: &[u8]) -> Self {
        in_whole(endpoint, whole, Self::of_object).unwrap_or_default().located_in(whole)
    }

    /// The same, with where they stand in this whole answer, which is the one that will be told.
    #[must_use]
    pub fn located_in(mut self, whole: &[u8]) -> Self {
        if let Some(known) = self.0.as_mut().map(Arc::make_mut) {
            known.places = known.look(whole).into();
        }
        self
    }

    /// Where in a whole answer something is given anew, in order.
    pub fn spans(&self, whole: &[u8]) -> Vec<Range<usize>> {
        let Some(known) = &self.0 else { return Vec::new() };
        let span = |place: &Place| place.at..place.at + if place.is_id { known.id.len() } else { known.made.len() };
        known.places_in(whole).iter().map(span).collect()
    }

    /// Of a stream: of what its first events say.
    pub fn of_events(endpoint: Endpoint, events: &[u8]) -> Self {
        in_events(endpoint, events, Self::of_object).unwrap_or_default()
    }

    fn of_object(object: &[u8]) -> Self {
        let (mut id, mut made) = (None, None);
        for member in json::members(object) {
            if id.is_none() && member.is("id") {
                id = Some(&object[member.value]);
            } else if made.is_none() && (member.is("created") || member.is("created_at")) {
                made = Some(&object[member.value]);
            }
            if id.is_some() && made.is_some() {
                break;
            }
        }
        let id = id.filter(|id| looks_like_one(id));
        let made = made.and_then(|made| made.get(..10)).filter(|made| made.iter().all(u8::is_ascii_digit));
        Self::from_parts(id.unwrap_or_default(), made.unwrap_or_default()).unwrap_or_default()
    }

    /// The id with its quotes, and the second, as they are written; empty where there is none.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.0.as_ref().map_or((&[], &[]), |known| (&known.id, &known.made))
    }

    /// From what [`Self::parts`] gave; none if it is nothing that could have been given.
    pub fn from_parts(id: &[u8], made: &[u8]) -> Option<Self> {
        let is_time = made.len() == TEN_DIGITS.ilog10() as usize + 1 && made.iter().all(u8::is_ascii_digit);
        if !(id.is_empty() || looks_like_one(id)) || !(made.is_empty() || is_time) {
            return None;
        }
        let known = || Known { id: id.into(), made: made.into(), places: Box::default() };
        Some(Self((!id.is_empty() || !made.is_empty()).then(|| Arc::new(known()))))
    }

    /// Whether there is anything to give anew.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        // What three allocations take beside their bytes.
        const BESIDE: usize = size_of::<Known>() + 64;
        let size = |known: &Arc<Known>| BESIDE + known.id.len() + known.made.len() + size_of_val(&*known.places);
        self.0.as_ref().map_or(0, size)
    }
}

impl Known {
    /// Where in the whole answer that the ids are of something is given anew, in order.
    fn places_in(&self, whole: &[u8]) -> Cow<'_, [Place]> {
        if self.places.is_empty() { self.look(whole).into() } else { Cow::Borrowed(&self.places) }
    }

    /// Looks for the id, and the time where it is a name's value. Both begin with a quote.
    fn look(&self, answer: &[u8]) -> Vec<Place> {
        // Of nearly all answers one of each.
        let mut places = Vec::with_capacity(2);
        let (mut quotes, mut from) = (Marked::<Quote>::new(answer), 0);
        while let Some(at) = quotes.from(from) {
            let rest = &answer[at..];
            from = at + 1;
            // What follows the quote tells nearly all of them apart.
            match rest.get(1) {
                first if !self.id.is_empty() && self.id.get(1) == first && rest.starts_with(&self.id) => {
                    places.push(Place { at, is_id: true });
                    from = at + self.id.len();
                }
                Some(b'c') if !self.made.is_empty() => {
                    let Some(name) = MADE.iter().find(|name| rest.starts_with(name)) else { continue };
                    from = at + name.len();
                    places.extend(time_after(answer, from, &self.made).map(|at| Place { at, is_id: false }));
                }
                _ => {}
            }
        }
        places
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

/// Whether a value is an id, in its quotes, that another can come in the place of.
fn looks_like_one(id: &[u8]) -> bool {
    let inner = id.strip_prefix(b"\"").and_then(|id| id.strip_suffix(b"\""));
    (SHORTEST + 1..=LONGEST).contains(&id.len())
        && inner.is_some_and(|inner| !inner.iter().any(|byte| matches!(byte, b'"' | b'\\')))
}

/// Shorter ids than this are no ids to tell an answer by.
const SHORTEST: usize = 8;

/// So many letters and digits behind what says its kind are enough that no two tellings have the same.
pub const RANDOM: usize = 24;

/// Bytes for an id that cannot be guessed; none if there are none.
pub fn random() -> Option<[u8; RANDOM]> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).is_ok().then_some(random)
}

/// Another id for an answer whose own has too few letters and digits to be given anew: or two tellings of it would have the
/// same before long. Of the same kind, and as long as an id is elsewhere.
#[derive(Debug)]
pub struct LongId {
    /// Its own, with the quotes.
    own: Vec<u8>,
    long: Vec<u8>,
}

impl LongId {
    /// For this answer, of which the beginning is enough if it is a stream; none if its own will do.
    pub fn of(
        endpoint: Endpoint,
        answer: &[u8],
        streamed: bool,
        random: impl FnOnce() -> Option<[u8; RANDOM]>,
    ) -> Option<Self> {
        let read = |object: &[u8]| {
            let id = &object[json::member(object, "id")?];
            let text = id.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
            let plain = !text.contains(&b'\\');
            let varies = text[kind(text)..].iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
            (plain && varies < RANDOM).then(|| id.to_vec())
        };
        let own = if streamed { in_events(endpoint, answer, read) } else { in_whole(endpoint, answer, read) };
        let (own, random) = own.flatten().and_then(|id| Some((id, random()?)))?;
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut long = own[..1 + kind(&own[1..own.len() - 1])].to_vec();
        long.extend(random.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]));
        long.push(b'"');
        Some(Self { own, long })
    }

    /// The answer, or a part of it, with this one in the place of its own.
    #[must_use]
    pub fn put_in(&self, answer: &[u8]) -> Bytes {
        let (mut out, mut copied) = (BytesMut::with_capacity(answer.len() + self.long.len()), 0);
        // Only where it is an id: so short a text may stand for something else elsewhere.
        for name in ID.find_iter(answer) {
            if let Some(at) = value_after(answer, name + 4).filter(|at| answer[*at..].starts_with(&self.own)) {
                out.extend_from_slice(&answer[copied..at]);
                out.extend_from_slice(&self.long);
                copied = at + self.own.len();
            }
        }
        out.extend_from_slice(&answer[copied..]);
        out.freeze()
    }
}

/// Where in an id, without its quotes, ends what says of which kind it is.
fn kind(id: &[u8]) -> usize {
    id.iter().position(|byte| matches!(byte, b'-' | b'_')).map_or(0, |at| at + 1)
}

/// Nor are longer ones.
const LONGEST: usize = 256;

/// Up to so many bytes it is cheaper to copy than to write apart.
const SHORT: usize = 2 << 10;

/// Any second that is written with as many digits as one of our time.
const TEN_DIGITS: u64 = 1_000_000_000;

/// New ones for one telling of an answer.
pub struct Fresh {
    ids: Ids,
    id: Option<Vec<u8>>,
    made: Option<Vec<u8>>,
    /// Looks for the id in one block after the other; made when it is needed.
    finder: OnceLock<Finder<'static>>,
}

impl Fresh {
    /// For an answer with `ids`, told at `now` (seconds since 1970), with `random` bytes.
    pub fn new(ids: &Ids, now: u64, random: u128) -> Self {
        let (id, made) = ids.parts();
        let id = (!id.is_empty()).then(|| another(id, random));
        let now = now.to_string().into_bytes();
        let made = (made.len() == now.len()).then_some(now);
        Self { ids: ids.clone(), id, made, finder: OnceLock::new() }
    }

    /// The time as it stands, and what comes in its place.
    fn made(&self) -> Option<(&[u8], &[u8])> {
        Some((self.ids.parts().1, self.made.as_ref()?))
    }

    /// The whole answer that the ids are of with the new ones; itself if there are none.
    pub fn whole(&self, answer: &Bytes) -> Bytes {
        let places = self.places_in_whole(answer);
        if places.is_empty() {
            return answer.clone();
        }
        let mut out = BytesMut::from(&answer[..]);
        for (at, new) in places {
            out[at..at + new.len()].copy_from_slice(new);
        }
        out.freeze()
    }

    /// Where what stands in the whole answer that the ids are of, in order.
    fn places_in_whole(&self, answer: &[u8]) -> Vec<(usize, &[u8])> {
        let Some(known) = &self.ids.0 else { return Vec::new() };
        let new = |place: &Place| {
            let new = if place.is_id { &self.id } else { &self.made };
            Some((place.at, &new.as_ref()?[..]))
        };
        known.places_in(answer).iter().filter_map(new).collect()
    }

    /// Puts the new ones in the place of the old, with no memory of its own.
    pub fn renew(&self, block: &mut [u8]) {
        let next = |block: &[u8], from: usize, finder: &Finder<'_>| finder.find(&block[from..]).map(|at| from + at);
        if let Some(new) = &self.id {
            let finder = self.finder.get_or_init(|| Finder::new(self.ids.parts().0).into_owned());
            let mut from = 0;
            while let Some(at) = next(block, from, finder) {
                from = at + new.len();
                block[at..from].copy_from_slice(new);
            }
        }
        let Some((old, new)) = self.made() else { return };
        for name in &*MADE_FINDERS {
            let mut from = 0;
            while let Some(at) = next(block, from, name) {
                from = at + name.needle().len();
                if let Some(value) = time_after(block, from, old) {
                    block[value..value + new.len()].copy_from_slice(new);
                }
            }
        }
    }

    /// The whole answer that the ids are of with the new ones, as slices of it with the new ones between: for large ones
    /// with few of them. What is short is copied, so that it goes out with what changes beside it.
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
        for (at, new) in self.places_in_whole(block) {
            share(block.slice(copied..at), &mut short);
            short.extend_from_slice(new);
            copied = at + new.len();
        }
        share(block.slice(copied..), &mut short);
        segments.push(short.freeze());
        segments
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
