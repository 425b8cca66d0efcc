//! Streams that break after their client has seen some of them, and are continued by another backend.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::backend::{Backend, Script, Seen};
use crate::client::{Answer, End, Request};
use crate::gateway::{Gateway, pool_of};

/// Pieces of the text that all backends here say.
const PIECES: usize = 97;

/// What a backend says: a model that, given the beginning of its one text, says the rest.
struct Teller {
    id: &'static str,
    endpoint: &'static str,
}

fn pieces() -> Vec<String> {
    (0..PIECES).map(|n| if n % 9 == 8 { format!("\n\n{n} \u{e9}") } else { format!(" word{n}") }).collect()
}

fn whole() -> String {
    pieces().concat()
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

impl Teller {
    const fn chat(id: &'static str) -> Self {
        Self { id, endpoint: "chat" }
    }

    const fn completions(id: &'static str) -> Self {
        Self { id, endpoint: "completions" }
    }

    fn event(&self, choices: Value, more: Value) -> String {
        let mut event = json!({
            "id": self.id, "object": "x", "created": self.id.len(), "model": "tiny-random",
            "system_fingerprint": format!("fp-{}", self.id), "choices": choices,
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("data: {event}\n\n")
    }

    /// All events of the answer to this request: 100 of them where nothing has been given.
    fn events(&self, seen: &Seen) -> Vec<String> {
        let body = body(seen);
        let given = match self.endpoint {
            "chat" => {
                let last = body["messages"].as_array().unwrap().last().unwrap().clone();
                match last["role"] == "assistant" {
                    true => {
                        assert!(body["continue_final_message"] == true && body["add_generation_prompt"] == false);
                        last["content"].as_str().unwrap().to_owned()
                    }
                    false => String::new(),
                }
            }
            _ => body["prompt"].as_str().unwrap().strip_prefix("begin").unwrap().to_owned(),
        };
        let text = whole();
        assert!(text.starts_with(&given), "{given:?}");
        // Its tokens, as far as they lie behind what was given; the first may be a part of one.
        let (mut at, mut said) = (0, Vec::new());
        for piece in pieces() {
            let end = at + piece.len();
            if end > given.len() {
                said.push(piece[given.len().saturating_sub(at)..].to_owned());
            }
            at = end;
        }
        let most = body["max_tokens"].as_u64().unwrap_or(u64::MAX);
        let full = said.len() as u64 >= most;
        said.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let mut events = Vec::new();
        let chat = self.endpoint == "chat";
        let choice = |text: &str| match chat {
            true => json!([{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}]),
            false => json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]),
        };
        if chat {
            let role = json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]);
            events.push(self.event(role, json!({})));
        }
        events.extend(said.iter().map(|text| self.event(choice(text), json!({}))));
        let why = if full { "length" } else { "stop" };
        let last = match chat {
            true => json!([{"index": 0, "delta": {}, "finish_reason": why}]),
            false => json!([{"index": 0, "text": "", "finish_reason": why}]),
        };
        events.push(self.event(last, json!({})));
        if body["stream_options"]["include_usage"] == true {
            let (prompt, completion) = (10 + (PIECES - said.len()), said.len());
            let usage =
                json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
            events.push(self.event(json!([]), json!({ "usage": usage })));
        }
        events
    }

    /// A whole answer.
    fn tells(&self, seen: &Seen) -> Script {
        self.events(seen).iter().fold(Script::stream(), Script::chunk).done().end()
    }

    /// An answer of which only so many events come.
    fn breaks(&self, seen: &Seen, after: usize) -> Script {
        self.events(seen)[..after].iter().fold(Script::stream(), Script::chunk)
    }
}

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"begin"}],"stream":true,"stream_options":{"include_usage":true}}"#;
const COMPLETION: &str = r#"{"model":"m","prompt":"begin","stream":true,"stream_options":{"include_usage":true}}"#;

/// The events of an answer, less `[DONE]`, which has to be its end.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text().strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end: {}", answer.text()));
    let data = text.split("\n\n").filter(|event| !event.is_empty()).map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text of a stream that has to be one: of one id, with one role, one reason and one usage.
fn text_of(answer: &Answer, chat: bool) -> String {
    assert_eq!((answer.status, &answer.end), (200, &End::Whole), "{}", answer.text());
    let events = events(answer);
    for event in &events {
        for name in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(event[name], events[0][name], "{name} of {event}");
        }
    }
    let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
    assert_eq!(choices.iter().filter(|choice| choice["delta"]["role"].is_string()).count(), usize::from(chat));
    assert_eq!(choices.iter().filter(|choice| choice["finish_reason"].is_string()).count(), 1);
    let texts = choices.iter().map(|choice| if chat { &choice["delta"]["content"] } else { &choice["text"] });
    texts.filter_map(Value::as_str).collect()
}

fn usage_of(answer: &Answer) -> (u64, u64, u64) {
    let events = events(answer);
    let told: Vec<_> = events.iter().filter(|event| event["usage"].is_object()).collect();
    assert_eq!(told.len(), 1, "told once");
    let number = |name: &str| told[0]["usage"][name].as_u64().unwrap();
    (number("prompt_tokens"), number("completion_tokens"), number("total_tokens"))
}

