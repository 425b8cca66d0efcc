//! Embeddings are kept input by input: of a batch only the inputs that are new are asked for, and the answer is put
//! together from both, in the order and the encoding that were asked for.
//!
//! A vector is kept as the backend wrote it; floats and base64 are made of each other, both being the same 32 bits a
//! number. Backends tell the tokens of a batch in one sum: each input is said to have cost its share of it, by length, so
//! that the shares of a batch add up to what the backend said.

mod item;

use super::control::Status;
use super::entry::Entry;
use super::fill::json_headers;
use super::{Asked, Inner, not_cached};
use crate::cache_key::CacheKey;
use crate::call::{Call, Key};
use crate::exchange::{Exchange, Source};
use crate::filter::{FilterError, Head, ResponseFilter, Result, Verdict};
use crate::json;
use crate::reply::Reply;
use crate::splice::Edits;
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use item::{Encoding, added, data, frame, inputs, item, joined};
use std::ops::Range;
use std::sync::Arc;

/// The largest answer that is put together, in bytes.
const LARGEST: usize = 64 << 20;

/// Answers a request for embeddings as far as they are kept. None if it is to be treated as any other request.
pub(super) async fn request(inner: &Arc<Inner>, exchange: &mut Exchange, asked: &Asked) -> Option<Verdict> {
    let body = exchange.body().clone();
    let encoding = Encoding::of(&body)?;
    let inputs = inputs(&body, exchange.call()?.span(Key::Input)?)?;
    let tenant = inner.settings.scope.tenant(exchange.caller().map(|caller| &**caller))?;
    let apart = ["input", "encoding_format"];
    let shared = inner.keys.shared_key(exchange, &asked.answerer, tenant, &apart)?;
    let key = |input: &Range<usize>| inner.keys.item_key(&shared, &body, input.start);
    let keys: Vec<CacheKey> = inputs.iter().map(key).collect::<Option<_>>()?;
    inner.look_up(&keys).await;
    let mut batch = Batch::new(inner, asked, keys, &inputs, encoding);
    batch.look_up();
    let kept = inputs.len() - batch.missing.len();
    if batch.missing.is_empty() {
        exchange.note("cache", "hit");
        return batch.reply(exchange).map(Verdict::Answer);
    }
    if asked.control.only_if_cached {
        asked.counts.miss.inc();
        return Some(not_cached(exchange));
    }
    if kept > 0 {
        batch.ask_for_the_rest(exchange, &body, &inputs)?;
        batch.saved(exchange);
        asked.counts.partial.inc();
        exchange.note("cache", format!("partial ({kept} of {})", inputs.len()));
    } else {
        asked.counts.miss.inc();
        exchange.note("cache", "miss");
    }
    Some(Verdict::Follow(Box::new(batch)))
}

/// A request for several inputs, some of which are kept.
struct Batch {
    cache: Arc<Inner>,
    asked: Asked,
    keys: Vec<CacheKey>,
    /// How long each input is.
    lengths: Vec<usize>,
    encoding: Encoding,
    /// The kept ones as they are told, and the tokens each is said to have cost.
    kept: Vec<Option<(Vec<u8>, u64)>>,
    missing: Vec<usize>,
    /// What an answer says beside its data and usage, of the first that is kept.
    frame: Bytes,
    recorded: BytesMut,
    /// How long the answer says it is.
    length: Option<usize>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Whole,
    /// So many of them are kept.
    Kept(u64),
    GivenUp(&'static str),
}

impl Batch {
    fn new(
        inner: &Arc<Inner>,
        asked: &Asked,
        keys: Vec<CacheKey>,
        inputs: &[Range<usize>],
        encoding: Encoding,
    ) -> Self {
        let lengths = inputs.iter().map(Range::len).collect();
        Self {
            cache: inner.clone(),
            asked: asked.clone(),
            kept: vec![None; keys.len()],
            keys,
            lengths,
            encoding,
            missing: Vec::new(),
            frame: Bytes::new(),
            recorded: BytesMut::new(),
            length: None,
            state: State::Running,
        }
    }

