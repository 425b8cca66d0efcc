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
use super::{Asked, Inner, not_cached, told};
use crate::cache_key::CacheKey;
use crate::call::{Call, Endpoint, Key};
use crate::exchange::{Exchange, Source};
use crate::filter::{FilterError, Head, ResponseFilter, Result, Verdict};
use crate::json;
use crate::reply::Reply;
use crate::splice::Edits;
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use item::{Encoding, added, data, frame, inputs, item, joined};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The largest answer that is put together, in bytes.
const LARGEST: usize = 64 << 20;

/// Keys of a batch that the log has.
const LOGGED: usize = 8;

/// The keys of a request's inputs. None if it is to be treated as any other request.
pub(super) fn keys(inner: &Inner, exchange: &Exchange, asked: &Asked) -> Option<Vec<CacheKey>> {
    if exchange.endpoint() != Endpoint::Embeddings {
        return None;
    }
    let body = exchange.body();
    Encoding::of(body)?;
    let inputs = inputs(body, exchange.call()?.span(Key::Input)?)?;
    let tenant = inner.settings.scope.tenant(exchange.caller().map(|caller| &**caller))?;
    let apart = ["input", "encoding_format"];
    let shared = inner.keys.shared_key(exchange, &asked.answerer, tenant, &apart)?;
    inputs.iter().map(|input| inner.keys.item_key(&shared, body, input.start)).collect()
}

/// Answers a request for embeddings as far as they are kept. None if it is to be treated as any other request.
pub(super) async fn request(inner: &Arc<Inner>, exchange: &mut Exchange, asked: &Asked) -> Option<Verdict> {
    let keys = keys(inner, exchange, asked)?;
    let body = exchange.body().clone();
    let encoding = Encoding::of(&body)?;
    let inputs = inputs(&body, exchange.call()?.span(Key::Input)?)?;
    exchange.note("cache_key", told(&keys, LOGGED));
    inner.look_up(&keys).await;
    let mut batch = Batch::new(inner, asked, keys, &inputs, encoding);
    batch.look_up();
    let kept = batch.kept.iter().flatten().count();
    if batch.missing.is_empty() {
        exchange.note("cache", "hit");
        asked.counts.hit.inc();
        return batch.reply(exchange, None).map(Verdict::Answer);
    }
    if asked.control.only_if_cached {
        asked.counts.miss.inc();
        return Some(not_cached(exchange));
    }
    if batch.is_partial() {
        batch.ask_for_the_rest(exchange, &body, &inputs)?;
    }
    if kept > 0 {
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
    /// Those that are kept and too old, for when there is nothing better.
    old: Vec<Option<Arc<Entry>>>,
    /// Those to be asked for: of several that are the same, the first.
    missing: Vec<usize>,
    /// Which of the missing each input is, of those that are not kept.
    place: Vec<usize>,
    /// What an answer says beside its data and usage, of the first that is kept.
    frame: Bytes,
    recorded: BytesMut,
    /// How long the answer says it is.
    length: Option<usize>,
    /// Why what is fetched is not kept.
    objection: Option<&'static str>,
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
            old: vec![None; keys.len()],
            place: vec![0; keys.len()],
            keys,
            lengths,
            encoding,
            missing: Vec::new(),
            frame: Bytes::new(),
            recorded: BytesMut::new(),
            length: None,
            objection: None,
            state: State::Running,
        }
    }

    fn look_up(&mut self) {
        let mut places: HashMap<CacheKey, usize> = HashMap::new();
        for index in 0..self.keys.len() {
            let key = self.keys[index];
            let entry = self.cache.memory.get(&key);
            let good = entry.as_ref().filter(|entry| entry.is_fresh() && self.asked.control.takes(entry.age()));
            if let Some(told) = good.and_then(|entry| self.told(entry, index)) {
                self.kept[index] = Some(told);
                continue;
            }
            self.old[index] = entry;
            self.place[index] = *places.entry(key).or_insert_with(|| {
                self.missing.push(index);
                self.missing.len() - 1
            });
        }
    }

    /// A kept one as it is told at its place, and the tokens that it is said to have cost.
    fn told(&mut self, entry: &Entry, index: usize) -> Option<(Vec<u8>, u64)> {
        let item = item(&entry.plain()?, index, self.encoding)?;
        if self.frame.is_empty() {
            self.frame = entry.frame();
        }
        Some((item, entry.usage.and_then(|usage| usage.prompt).unwrap_or(0)))
    }

    /// The tokens that the kept ones have cost.
    fn saved(&self, exchange: &Exchange) -> u64 {
        let tokens = self.kept.iter().flatten().map(|(_, tokens)| tokens).sum();
        self.cache.saved(exchange, &self.asked, Some(&Usage { prompt: Some(tokens), ..Usage::default() }));
        tokens
    }

    /// The answer, if all of it is kept. It may be one that stands in for a failure.
    fn reply(&self, exchange: &Exchange, instead: Option<(&'static str, Option<StatusCode>)>) -> Option<Reply> {
        let items: Option<Vec<&[u8]>> = self.kept.iter().map(|kept| kept.as_ref().map(|(item, _)| &item[..])).collect();
        let items = items?;
        let tokens = self.saved(exchange);
        let usage = format!("{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}");
        let body = joined(&self.frame, &items, usage.as_bytes());
        let settings = &self.cache.settings;
        let mut reply = Reply::new(StatusCode::OK, json_headers(), body).stands_for(Source::Cache, settings.charge);
        reply.usage = Some(Usage { prompt: Some(tokens), ..Usage::default() });
        if settings.http {
            // As old as the oldest, and good for as long as the first to go.
            let entries = self.keys.iter().filter_map(|key| self.cache.memory.get(key));
            let (age, ttl) =
                entries.fold((0, i64::MAX), |(age, ttl), entry| (entry.age().as_secs().max(age), entry.ttl().min(ttl)));
            match instead {
                None => Status::Hit { ttl, detail: None }.write(&mut reply.headers),
                Some((why, status)) => Status::Instead { ttl, why, status }.write(&mut reply.headers),
            }
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

    /// Whether the backend is asked for less than the client has asked for.
    fn is_partial(&self) -> bool {
        self.missing.len() < self.keys.len()
    }

    /// Why a backend is asked.
    fn why(&self) -> &'static str {
        if self.kept.iter().any(Option::is_some) { "partial" } else { "miss" }
    }

    /// What each of those that were asked for is said to have cost: its share of the sum, by length.
    fn shares(&self, answer: &[u8]) -> Option<Vec<u64>> {
        let total = Usage::from_answer(answer).and_then(|usage| usage.prompt)?;
        let length = |index: &usize| self.lengths[*index] as u64;
        let all = self.missing.iter().map(length).sum::<u64>().max(1);
        let until = |at: u64| (u128::from(total) * u128::from(at) / u128::from(all)) as u64;
        let mut passed = 0;
        let share = |index| {
            let from = passed;
            passed += length(index);
            until(passed) - until(from)
        };
        Some(self.missing.iter().map(share).collect())
    }

    /// The answer of the backend and what is kept, as one.
    fn merged(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let fetched = data(answer, self.missing.len())?;
        let shares = self.shares(answer).unwrap_or_default();
        let (mut owned, mut more) = (Vec::with_capacity(self.keys.len()), 0);
        for (index, kept) in self.kept.iter().enumerate() {
            let place = self.place[index];
            owned.push(match kept {
                Some((item, tokens)) => {
                    more += tokens;
                    Cow::Borrowed(&item[..])
                }
                None => {
                    // The sum has only the first of several that are the same.
                    let again = self.missing[place] != index;
                    more += shares.get(place).filter(|_| again).unwrap_or(&0);
                    Cow::Owned(item(fetched.get(place)?, index, self.encoding)?)
                }
            });
        }
        let items: Vec<&[u8]> = owned.iter().map(|item| &item[..]).collect();
        let usage = json::member(answer, "usage").map(|at| added(&answer[at], more));
        Some(joined(&frame(answer), &items, &usage.unwrap_or_else(|| b"null".to_vec())))
    }

    /// Keeps what was fetched.
    fn keep(&self) -> std::result::Result<u64, &'static str> {
        let answer = &self.recorded[..];
        self.objection.map_or(Ok(()), Err)?;
        let fetched = data(answer, self.missing.len()).ok_or("incomplete")?;
        let (frame, shares) = (Bytes::from(frame(answer)), self.shares(answer));
        let mut answers = Vec::with_capacity(fetched.len());
        for (place, (index, vector)) in self.missing.iter().zip(fetched).enumerate() {
            let share = shares.as_ref().map(|shares| shares[place]);
            let usage = share.map(|share| Usage { prompt: Some(share), ..Usage::default() });
            let entry = Entry::item(self.asked.label.clone(), Bytes::copy_from_slice(vector), frame.clone(), usage);
            answers.push((self.keys[*index], entry));
        }
        self.cache.keep(answers);
        Ok(self.missing.len() as u64)
    }
}

