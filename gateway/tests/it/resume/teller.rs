//! Backends that tell one text, from its beginning or from wherever they are asked to go on.

use serde_json::{Value, json};

use crate::backend::{Script, Seen};
use crate::client::{Answer, End};

/// Pieces of the text that all backends here say.
pub(super) const PIECES: usize = 97;

/// What a backend says: a model that, given the beginning of its one text, says the rest.
pub(super) struct Teller {
    id: &'static str,
    endpoint: &'static str,
}

pub(super) fn pieces() -> Vec<String> {
    (0..PIECES).map(|n| if n % 9 == 8 { format!("\n\n{n} \u{e9}") } else { format!(" word{n}") }).collect()
}

pub(super) fn whole() -> String {
    pieces().concat()
}

pub(super) fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap()
}

impl Teller {
    pub(super) const fn chat(id: &'static str) -> Self {
        Self { id, endpoint: "chat" }
    }

    pub(super) const fn completions(id: &'static str) -> Self {
        Self { id, endpoint: "completions" }
    }

    pub(super) fn event(&self, choices: Value, more: Value) -> String {
        let mut event = json!({
            "id": self.id, "object": "x", "created": self.id.len(), "model": "tiny-random",
            "system_fingerprint": format!("fp-{}", self.id), "choices": choices,
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("data: {event}\n\n")
    }

    /// All events of the answer to this request: 100 of them where nothing has been given.
    pub(super) fn events(&self, seen: &Seen) -> Vec<String> {
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
        let behind = PIECES - said.len();
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
            let (prompt, completion) = (10 + behind, said.len());
            let usage =
                json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
            events.push(self.event(json!([]), json!({ "usage": usage })));
        }
        events
    }

    /// A whole answer.
    pub(super) fn tells(&self, seen: &Seen) -> Script {
        self.events(seen).iter().fold(Script::stream(), Script::chunk).done().end()
    }

    /// The text from its beginning, whatever was asked.
    pub(super) fn again(&self) -> Script {
        let choice = |text: &String| json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]);
        let events = pieces().iter().map(|text| self.event(choice(text), json!({}))).collect::<Vec<_>>();
        events.iter().fold(Script::stream(), Script::chunk).done().end()
    }

    /// An answer of which only so many events come.
    pub(super) fn breaks(&self, seen: &Seen, after: usize) -> Script {
        self.events(seen)[..after].iter().fold(Script::stream(), Script::chunk)
    }
}

pub(super) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"begin"}],"stream":true,"stream_options":{"include_usage":true}}"#;
pub(super) const COMPLETION: &str =
    r#"{"model":"m","prompt":"begin","stream":true,"stream_options":{"include_usage":true}}"#;

/// The events of an answer, less `[DONE]`, which has to be its end.
pub(super) fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text().strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end: {}", answer.text()));
    let data = text.split("\n\n").filter(|event| !event.is_empty()).map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text of a stream that has to be one: of one id, with one role, one reason and one usage.
pub(super) fn text_of(answer: &Answer, chat: bool) -> String {
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

pub(super) fn usage_of(answer: &Answer) -> (u64, u64, u64) {
    let events = events(answer);
    let told: Vec<_> = events.iter().filter(|event| event["usage"].is_object()).collect();
    assert_eq!(told.len(), 1, "told once");
    let number = |name: &str| told[0]["usage"][name].as_u64().unwrap();
    (number("prompt_tokens"), number("completion_tokens"), number("total_tokens"))
}

/// Whether this asks for the rest of an answer.
pub(super) fn is_rest(seen: &Seen) -> bool {
    let body = body(seen);
    let prompt = body["prompt"].as_str().is_some_and(|prompt| prompt != "begin");
    prompt || body["messages"].as_array().is_some_and(|messages| messages.len() > 1)
}
