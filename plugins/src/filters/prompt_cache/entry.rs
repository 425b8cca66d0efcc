//! An answer as it is kept, and how it is told again: as it came, or in its other form.
//!
//! A whole answer is kept as its bytes, a stream as what differs from one block of its events to the next, without the
//! event that has the usage and the end mark, which are kept beside it: whoever asked for the usage gets them all. What is
//! told again in the form it came in is the same bytes, shared where it is a whole answer; only ids and times are other
//! ones, unless the original ones are wanted.

use super::packed;
use super::recorded::Pieces;
use super::replay::{self, Part, Replay};
use super::settings::IdsAre;
use super::transcript::Parts;
use crate::call::Endpoint;
use crate::forms::{self, Fresh, Ids, Shape};
use crate::reply::Body;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Which form an answer came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    Events,
    /// One item of an embedding, as JSON.
    Item,
}

/// Whose an answer is and what it is good for.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub endpoint: Endpoint,
    /// `org/acme`.
    pub tenant: Arc<str>,
    /// The entry of `models` that was asked.
    pub route: Arc<str>,
    /// How long it is good for.
    pub good_for: Duration,
    /// How long it is kept.
    pub keep_for: Duration,
}

/// A kept answer.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub label: Label,
    pub form: Form,
    made: Instant,
    /// How old it was then: what comes back from a file was made before this process was.
    older: Duration,
    pub usage: Option<Usage>,
    pub(super) data: Data,
    /// The event that has the usage, of a stream that has one.
    pub(super) usage_event: Bytes,
    /// The end mark of a stream; of an item, what the answer said beside its data.
    pub(super) end: Bytes,
    pub(super) content_type: HeaderValue,
    pub(super) ids: Ids,
    /// Whether a new one is being fetched.
    renewing: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    Plain(Bytes),
    /// The blocks of a stream, as what differs from one to the next.
    Pieces(Pieces),
    /// In compressed frames, and how long it is otherwise.
    Packed(Bytes, usize),
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub stream: bool,
    /// The usage, in a stream that has it only if asked for.
    pub usage: bool,
}

/// How answers are told again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub ids: IdsAre,
    pub pace: u32,
}

/// What an entry costs beside its bytes: its own fields, the key, and what the cache has for each.
const OVERHEAD: usize = 1000;

/// Up to this size an answer is told in one piece, copied if it has to be.
const SMALL: usize = 16 << 10;

/// About how much text an event has that is made from a whole answer and told at once; a word or two if it is paced.
const PIECE: usize = 512;
const WORD: usize = 1;

impl Entry {
    /// A whole answer that has cost so much.
    pub(super) fn whole(label: Label, content_type: HeaderValue, body: Bytes, usage: Option<Usage>) -> Self {
        let ids = Ids::of_whole(label.endpoint, &body);
        Self::new(label, Form::Whole, body, (Bytes::new(), Bytes::new()), (content_type, ids, usage))
    }

    /// A stream that was whole, and what it has cost.
    pub(super) fn events(label: Label, content_type: HeaderValue, parts: Parts, usage: Option<Usage>) -> Self {
        let Parts { events, usage_event, end, ids } = parts;
        let data = Data::Pieces(events);
        Self::again(label, Form::Events, Duration::ZERO, usage, data, (usage_event, end), (content_type, ids))
    }

