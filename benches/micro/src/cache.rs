//! A cache with one answer in it.

use super::event;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use std::sync::Arc;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::exchange::{Outcome, RequestHead, Source};
use tidegate_plugins::{Answerer, Body, Exchange, Filter, Head, Registry, Services, Verdict};

/// A chat request with this body, whose route is settled.
pub fn exchange(body: &Bytes) -> Exchange {
    let head = RequestHead {
        method: Method::POST,
        path: "/v1/chat/completions".into(),
        query: None,
        headers: HeaderMap::new(),
    };
    let mut exchange = Exchange::new(head, Endpoint::Chat, "bench".into(), None);
    exchange.replace_body(body.clone(), Call::read(body, Endpoint::Chat).ok());
    exchange.send_to("m".into());
    let (route, pool, model) = ("m".into(), "p".into(), "m".into());
    exchange.settle_on(Arc::new(Answerer { route, pool, model, revision: 0 }));
    exchange
}

/// A whole answer of about this size.
pub fn whole(size: usize) -> Bytes {
    let text = "tide ".repeat(size / 5);
    let body = format!(
        r#"{{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1730000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
    );
    Bytes::from(body)
}

/// A streamed answer of about this size.
pub fn stream(size: usize) -> Bytes {
    let events = event().repeat(size / event().len());
    let last = r#"data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let events = String::from_utf8_lossy(&events).replace(",\"usage\":null", "");
    Bytes::from([events.as_bytes(), last.as_bytes(), b"\n\ndata: [DONE]\n\n"].concat())
}

/// A cache, and the request it has the answer to.
pub struct Cached {
    filter: Arc<dyn Filter>,
    body: Bytes,
}

impl Cached {
    /// With this answer.
    ///
    /// # Panics
    /// If the answer is not kept.
    pub fn new(ids: &str, streams: bool, answer: &Bytes) -> Self {
        // So small that the largest answer is compressed.
        let settings = json!({ "scope": "global", "ids": ids, "size": "4MiB" });
        let filter = Registry::built_in().filter("prompt_cache", settings, &Services::none());
        let filter = filter.and_then(Result::ok).expect("it is built in");
        let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": streams });
        let cached = Self { filter, body: body.to_string().into() };
        let mut first = exchange(&cached.body);
        let asked = cached.filter.request(&mut first).now_or_never();
        let Some(Ok(Verdict::Follow(mut fill))) = asked else { panic!("a miss is followed") };
        first.answer_from(Source::Backend, true);
        let kind = if streams { "text/event-stream" } else { "application/json" };
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        headers.insert(header::CONTENT_LENGTH, answer.len().into());
        fill.head(&mut first, &mut Head { status: StatusCode::OK, headers }).expect("a good head");
        fill.chunk(&mut first, &mut answer.clone(), false).expect("a good answer");
        fill.chunk(&mut first, &mut Bytes::new(), true).expect("its end");
        first.record(Outcome { status: 200, complete: true, ..Outcome::default() });
        fill.end(&first);
        assert!(answered(&cached) > 0);
        cached
    }
}

/// Asks again, and takes the answer to its end; how long it is.
///
/// # Panics
/// If it is not kept.
pub fn answered(cached: &Cached) -> usize {
    let mut exchange = exchange(&cached.body);
    let asked = cached.filter.request(&mut exchange).now_or_never();
    let Some(Ok(Verdict::Answer(reply))) = asked else { panic!("a hit is answered") };
    match reply.body {
        Body::Whole(body) => body.len(),
        Body::Pieces(mut pieces) => {
            let mut length = 0;
            while let Some(Some(Ok(piece))) = pieces.next().now_or_never() {
                length += piece.len();
            }
            length
        }
    }
}