    fn look_up(&mut self) {
        for index in 0..self.keys.len() {
            let entry = self.cache.memory.get(&self.keys[index]);
            let good = entry.filter(|entry| entry.is_fresh() && self.asked.control.takes(entry.age()));
            let told = good.and_then(|entry| {
                let item = item(&entry.plain()?, index, self.encoding)?;
                if self.frame.is_empty() {
                    self.frame = entry.frame();
                }
                Some((item, entry.usage.and_then(|usage| usage.prompt).unwrap_or(0)))
            });
            match told {
                Some(told) => self.kept[index] = Some(told),
                None => self.missing.push(index),
            }
        }
    }

    /// The tokens that the kept ones have cost.
    fn saved(&self, exchange: &Exchange) -> u64 {
        let tokens = self.kept.iter().flatten().map(|(_, tokens)| tokens).sum();
        self.cache.saved(exchange, &self.asked, Some(&Usage { prompt: Some(tokens), ..Usage::default() }));
        tokens
    }

    /// The answer, if all of it is kept.
    fn reply(&self, exchange: &Exchange) -> Option<Reply> {
        let items: Option<Vec<&[u8]>> = self.kept.iter().map(|kept| kept.as_ref().map(|(item, _)| &item[..])).collect();
        let items = items?;
        let tokens = self.saved(exchange);
        let usage = format!("{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}");
        let body = joined(&self.frame, &items, usage.as_bytes());
        let settings = &self.cache.settings;
        let mut reply = Reply::new(StatusCode::OK, json_headers(), body).stands_for(Source::Cache, settings.charge);
        reply.usage = Some(Usage { prompt: Some(tokens), ..Usage::default() });
        self.asked.counts.hit.inc();
        if settings.http {
            // As old as the oldest, and good for as long as the first to go.
            let entries = self.keys.iter().filter_map(|key| self.cache.memory.get(key));
            let (age, ttl) =
                entries.fold((0, i64::MAX), |(age, ttl), entry| (entry.age().as_secs().max(age), entry.ttl().min(ttl)));
            Status::Hit { ttl, detail: None }.write(&mut reply.headers);
            reply.headers.insert(http::header::AGE, age.into());
        }
        Some(reply)
    }

    /// Leaves of the request's inputs those that are missing.
    fn ask_for_the_rest(&self, exchange: &mut Exchange, body: &Bytes, inputs: &[Range<usize>]) -> Option<()> {
        let rest: Vec<&[u8]> = self.missing.iter().map(|index| &body[inputs[*index].clone()]).collect();
        let input = [b"[", &rest.join(&b',')[..], b"]"].concat();
        let mut edits = Edits::default();
        edits.set_key(exchange.call()?, Key::Input, std::str::from_utf8(&input).ok()?).ok()?;
        let edited = edits.apply(body).ok()?;
        let call = Call::read(&edited, exchange.endpoint()).ok()?;
        exchange.replace_body(edited, Some(call));
        Some(())
    }

    fn is_partial(&self) -> bool {
        self.missing.len() < self.keys.len()
    }

    /// The answer of the backend and what is kept, as one.
    fn merged(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let fetched = data(answer, self.missing.len())?;
        let mut items = Vec::with_capacity(self.keys.len());
        let mut fetched = fetched.into_iter();
        let mut owned = Vec::with_capacity(self.missing.len());
        for index in &self.missing {
            owned.push(item(fetched.next()?, *index, self.encoding)?);
        }
        let mut fetched = owned.iter();
        for kept in &self.kept {
            items.push(match kept {
                Some((item, _)) => &item[..],
                None => &fetched.next()?[..],
            });
        }
        let more: u64 = self.kept.iter().flatten().map(|(_, tokens)| tokens).sum();
        let usage = json::member(answer, "usage").map(|at| added(&answer[at], more));
        Some(joined(&frame(answer), &items, &usage.unwrap_or_else(|| b"null".to_vec())))
    }