    /// One item of an embedding.
    pub(super) fn item(label: Label, item: Bytes, frame: Bytes, usage: Option<Usage>) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self::new(label, Form::Item, item, (Bytes::new(), frame), (json, Ids::default(), usage))
    }

    fn new(
        label: Label,
        form: Form,
        data: Bytes,
        (usage_event, end): (Bytes, Bytes),
        (content_type, ids, usage): (HeaderValue, Ids, Option<Usage>),
    ) -> Self {
        Self::again(label, form, Duration::ZERO, usage, Data::Plain(data), (usage_event, end), (content_type, ids))
    }

    /// One that was kept elsewhere and is `age` old.
    pub(super) fn again(
        label: Label,
        form: Form,
        older: Duration,
        usage: Option<Usage>,
        data: Data,
        (usage_event, end): (Bytes, Bytes),
        (content_type, ids): (HeaderValue, Ids),
    ) -> Self {
        let (made, renewing) = (Instant::now(), Arc::default());
        Self { label, form, made, older, usage, data, usage_event, end, content_type, ids, renewing }
    }

    /// Bytes it holds, all told.
    pub(super) fn weight(&self) -> usize {
        OVERHEAD + self.held() + self.usage_event.len() + self.end.len() + self.ids.size()
    }

    /// Bytes that its data is kept in.
    pub(super) fn held(&self) -> usize {
        match &self.data {
            Data::Plain(data) | Data::Packed(data, _) => data.len(),
            Data::Pieces(pieces) => pieces.held(),
        }
    }

    /// What the answer that an item comes from said beside its data.
    pub(super) fn frame(&self) -> Bytes {
        self.end.clone()
    }

    /// Whether nobody is fetching a new one yet; from now on somebody is.
    pub(super) fn begin_renewal(&self) -> bool {
        !self.renewing.swap(true, Ordering::Relaxed)
    }

    /// It did not come: somebody else may try.
    pub(super) fn end_renewal(&self) {
        self.renewing.store(false, Ordering::Relaxed);
    }

    pub(super) fn age(&self) -> Duration {
        self.older + self.made.elapsed()
    }

    /// How many seconds it is good for from now on; less than none if its time is over.
    pub(super) fn ttl(&self) -> i64 {
        let signed = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let (age, good) = (self.age(), self.label.good_for);
        if age <= good { signed(good - age) } else { -signed(age - good).max(1) }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.age() <= self.label.good_for
    }

    /// Compressed, if that makes it smaller.
    pub(super) fn packed(&self) -> Option<Self> {
        let data = match &self.data {
            Data::Plain(data) => data.clone(),
            Data::Pieces(pieces) => pieces.whole(),
            Data::Packed(..) => return None,
        };
        let packed = packed::pack(&data, self.form, &self.ids).filter(|packed| packed.len() < self.held() / 8 * 7)?;
        Some(Self { data: Data::Packed(packed, data.len()), ..self.clone() })
    }

    /// Bytes of it as it is told.
    pub(super) fn size(&self) -> usize {
        match &self.data {
            Data::Plain(data) => data.len(),
            Data::Pieces(pieces) => pieces.len(),
            Data::Packed(_, size) => *size,
        }
    }

    /// What is kept, as it came. None never, unless memory is broken.
    pub(super) fn plain(&self) -> Option<Bytes> {
        match &self.data {
            Data::Plain(data) => Some(data.clone()),
            Data::Pieces(pieces) => Some(pieces.whole()),
            Data::Packed(data, size) => zstd::bulk::decompress(data, *size).ok().map(Bytes::from),
        }
    }

    /// The answer as it is wanted: headers and body. None if it cannot be told so, because the usage is not known.
    pub(super) fn tell(&self, wanted: Wanted, manner: Manner) -> Option<(HeaderMap, Body)> {
        let endpoint = self.label.endpoint;
        let asked_apart = forms::asks_for_usage(endpoint);
        let fresh = (manner.ids.are_fresh(endpoint) && !self.ids.is_empty()).then(|| self.fresh());
        match (self.form, wanted.stream && forms::streams(endpoint)) {
            (Form::Whole, false) => {
                Some(replay::whole(self.kept(), self.size(), fresh, self.content_type.clone(), SMALL))
            }
            (Form::Whole, true) => {
                if wanted.usage && self.usage.is_none() {
                    return None;
                }
                let piece = if manner.pace > 0 { WORD } else { PIECE };
                let events = forms::events(endpoint, &self.plain()?, Shape { usage: wanted.usage, piece })?;
                let parts = events.into_iter().map(Part::Plain).collect();
                Some((stream_headers(), self.stream(parts, fresh, manner, false)))
            }
            (Form::Events, true) => {
                if asked_apart && wanted.usage && self.usage_event.is_empty() {
                    return None;
                }
                let usage = if wanted.usage { self.usage_event.clone() } else { Bytes::new() };
                let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, self.content_type.clone())]);
                let parts = vec![self.kept(), Part::Plain(usage), Part::Plain(self.end.clone())];
                let silent = asked_apart && !wanted.usage;
                Some((headers, self.stream(parts, fresh, manner, silent)))
            }
            (Form::Events, false) => {
                if asked_apart && self.usage_event.is_empty() {
                    return None;
                }
                let stream = [&self.plain()?[..], &self.usage_event, &self.end].concat();
                let whole = forms::whole(endpoint, &stream)?;
                let json = HeaderValue::from_static("application/json");
                let size = whole.len();
                Some(replay::whole(Part::Plain(whole), size, fresh, json, usize::MAX))
            }
            (Form::Item, _) => None,
        }
    }

    /// What is kept, as it is kept.
    fn kept(&self) -> Part {
        match &self.data {
            Data::Plain(data) => Part::Plain(data.clone()),
            Data::Pieces(pieces) => Part::Pieces(pieces.clone().telling()),
            Data::Packed(data, _) => Part::Packed(data.clone()),
        }
    }

    /// As events; to those who did not ask for the usage, silent about it.
    fn stream(&self, parts: Vec<Part>, fresh: Option<Fresh>, manner: Manner, silent: bool) -> Body {
        let replay = Replay::new(parts, fresh, manner.pace, self.usage);
        Body::Pieces(Box::new(if silent { replay.without_usage() } else { replay }))
    }

    fn fresh(&self) -> Fresh {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut random = [0; 16];
        // Without random numbers ids are the same again and again, and still no others' ids.
        let _ = getrandom::fill(&mut random);
        Fresh::new(&self.ids, now, u128::from_le_bytes(random))
    }
}

fn stream_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))])
}
