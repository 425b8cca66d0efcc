//! Follows an answer that had to be fetched, and keeps it if it was complete.

use super::control::{Status, forbids};
use super::entry::{Entry, Label};
use super::recorded::Recorded;
use super::transcript::Transcript;
use super::{Asked, Inner};
use crate::cache_key::CacheKey;
use crate::call::Endpoint;
use crate::events::was_filtered;
use crate::exchange::{Exchange, Source};
use crate::filter::{Always, Audience, Head, ResponseFilter, Result};
use crate::forms::{self, LongId};
use crate::reply::Reply;
use crate::usage::Usage;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::sync::Arc;

/// Says that the cache had nothing to do with an answer.
pub(super) struct Bypassed(pub &'static str);

impl ResponseFilter for Bypassed {
    fn head(&mut self, _: &mut Exchange, head: &mut Head) -> Result<()> {
        Status::Bypass { why: self.0 }.write(&mut head.headers);
        Ok(())
    }
}

/// Keeps an answer.
pub(super) struct Fill {
    cache: Arc<Inner>,
    asked: Asked,
    key: CacheKey,
    /// Why it had to be fetched.
    why: &'static str,
    /// What was kept and is too old, for when there is nothing better.
    old: Option<Arc<Entry>>,
    content_type: Option<HeaderValue>,
    /// How long a whole answer says it is.
    length: Option<usize>,
    taken: Taken,
    /// The whole answer, if that was looked at before and no backend's filter has cut it short.
    uncut: Bytes,
    state: State,
}

/// What has come of the answer.
enum Taken {
    Nothing,
    Whole(Recorded),
    Stream(Box<Transcript>),
}

impl Taken {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Whole(recorded) => recorded.len(),
            Self::Stream(transcript) => transcript.len(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Being recorded.
    Running,
    /// All of it has been seen.
    Whole,
    /// Kept.
    Kept,
    /// Not to be kept, and why.
    GivenUp(&'static str),
}

impl Fill {
    pub(super) fn new(
        cache: Arc<Inner>,
        asked: Asked,
        key: CacheKey,
        why: &'static str,
        old: Option<Arc<Entry>>,
    ) -> Self {
        let endpoint = asked.label.endpoint;
        let taken = if asked.wanted.stream && forms::streams(endpoint) {
            let lengthen = cache.settings.ids.are_fresh(endpoint);
            Taken::Stream(Box::new(Transcript::new(endpoint, lengthen)))
        } else {
            Taken::Whole(Recorded::default())
        };
        let (uncut, state) = (Bytes::new(), State::Running);
        Self { cache, asked, key, why, old, content_type: None, length: None, taken, uncut, state }
    }

    fn give_up(&mut self, why: &'static str) {
        if self.state == State::Running {
            self.state = State::GivenUp(why);
            (self.taken, self.uncut) = (Taken::Nothing, Bytes::new());
        }
    }

    /// Whether this piece ends the answer, so that its client may ask again before `end` is called, and is to find it. A
    /// whole answer in one piece has been checked; of a stream the end mark says so.
    fn is_over(&self, exchange: &Exchange, piece: &[u8]) -> bool {
        match &self.taken {
            Taken::Stream(..) => ends_stream(exchange.endpoint(), piece),
            taken => taken.len() == piece.len() && self.length == Some(piece.len()),
        }
    }

    /// Why an answer with this head is not kept.
    fn objection(&self, exchange: &Exchange, head: &Head) -> Option<&'static str> {
        if exchange.source() == Source::Flight {
            // The one who has it fetched keeps it.
            return Some("flight");
        }
        if exchange.source() != Source::Backend || head.status != StatusCode::OK {
            return Some("error");
        }
        // A fallback has answered, or a filter has sent it elsewhere: the key is another's.
        if exchange.answerer() != Some(&self.asked.answerer) {
            return Some("elsewhere");
        }
        if forbids(&head.headers) {
            return Some("no-store");
        }
        (self.length.map(|length| length as u64) > Some(self.cache.settings.max_entry.0)).then_some("large")
    }

    /// Keeps what has come.
    fn keep(&mut self, exchange: &Exchange) -> std::result::Result<(), &'static str> {
        let Some(content_type) = self.content_type.take() else { return Err("error") };
        let label = self.asked.label.clone();
        let entry = match std::mem::replace(&mut self.taken, Taken::Nothing) {
            Taken::Nothing => return Err("incomplete"),
            Taken::Whole(recorded) => self.whole_answer(label, content_type, recorded.whole(), exchange.spent())?,
            Taken::Stream(transcript) => {
                // Where nobody has changed it, the gateway has read it on the way here.
                let (parts, end) = match transcript.is_as_shown() {
                    true => (transcript.parts(), exchange.stream_end()),
                    false => transcript.ending(exchange.call().and_then(|call| call.n).unwrap_or(1)),
                };
                let end = end.ok_or("incomplete")?;
                if end.was_filtered {
                    return Err("filtered");
                }
                Entry::events(label, content_type, parts, end.usage)
            }
        };
        self.cache.keep(vec![(self.key, entry)]);
        Ok(())
    }

    fn whole_answer(
        &self,
        label: Label,
        content_type: HeaderValue,
        mut answer: Bytes,
        spent: Option<Usage>,
    ) -> std::result::Result<Entry, &'static str> {
        let is_uncut = answer.as_ptr_range() == self.uncut.as_ptr_range();
        if !is_uncut && was_filtered(&answer) {
            return Err("filtered");
        }
        if self.cache.settings.ids.are_fresh(label.endpoint)
            && let Some(long) = LongId::of(label.endpoint, &answer, false, forms::random)
        {
            answer = long.put_in(&answer);
        }
        // Mostly it has been read on the way here.
        let usage = spent.filter(|usage| !usage.estimated).or_else(|| Usage::from_answer(&answer));
        Ok(Entry::whole(label, content_type, answer, usage))
    }
}