    /// Keeps what was fetched.
    fn keep(&self) -> std::result::Result<u64, &'static str> {
        let answer = &self.recorded[..];
        let fetched = data(answer, self.missing.len()).ok_or("incomplete")?;
        let frame = Bytes::from(frame(answer));
        let total = Usage::from_answer(answer).and_then(|usage| usage.prompt);
        let lengths: Vec<u64> = self.missing.iter().map(|index| self.lengths[*index] as u64).collect();
        let all = lengths.iter().sum::<u64>().max(1);
        let (mut passed, mut answers) = (0, Vec::with_capacity(lengths.len()));
        for ((index, vector), length) in self.missing.iter().zip(fetched).zip(lengths) {
            let until = |at: u64| total.map(|total| (u128::from(total) * u128::from(at) / u128::from(all)) as u64);
            let share = until(passed + length).zip(until(passed)).map(|(to, from)| to - from);
            passed += length;
            let usage = share.map(|share| Usage { prompt: Some(share), ..Usage::default() });
            let entry = Entry::item(self.asked.label.clone(), Bytes::copy_from_slice(vector), frame.clone(), usage);
            answers.push((self.keys[*index], entry));
        }
        self.cache.keep(answers);
        Ok(self.missing.len() as u64)
    }
}

impl ResponseFilter for Batch {
    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        self.length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        if exchange.source() != Source::Backend || head.status != StatusCode::OK {
            self.state = State::GivenUp("error");
        } else if exchange.answerer() != Some(&self.asked.answerer) {
            // What is kept is another model's, and must not be mixed with this one's.
            self.state = State::GivenUp("elsewhere");
            if self.is_partial() {
                return Err(FilterError("the rest of a batch was answered by another model".to_owned()));
            }
        }
        if self.cache.settings.http {
            let (kept, all) = (self.keys.len() - self.missing.len(), self.keys.len());
            let (why, detail) =
                if kept > 0 { ("partial", Some(format!("{kept} of {all} kept"))) } else { ("miss", None) };
            Status::Fetched { why, stored: self.state == State::Running, detail }.write(&mut head.headers);
        }
        Ok(())
    }

    fn chunk(&mut self, _: &mut Exchange, data: &mut Bytes, last: bool) -> Result<()> {
        if self.state != State::Running {
            return Ok(());
        }
        if self.recorded.len() + data.len() > LARGEST {
            self.state = State::GivenUp("large");
            self.recorded = BytesMut::new();
            return if self.is_partial() {
                Err(FilterError("the rest of a batch is too large".to_owned()))
            } else {
                Ok(())
            };
        }
        self.recorded.extend_from_slice(data);
        // In one piece it has been checked, and its client may ask again before `end` is called.
        let is_over = self.recorded.len() == data.len() && self.length == Some(data.len());
        if self.is_partial() {
            *data = Bytes::new();
        }
        if is_over {
            self.state = self.keep().map_or_else(State::GivenUp, State::Kept);
        } else if last {
            self.state = State::Whole;
        }
        if (is_over || last) && self.is_partial() {
            let none = || FilterError("the backend did not answer what was asked of a batch".to_owned());
            *data = self.merged(&self.recorded).ok_or_else(none)?.into();
        }
        Ok(())
    }

    fn rewrites(&self) -> bool {
        self.is_partial()
    }

    fn end(self: Box<Self>, exchange: &Exchange) {
        let complete = exchange.outcome().is_some_and(|outcome| outcome.complete);
        let kept = match self.state {
            State::Whole if complete => self.keep(),
            State::Kept(count) => Ok(count),
            State::GivenUp(why) => Err(why),
            _ => Err("incomplete"),
        };
        match kept {
            Ok(kept) => self.asked.counts.stores.inc_by(kept),
            Err(why) => self.cache.counts.not_stored(why),
        }
    }
}