impl ResponseFilter for Batch {
    fn whole(&mut self, _: &mut Exchange, answer: &Bytes) {
        if data(answer, self.missing.len()).is_none() {
            self.objection = Some("incomplete");
        }
    }

    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        self.length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        if exchange.source() != Source::Backend || head.status != StatusCode::OK {
            self.state = State::GivenUp("error");
        } else if exchange.answerer() != Some(&self.asked.answerer) {
            // What is kept is another model's, and must not be mixed with this one's.
            self.objection = Some("elsewhere");
            if self.why() == "partial" {
                return Err(FilterError("the rest of a batch was answered by another model".to_owned()));
            }
        }
        // A kept answer in the place of a failure says for itself what it is.
        if self.cache.settings.http && matches!(exchange.source(), Source::Backend | Source::Gateway) {
            let (kept, all) = (self.kept.iter().flatten().count(), self.keys.len());
            let (why, detail) = (self.why(), (kept > 0).then(|| format!("{kept} of {all} kept")));
            let stored = self.state == State::Running && self.objection.is_none();
            Status::Fetched { why, stored, detail }.write(&mut head.headers);
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

    fn instead(&mut self, exchange: &mut Exchange, status: StatusCode, said: Option<StatusCode>) -> Option<Reply> {
        let why = if self.why() == "miss" { "stale" } else { self.why() };
        let old = std::mem::take(&mut self.old);
        for (index, old) in old.into_iter().enumerate() {
            if self.kept[index].is_some() {
                continue;
            }
            let old = old.filter(|old| self.cache.stands_in(old, &self.asked.control))?;
            self.kept[index] = Some(self.told(&old, index)?);
        }
        self.asked.counts.stale.inc();
        exchange.note("cache_instead_of", status.as_str());
        self.reply(exchange, Some((why, said)))
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