impl ResponseFilter for Fill {
    fn whole(&mut self, _: &mut Exchange, answer: &Bytes) {
        if was_filtered(answer) {
            self.give_up("filtered");
        } else if self.state == State::Running {
            self.uncut = answer.clone();
        }
    }

    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        let length = head.headers.get(header::CONTENT_LENGTH);
        self.length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        if exchange.source() == Source::Flight {
            exchange.note("cache", "collapsed");
        }
        if let Some(why) = self.objection(exchange, head) {
            self.give_up(why);
        }
        self.content_type = head.headers.get(header::CONTENT_TYPE).cloned();
        // A kept answer in the place of a failure says for itself what it is.
        if self.cache.settings.http && matches!(exchange.source(), Source::Backend | Source::Gateway) {
            Status::Fetched { why: self.why, stored: self.state == State::Running, detail: None }
                .write(&mut head.headers);
        }
        Ok(())
    }

    fn chunk(&mut self, exchange: &mut Exchange, data: &mut Bytes, last: bool) -> Result<()> {
        // Two backends made it, and neither would have made the whole of it so.
        if exchange.is_resumed() {
            self.give_up("resumed");
        }
        if self.state == State::Running {
            if (self.taken.len() + data.len()) as u64 > self.cache.settings.max_entry.0 {
                self.give_up("large");
                return Ok(());
            }
            match &mut self.taken {
                Taken::Nothing => {}
                Taken::Whole(recorded) => recorded.push(data),
                Taken::Stream(transcript) => transcript.push(data, exchange.piece(data)),
            }
            if self.is_over(exchange, data) {
                let kept = self.keep(exchange);
                self.state = kept.map_or_else(State::GivenUp, |()| State::Kept);
            } else if last {
                self.state = State::Whole;
            }
        }
        Ok(())
    }

    fn audience(&self) -> Option<Arc<dyn Audience>> {
        self.cache.settings.finish.then(|| Arc::new(Always) as Arc<dyn Audience>)
    }

    fn instead(&mut self, exchange: &mut Exchange, status: StatusCode, said: Option<StatusCode>) -> Option<Reply> {
        let old = self.old.take().filter(|old| self.cache.stands_in(old, &self.asked.control))?;
        let status_line = Status::Instead { ttl: old.ttl(), why: self.why, status: said };
        let reply = self.cache.told(&old, self.asked.wanted, &status_line)?;
        self.asked.counts.stale.inc();
        exchange.note("cache_instead_of", status.as_str());
        self.give_up("error");
        Some(reply)
    }

    fn end(mut self: Box<Self>, exchange: &Exchange) {
        if self.state == State::Whole && !exchange.outcome().is_some_and(|outcome| outcome.complete) {
            self.state = State::GivenUp("incomplete");
        }
        let kept = match self.state {
            State::Whole => self.keep(exchange),
            State::Kept => Ok(()),
            State::Running => Err("incomplete"),
            State::GivenUp(why) => Err(why),
        };
        match kept {
            Ok(()) => self.asked.counts.stores.inc(),
            Err(why) => self.cache.counts.not_stored(why),
        }
    }
}

/// A renewal that ends as it may, and a fill that is dropped: the next one may try again.
impl Drop for Fill {
    fn drop(&mut self) {
        if self.why == "stale"
            && let Some(entry) = self.cache.memory.get(&self.key)
        {
            entry.end_renewal();
        }
    }
}

/// Whether this block of events ends its stream.
fn ends_stream(endpoint: Endpoint, block: &[u8]) -> bool {
    let rest = block.trim_ascii_end();
    let named = |names: &[&[u8]]| {
        let is_blank = |at: &usize| rest[..*at].ends_with(b"\n") || rest[..*at].ends_with(b"\n\r");
        let start = memchr::memrchr_iter(b'\n', rest).find(is_blank).unwrap_or(0);
        let last = &rest[start..rest.len().min(start + 128)];
        names.iter().any(|name| memchr::memmem::find(last, name).is_some())
    };
    match endpoint {
        Endpoint::Messages => named(&[b"message_stop"]),
        Endpoint::Responses => named(&[b"response.completed", b"response.incomplete"]),
        _ => rest.ends_with(b"[DONE]"),
    }
}

/// The headers of a JSON answer.
pub(super) fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}
