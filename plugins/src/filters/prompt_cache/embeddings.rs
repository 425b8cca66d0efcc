//! Embeddings are kept input by input: of a batch only the inputs that are new are asked for, and the answer is put
//! together from both, in the order and the encoding that were asked for.
//!
//! A vector is kept as the backend wrote it; floats and base64 are made of each other, both being the same 32 bits a
//! number. Backends tell the tokens of a batch in one sum: each input is said to have cost its share of it, by length, so
//! that the shares of a batch add up to what the backend said.

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
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// More inputs than this are asked for as a whole: nobody sends them twice.
const MOST_INPUTS: usize = 4096;

/// The largest answer that is put together, in bytes.
const LARGEST: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Float,
    Base64,
}

impl Encoding {
    /// The one that a request asks for; none if it is one we cannot make of another.
    fn of(body: &[u8]) -> Option<Self> {
        match json::member(body, "encoding_format").map(|at| &body[at]) {
            None | Some(b"null" | b"\"float\"") => Some(Self::Float),
            Some(b"\"base64\"") => Some(Self::Base64),
            Some(_) => None,
        }
    }
}

/// Answers a request for embeddings as far as they are kept. None if it is to be treated as any other request.
pub(super) fn request(inner: &Arc<Inner>, exchange: &mut Exchange, asked: &Asked) -> Option<Verdict> {
    let body = exchange.body().clone();
    let encoding = Encoding::of(&body)?;
    let inputs = inputs(&body, exchange.call()?.span(Key::Input)?)?;
    let tenant = inner.settings.scope.tenant(exchange.caller().map(|caller| &**caller))?;
    let apart = ["input", "encoding_format"];
    let shared = inner.keys.shared_key(exchange, &asked.answerer, tenant, &apart)?;
    let key = |input: &Range<usize>| inner.keys.item_key(&shared, &body, input.start);
    let keys: Vec<CacheKey> = inputs.iter().map(key).collect::<Option<_>>()?;
    let mut batch = Batch::new(inner, asked, keys, &inputs, encoding);
    batch.look_up();
    let kept = inputs.len() - batch.missing.len();
    if batch.missing.is_empty() {
        exchange.note("cache", "hit");
        return batch.reply().map(Verdict::Answer);
    }
    if asked.control.only_if_cached {
        asked.counts.miss.inc();
        return Some(not_cached(exchange));
    }
    if kept > 0 {
        batch.ask_for_the_rest(exchange, &body, &inputs)?;
        batch.saved();
        asked.counts.partial.inc();
        exchange.note("cache", format!("partial ({kept} of {})", inputs.len()));
    } else {
        asked.counts.miss.inc();
        exchange.note("cache", "miss");
    }
    Some(Verdict::Follow(Box::new(batch)))
}

/// Where the inputs stand: one text, one list of tokens, or a batch of either.
fn inputs(body: &[u8], span: Range<usize>) -> Option<Vec<Range<usize>>> {
    if body[span.start] == b'"' {
        return Some(vec![span]);
    }
    let elements: Vec<Range<usize>> = json::elements_within(body, span.clone()).take(MOST_INPUTS + 1).collect();
    let all = |first: &[u8]| elements.iter().all(|element| first.contains(&body[element.start]));
    if elements.is_empty() {
        return None;
    }
    // A list of numbers may be long: it is one input.
    if all(b"0123456789") {
        return Some(vec![span]);
    }
    (elements.len() <= MOST_INPUTS && (all(b"\"") || all(b"["))).then_some(elements)
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
    fn saved(&self) -> u64 {
        let tokens = self.kept.iter().flatten().map(|(_, tokens)| tokens).sum();
        self.asked.counts.saved(Some(&Usage { prompt: Some(tokens), ..Usage::default() }));
        tokens
    }

    /// The answer, if all of it is kept.
    fn reply(&self) -> Option<Reply> {
        let items: Option<Vec<&[u8]>> = self.kept.iter().map(|kept| kept.as_ref().map(|(item, _)| &item[..])).collect();
        let items = items?;
        let tokens = self.saved();
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
        let mut passed = 0;
        for ((index, vector), length) in self.missing.iter().zip(fetched).zip(lengths) {
            let until = |at: u64| total.map(|total| (u128::from(total) * u128::from(at) / u128::from(all)) as u64);
            let share = until(passed + length).zip(until(passed)).map(|(to, from)| to - from);
            passed += length;
            let usage = share.map(|share| Usage { prompt: Some(share), ..Usage::default() });
            let entry = Entry::item(self.asked.label.clone(), Bytes::copy_from_slice(vector), frame.clone(), usage);
            self.cache.memory.put(self.keys[*index], entry);
        }
        Ok(self.missing.len() as u64)
    }
}

/// The data of an answer that has as many as were asked for, in their order.
fn data(answer: &[u8], count: usize) -> Option<Vec<&[u8]>> {
    let list = json::member(answer, "data")?;
    let data: Vec<&[u8]> = json::elements_within(answer, list).map(|at| &answer[at]).collect();
    let in_order = data.iter().enumerate().all(|(place, item)| {
        let index = json::member(item, "index").map_or(Some(place as u64), |at| json::whole_number(&item[at]));
        let vector = json::member(item, "embedding").map(|at| item[at.start]);
        index == Some(place as u64) && matches!(vector, Some(b'[' | b'"'))
    });
    (data.len() == count && in_order).then_some(data)
}

/// What an answer says beside its data and usage: the members of an object, without its brackets.
fn frame(answer: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    for member in json::members(answer).filter(|member| !member.is("data") && !member.is("usage")) {
        frame.push(b'"');
        frame.extend_from_slice(member.key);
        frame.extend_from_slice(b"\":");
        frame.extend_from_slice(&answer[member.value]);
        frame.push(b',');
    }
    frame
}

