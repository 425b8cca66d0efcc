//! What is answered, by the model's name; each answer is made once and then only sent.
//!
//! - `mock-whole-SIZE` or `mock-whole-SIZE-MS`: a chat completion of so many bytes of JSON, after so many milliseconds;
//! - `mock-stream-TOKENS-MS`: an event stream of so many tokens, so many milliseconds apart (0: as fast as they go);
//! - `mock-fault-STATUS`: an error in OpenAI's shape;
//! - `mock-fault-close`: no answer, the connection closes; `mock-fault-cut`: a stream that breaks after two tokens.
//!
//! Any other model gets `mock-whole-504`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

/// One answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All of it at once, after a while.
    Whole {
        /// Head and body.
        bytes: Vec<u8>,
        /// How long the model thinks.
        delay: Duration,
    },
    /// Token by token.
    Stream(Stream),
    /// The connection closes.
    Close,
}

/// An event stream: a head, the same event again and again, an end.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The response head and the first event.
    pub first: Vec<u8>,
    /// Every other token's event, as one chunk.
    pub event: Vec<u8>,
    /// What follows the last token.
    pub end: Vec<u8>,
    /// Tokens in all; the first of them goes out with the head.
    pub tokens: u32,
    /// Time from one token to the next.
    pub pace: Duration,
    /// Whether the end is missing.
    pub cut: bool,
}

/// All answers that have been asked for.
#[derive(Default)]
pub(crate) struct Answers(RefCell<HashMap<Asked, Rc<Answer>>>);

/// A model's name, and whether a stream is to tell its usage.
type Asked = (Vec<u8>, bool);

impl Answers {
    /// The answer that `model` stands for, with or without usage at the end of a stream.
    pub(crate) fn of(&self, model: &[u8], usage: bool) -> Rc<Answer> {
        let mut made = self.0.borrow_mut();
        // The look-up copies a few bytes: to borrow them would cost more code than it saves time.
        let name = (model.to_vec(), usage);
        made.entry(name).or_insert_with(|| Rc::new(make(&String::from_utf8_lossy(model), usage))).clone()
    }
}

/// Tokens that an answer says it has read.
const PROMPT_TOKENS: u32 = 100;

fn make(model: &str, usage: bool) -> Answer {
    let mut parts = model.strip_prefix("mock-").unwrap_or_default().split('-');
    let kind = parts.next().unwrap_or_default();
    let first = parts.next().unwrap_or_default();
    let second = parts.next().and_then(|text| text.parse().ok()).map(Duration::from_millis).unwrap_or_default();
    match (kind, first) {
        ("stream", tokens) => Answer::Stream(stream(model, tokens.parse().unwrap_or(64), second, usage)),
        ("fault", "close") => Answer::Close,
        ("fault", "cut") => Answer::Stream(Stream { cut: true, ..stream(model, 2, second, usage) }),
        ("fault", status) => Answer::Whole { bytes: fault(status), delay: second },
        (_, size) => Answer::Whole { bytes: completion(model, size.parse().unwrap_or(504)), delay: second },
    }
}

/// A completion of exactly `size` bytes of JSON, or as little above it as its frame takes.
fn completion(model: &str, size: usize) -> Vec<u8> {
    let text = |content: &str| {
        format!(
            "{{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"{model}\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{content}\"}},\
             \"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\
             \"completion_tokens\":64,\"total_tokens\":{},\"prompt_tokens_details\":null}}}}",
            PROMPT_TOKENS + 64
        )
    };
    let room = size.saturating_sub(text("").len());
    response("200 OK", &text(&"word ".repeat(room / 5 + 1)[..room]))
}

/// An error, as model servers tell it.
fn fault(status: &str) -> Vec<u8> {
    let status: u16 = status.parse().unwrap_or(500);
    let message = format!(
        "{{\"error\":{{\"message\":\"The mock was asked for a {status}.\",\"type\":\"mock\",\"param\":null,\"code\":null}}}}"
    );
    response(&format!("{status} As asked"), &message)
}

/// A whole answer with a JSON body.
pub(crate) fn response(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nserver: mock\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn stream(model: &str, tokens: u32, pace: Duration, usage: bool) -> Stream {
    let event = |choices: &str, more: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
             \"model\":\"{model}\",\"choices\":[{choices}]{more}}}\n\n"
        )
    };
    let token = |delta: &str| {
        let choice = format!("{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":null}}");
        event(&choice, if usage { ",\"usage\":null" } else { "" })
    };
    let mut first = String::from(
        "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
         cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    first += &chunk(&token("\"role\":\"assistant\",\"content\":\" token\""));
    let mut end = chunk(&event("{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}", ""));
    if usage {
        let total = PROMPT_TOKENS + tokens;
        let usage = format!(
            ",\"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{tokens},\"total_tokens\":{total}}}"
        );
        end += &chunk(&event("", &usage));
    }
    end += &chunk("data: [DONE]\n\n");
    end += "0\r\n\r\n";
    let event = chunk(&token("\"content\":\" token\"")).into_bytes();
    Stream { first: first.into_bytes(), event, end: end.into_bytes(), tokens: tokens.max(1), pace, cut: false }
}

fn chunk(data: &str) -> String {
    let mut chunk = String::with_capacity(data.len() + 12);
    // Writing to memory does not fail.
    let _ = write!(chunk, "{:x}\r\n{data}\r\n", data.len());
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_has_the_size_that_its_name_says() {
        for size in [504, 4096, 1 << 20] {
            let Answer::Whole { bytes, delay } = make(&format!("mock-whole-{size}-7"), false) else {
                panic!("a stream")
            };
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {size}")), "{head}");
            assert_eq!((body.len(), delay), (size, Duration::from_millis(7)));
        }
    }

    #[test]
    fn a_stream_has_its_tokens_pace_and_usage() {
        let Answer::Stream(stream) = make("mock-stream-200-20", true) else { panic!("not a stream") };
        assert_eq!((stream.tokens, stream.pace), (200, Duration::from_millis(20)));
        let end = String::from_utf8(stream.end).unwrap();
        assert!(end.contains("\"completion_tokens\":200") && end.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{end}");
    }

    #[test]
    fn an_answer_is_made_once() {
        let answers = Answers::default();
        assert!(Rc::ptr_eq(&answers.of(b"mock-whole-504", false), &answers.of(b"mock-whole-504", false)));
    }
}