/// Two backends in a pool that resumes; the first request goes to the first.
async fn two(more: &str) -> (Backend, Backend, Gateway) {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let pool =
        format!("{}    breaker: off\n    retries: {{ always: 1000 }}\n    resume: {{{more}}}\n", pool_of(&[&a, &b]));
    let gateway = Gateway::start(&pool).await;
    (a, b, gateway)
}

/// Whether this asks for the rest of an answer.
fn is_rest(seen: &Seen) -> bool {
    let body = body(seen);
    let prompt = body["prompt"].as_str().is_some_and(|prompt| prompt != "begin");
    prompt || body["messages"].as_array().is_some_and(|messages| messages.len() > 1)
}

/// Whoever is asked first breaks off after as many events as the path's query says, in one of several ways; whoever is
/// asked for the rest tells it.
fn breaking_as_asked(teller: fn(&'static str) -> Teller, names: [&'static str; 2], backends: [&Backend; 2]) {
    let asked: Arc<Mutex<HashSet<String>>> = Arc::default();
    for (backend, name) in backends.into_iter().zip(names) {
        let asked = asked.clone();
        backend.handle(move |seen| {
            let teller = teller(name);
            let query = seen.target.split_once('?').unwrap().1.to_owned();
            let after: usize = query.split('&').next().unwrap().parse().unwrap();
            if !asked.lock().unwrap().insert(query) {
                return teller.tells(seen);
            }
            let begun = teller.breaks(seen, after);
            match after % 4 {
                0 => begun.reset(),
                1 => begun.fin(),
                // Half an event, in the middle of a letter.
                2 => begun
                    .send(&b"40\r\ndata: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xc3"[..])
                    .fin(),
                _ => begun.chunk(b"data: {\"error\":{\"message\":\"gone\",\"code\":500}}\n\n").done().end(),
            }
        });
    }
}

/// Each of the first `count` events is the last of the first backend.
async fn broken_at_every_event(teller: fn(&'static str) -> Teller, path: &str, body: &str, count: usize) {
    let chat = path.contains("chat");
    let (a, b, gateway) = two("").await;
    breaking_as_asked(teller, ["one", "second"], [&a, &b]);
    let cases = (0..=count).map(|after| {
        let request = Request::post(&format!("{path}?{after}"), body.to_owned());
        let gateway = &gateway;
        async move { (after, gateway.send(&request).await) }
    });
    for (after, answer) in futures_util::future::join_all(cases).await {
        if after == count {
            // The usage and the end are lost with the backend that knew them, and nobody makes them up.
            assert_eq!(answer.end, End::Whole);
            assert!(!answer.text().contains("[DONE]"), "{after}");
            continue;
        }
        assert_eq!(text_of(&answer, chat), whole(), "broken after {after} events");
        assert_eq!(usage_of(&answer), (10, 97, 107), "broken after {after} events");
    }
    // Each was broken once, and asked for once more but where the text was whole.
    assert_eq!(a.count() + b.count(), 2 * count + 1);
    gateway.metric_is("tidegate_resumes_total", &[("outcome", "won")], count as f64).await;
    gateway.metric_is("tidegate_resumes_total", &[], count as f64).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_chat_of_a_hundred_events_may_break_at_each_of_them() {
    // A role, 97 pieces, a reason and the usage are 100 events; the text is whole with the 99th.
    broken_at_every_event(Teller::chat, "/v1/chat/completions", CHAT, 99).await;
}

#[tokio::test]
async fn a_completion_may_break_at_each_of_its_events() {
    broken_at_every_event(Teller::completions, "/v1/completions", COMPLETION, 98).await;
}

#[tokio::test]
async fn a_broken_stream_is_continued_by_another_backend() {
    let (a, b, gateway) = two("").await;
    for (n, backend) in [&a, &b].into_iter().enumerate() {
        let teller = [Teller::chat("one"), Teller::chat("second")][n].id;
        backend.handle(move |seen| {
            let teller = Teller::chat(teller);
            if is_rest(seen) { teller.tells(seen) } else { teller.breaks(seen, 40).reset() }
        });
    }
    let request = Request::post("/v1/chat/completions", CHAT).header("x-request-id", "r");
    let answer = gateway.send(&request).await;
    assert_eq!(text_of(&answer, true), whole());
    assert_eq!(usage_of(&answer), (10, 97, 107));
    assert_eq!((a.count(), b.count()), (1, 1));
    let line = gateway.log.request("r").await;
    assert_eq!((&line["resumed"], &line["resume"], &line["cause"]), (&json!(1), &json!("won"), &json!("none")));
    assert_eq!((&line["completion_tokens"], &line["estimated"]), (&json!(97), &json!(true)));
    gateway.metric_is("tidegate_resumes_total", &[("outcome", "won")], 1.0).await;
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "truncated")], 1.0).await;
}