fn joined(frame: &[u8], items: &[&[u8]], usage: &[u8]) -> Vec<u8> {
    let size: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut answer = Vec::with_capacity(size + frame.len() + usage.len() + 32);
    answer.push(b'{');
    answer.extend_from_slice(frame);
    answer.extend_from_slice(b"\"data\":[");
    for (index, item) in items.iter().enumerate() {
        answer.extend_from_slice(if index > 0 { b"," } else { b"" });
        answer.extend_from_slice(item);
    }
    answer.extend_from_slice(b"],\"usage\":");
    answer.extend_from_slice(usage);
    answer.push(b'}');
    answer
}

/// A usage with `more` tokens of prompts.
fn added(usage: &[u8], more: u64) -> Vec<u8> {
    let mut sum = vec![b'{'];
    for (index, member) in json::members(usage).enumerate() {
        let value = &usage[member.value.clone()];
        let counts = member.is("prompt_tokens") || member.is("total_tokens");
        let number = json::whole_number(value).filter(|_| counts);
        sum.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
        sum.extend_from_slice(member.key);
        sum.extend_from_slice(b"\":");
        match number {
            // Writing to a vector does not fail.
            Some(number) => drop(write!(sum, "{}", number + more)),
            None => sum.extend_from_slice(value),
        }
    }
    sum.push(b'}');
    sum
}

/// One item of an answer, at its place in it, in the encoding that was asked for. None if it cannot be had so.
fn item(kept: &[u8], index: usize, encoding: Encoding) -> Option<Vec<u8>> {
    let mut told = Vec::with_capacity(kept.len() + 16);
    let mut has_index = false;
    for member in json::members(kept) {
        let value = &kept[member.value.clone()];
        told.extend_from_slice(if told.is_empty() { b"{\"" } else { b",\"" });
        told.extend_from_slice(member.key);
        told.extend_from_slice(b"\":");
        if member.is("index") {
            has_index = true;
            drop(write!(told, "{index}"));
        } else if member.is("embedding") {
            match (encoding, value[0]) {
                (Encoding::Float, b'[') | (Encoding::Base64, b'"') => told.extend_from_slice(value),
                (Encoding::Float, _) => told.extend_from_slice(&as_floats(value)?),
                (Encoding::Base64, _) => told.extend_from_slice(&as_base64(value)?),
            }
        } else {
            told.extend_from_slice(value);
        }
    }
    if told.is_empty() {
        return None;
    }
    if !has_index {
        drop(write!(told, ",\"index\":{index}"));
    }
    told.push(b'}');
    Some(told)
}

fn as_floats(text: &[u8]) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    let floats: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    (rest.is_empty() && floats.iter().all(|float| float.is_finite())).then(|| serde_json::to_vec(&floats).ok())?
}

fn as_base64(list: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(list.len() / 2);
    for number in json::elements_within(list, 0..list.len()) {
        let number: f32 = std::str::from_utf8(&list[number]).ok()?.parse().ok()?;
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Some(format!("\"{}\"", STANDARD.encode(bytes)).into_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn inputs_are_found_however_they_are_given() {
        let found = |body: &str| {
            let at = json::member(body.as_bytes(), "input").expect("it is there");
            inputs(body.as_bytes(), at)
                .map(|inputs| inputs.into_iter().map(|at| body[at].to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(found(r#"{"input":"a"}"#).unwrap(), ["\"a\""]);
        assert_eq!(found(r#"{"input":["a", "b"]}"#).unwrap(), ["\"a\"", "\"b\""]);
        assert_eq!(found(r#"{"input":[1, 2]}"#).unwrap(), ["[1, 2]"]);
        assert_eq!(found(r#"{"input":[[1,2],[3]]}"#).unwrap(), ["[1,2]", "[3]"]);
        for none in [r#"{"input":[]}"#, r#"{"input":["a",[1]]}"#, r#"{"input":[{"text":"a"}]}"#, r#"{"input":7}"#] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn floats_and_base64_are_made_of_each_other(numbers in proptest::collection::vec(-1e3_f32..1e3, 0..8)) {
            let floats = serde_json::to_vec(&numbers).unwrap();
            let base64 = as_base64(&floats).unwrap();
            prop_assert_eq!(as_floats(&base64).unwrap(), floats);
        }
    }

    #[test]
    fn what_is_no_vector_is_not_told_as_one() {
        assert_eq!(as_floats(b"\"AAA=\""), None);
        assert_eq!(as_floats(b"\"?\""), None);
        assert_eq!(as_floats(b"\"AADAfw==\""), None, "not a number");
        assert_eq!(as_base64(b"[\"a\"]"), None);
    }

    #[test]
    fn unknown_fields_stay_and_the_place_changes() {
        let told = item(br#"{"object":"embedding","index":0,"x":1.0,"embedding":[1.5]}"#, 3, Encoding::Base64).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told, json!({"object": "embedding", "index": 3, "x": 1.0, "embedding": "AADAPw=="}));
    }

    #[test]
    fn an_answer_with_fewer_vectors_than_inputs_is_none() {
        assert_eq!(data(br#"{"data":[{"embedding":[1]}]}"#, 2), None);
        assert_eq!(data(br#"{"data":[{"index":1,"embedding":[1]}]}"#, 1), None);
        assert_eq!(data(br#"{"data":[{"index":0,"embedding":{}}]}"#, 1), None);
        assert_eq!(data(br#"{"data":[{"index":0,"embedding":[1]}]}"#, 1).unwrap().len(), 1);
    }
}
