//! The parts of a request's way that are looked at one by one: its call, its events, its filters.

use crate::cache::{exchange, whole};
use crate::chat;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::events::{EventCutter, StreamWatch};
use tidegate_plugins::exchange::Source;
use tidegate_plugins::filter::ResponseFilter;
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::splice::{ask_usage, set_model, without_usage};
use tidegate_plugins::testing::exchange_with;
use tidegate_plugins::{Exchange, Filter, Head, Registry, Services, Verdict};

/// A body, and how it reads.
pub struct Reading(Bytes, Call);

impl Reading {
    /// Of about `size` bytes.
    ///
    /// # Panics
    /// If that is no call.
    pub fn new(size: usize) -> Self {
        let body = chat(size);
        let call = Call::read(&body, Endpoint::Chat).expect("it is a call");
        Self(body, call)
    }

    /// Reads it as one that has come.
    pub fn read(&self) -> bool {
        Call::outlined(&self.0, Endpoint::Chat).is_ok()
    }

    /// Gives it another model, and asks for the usage.
    pub fn splice(&self) -> bool {
        let (body, call) = set_model(&self.1, &self.0, "llama-3.1-8b");
        ask_usage(&call, &body).is_some()
    }
}

/// How many events are looked at.
const EVENTS: usize = 64;

/// Events of a stream, cut and watched.
pub struct Watching {
    events: Vec<Bytes>,
    cutter: EventCutter,
    watch: StreamWatch,
}

impl Watching {
    /// Of 64 events that differ in their text; in something else as well if not `alike`.
    pub fn new(alike: bool) -> Self {
        let more = |number| if alike { 0 } else { number };
        let event = |number| {
            let text = ["tide", " comes", " in", ", and"][number % 4];
            let more = more(number);
            format!(
                "data: {{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1730000000,\
                 \"model\":\"llama-3.1-8b\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\
                 \"finish_reason\":null}}],\"usage\":null,\"number\":{more}}}\n\n"
            )
            .into()
        };
        let events: Vec<Bytes> = (0..EVENTS).map(event).collect();
        let mut watching = Self { events, cutter: EventCutter::new(8 << 20), watch: StreamWatch::new(Endpoint::Chat) };
        watching.look();
        watching
    }

    /// Looks at all of them.
    pub fn look(&mut self) -> usize {
        let mut seen = 0;
        for event in &self.events {
            let block = self.cutter.push(event.clone()).ok().flatten().unwrap_or_default();
            seen += usize::from(self.watch.see(&block).has_content);
        }
        seen
    }

    /// Takes what says nothing of the usage out of all of them.
    pub fn silence(&self) -> usize {
        self.events.iter().filter_map(|event| without_usage(event)).map(|left| left.len()).sum()
    }
}

/// A filter, and a request that it has not seen.
pub struct Asking(Arc<dyn Filter>, Exchange);

impl Asking {
    fn new(name: &str, settings: Value, exchange: impl Fn() -> Exchange) -> Self {
        let models = ["m", "large"].map(Into::into).into();
        let filter = Registry::built_in().filter(name, settings, &Services { models, ..Services::none() });
        let built = filter.expect("it is built in").unwrap_or_else(|faults| panic!("{faults:?}"));
        let asking = Self(built, exchange());
        // What is made once, is made now.
        let _ = asking.0.request(&mut exchange()).now_or_never();
        asking
    }

    /// `api_key`, with ten thousand keys.
    pub fn api_key() -> Self {
        let hasher = KeyHasher::new(None);
        let key = |number: usize| format!("key-of-the-app-number-{number}");
        let entry = |number: usize| json!({ "id": number.to_string(), "hash": hasher.hash(&key(number)).to_string() });
        let entries: Vec<_> = (0..10_000).map(entry).collect();
        let header = format!("Bearer {}", key(7_777));
        Self::new("api_key", json!({ "keys": entries }), || {
            exchange_with(r#"{"model":"m"}"#, &[("authorization", &header)])
        })
    }

    /// `model_route`, with a rule that looks at the prompt.
    pub fn model_route() -> Self {
        let rules = json!([{ "name": "heavy", "when": "prompt_tokens > 900k or has_images", "model": "large" }]);
        Self::new("model_route", json!({ "rules": rules }), || exchange(&chat(1 << 10)))
    }

    /// `prompt_cache`, which has not the answer to a request of this size.
    pub fn prompt_cache(size: usize) -> Self {
        Self::new("prompt_cache", json!({ "scope": "global" }), || exchange(&chat(size)))
    }

    /// Asks it.
    ///
    /// # Panics
    /// If it has an objection.
    pub fn ask(&mut self) -> Option<Box<dyn ResponseFilter>> {
        match self.0.request(&mut self.1).now_or_never() {
            Some(Ok(Verdict::Continue)) => None,
            Some(Ok(Verdict::Follow(follower))) => Some(follower),
            _ => panic!("it is let pass"),
        }
    }
}

/// An answer on its way past a filter that keeps it.
pub struct Following(Box<dyn ResponseFilter>, Exchange, Vec<Bytes>);

impl Following {
    /// A whole answer of 1 KiB, or 64 events, past `prompt_cache`.
    ///
    /// # Panics
    /// If it does not want to see it.
    pub fn prompt_cache(streams: bool) -> Self {
        let mut asking = Asking::prompt_cache(1 << 10);
        if !streams {
            asking.1.replace_body(br#"{"model":"m","messages":[]}"#[..].into(), None);
            let body = asking.1.body().clone();
            asking.1.replace_body(body.clone(), Call::read(&body, Endpoint::Chat).ok());
        }
        let mut follower = asking.ask().expect("a miss is followed");
        let pieces = if streams { Watching::new(true).events } else { vec![whole(1 << 10)] };
        let kind = if streams { "text/event-stream" } else { "application/json" };
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        if !streams {
            headers.insert(header::CONTENT_LENGTH, pieces[0].len().into());
        }
        asking.1.answer_from(Source::Backend, true);
        follower.head(&mut asking.1, &mut Head { status: StatusCode::OK, headers }).expect("a good head");
        Self(follower, asking.1, pieces)
    }

    /// Shows it all pieces, as the gateway does.
    ///
    /// # Panics
    /// If it fails.
    pub fn pass(&mut self) {
        for (number, piece) in self.2.iter_mut().enumerate() {
            self.1.watch(None, number > 2);
            self.1.show(piece);
            self.0.chunk(&mut self.1, piece, false).expect("a good answer");
        }
    }
}
