//! What is answered, by the model's name; each answer is made once and then only sent.
//!
//! - `mock-whole-SIZE[-MS[-TOKENS]]`: a chat completion of so many bytes of JSON, after so many milliseconds, that says it
//!   has so many tokens (64);
//! - `mock-stream-TOKENS-MS[-BYTES]`: an event stream of so many tokens, so many milliseconds apart (0: as fast as they
//!   go), each a text of so many bytes (6);
//! - `mock-fault-STATUS[-MS]`: an error in OpenAI's shape, after so many milliseconds;
//! - `mock-fault-close`, `-reset`, `-stall`: no answer; the connection is closed, is reset, or stays open and silent;
//! - `mock-fault-garbage`: bytes that are no HTTP; `mock-fault-nonsense`: HTTP, but what it calls JSON is none;
//! - `mock-fault-cut`, `mock-fault-hang`: a stream that after two tokens breaks, or says nothing more.
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
    /// None.
    None(Silence),
}

/// What becomes of a connection on which nothing is said, or nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It stays open until the client has had enough.
    Stall,
}

/// An event stream: a head, the same few events again and again, an end.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The response head and the first event.
    pub first: Vec<u8>,
    /// Every other token's event, as one chunk, by turns: no two after one another have the same text.
    pub events: [Vec<u8>; WORDS],
    /// What follows the last token.
    pub end: Vec<u8>,
    /// Tokens in all; the first of them goes out with the head.
    pub tokens: u32,
    /// Time from one token to the next.
    pub pace: Duration,
    /// What there is in place of its end, if that is missing.
    pub breaks: Option<Silence>,
}

/// How many different tokens there are.
const WORDS: usize = 6;

impl Stream {
    /// The event of the token that comes after `sent` others.
    pub(crate) fn event(&self, sent: u32) -> &[u8] {
        &self.events[sent as usize % WORDS]
    }
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

/// Bytes of a token's text, unless the name says how many.
const TOKEN: usize = 6;

fn make(model: &str, usage: bool) -> Answer {
    let mut parts = model.strip_prefix("mock-").unwrap_or_default().split('-');
    let kind = parts.next().unwrap_or_default();
    let first = parts.next().unwrap_or_default();
    let time = parts.next().and_then(|text| text.parse().ok()).map(Duration::from_millis).unwrap_or_default();
    let third: Option<u32> = parts.next().and_then(|text| text.parse().ok());
    let broken = |breaks| Answer::Stream(Stream { breaks: Some(breaks), ..stream(model, 2, time, TOKEN, usage) });
    match (kind, first) {
        ("stream", tokens) => {
            let bytes = third.map_or(TOKEN, |bytes| bytes as usize);
            Answer::Stream(stream(model, tokens.parse().unwrap_or(64), time, bytes, usage))
        }
        ("fault", "close") => Answer::None(Silence::Close),
        ("fault", "reset") => Answer::None(Silence::Reset),
        ("fault", "stall") => Answer::None(Silence::Stall),
        ("fault", "garbage") => Answer::Whole { bytes: b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec(), delay: time },
        ("fault", "nonsense") => {
            Answer::Whole { bytes: response("200 OK", &format!("{{\"id\":\"{ID}\",\"cho")), delay: time }
        }
        ("fault", "cut") => broken(Silence::Close),
        ("fault", "hang") => broken(Silence::Stall),
        ("fault", status) => Answer::Whole { bytes: fault(status), delay: time },
        (_, size) => {
            let bytes = completion(model, size.parse().unwrap_or(504), third.unwrap_or(64));
            Answer::Whole { bytes, delay: time }
        }
    }
}

/// As long as those of model servers.
const ID: &str = "chatcmpl-3f2a9c51d07b4e68a1c4f05e9b7d2836";

/// A completion of exactly `size` bytes of JSON, or as little above it as its frame takes.
fn completion(model: &str, size: usize, tokens: u32) -> Vec<u8> {
    let text = |content: &str| {
        format!(
            "{{\"id\":\"{ID}\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"{model}\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{content}\"}},\
             \"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\
             \"completion_tokens\":{tokens},\"total_tokens\":{},\"prompt_tokens_details\":null}}}}",
            PROMPT_TOKENS + tokens
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

/// So many bytes of text, one of [`WORDS`].
fn text(word: usize, bytes: usize) -> String {
    " token".chars().cycle().skip(word).take(bytes).collect()
}

fn stream(model: &str, tokens: u32, pace: Duration, bytes: usize, usage: bool) -> Stream {
    let event = |choices: &str, more: &str| {
        format!(
            "data: {{\"id\":\"{ID}\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
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
    first += &chunk(&token(&format!("\"role\":\"assistant\",\"content\":\"{}\"", text(0, bytes))));
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
    let event = |word| chunk(&token(&format!("\"content\":\"{}\"", text(word, bytes)))).into_bytes();
    let events = std::array::from_fn(event);
    Stream { first: first.into_bytes(), events, end: end.into_bytes(), tokens: tokens.max(1), pace, breaks: None }
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
    fn a_name_says_how_long_each_token_is_and_how_many_an_answer_has() {
        let Answer::Stream(stream) = make("mock-stream-2-0-1000", false) else { panic!("not a stream") };
        for event in &stream.events {
            let event = String::from_utf8(event.clone()).unwrap();
            assert_eq!(event.split("\"content\":\"").nth(1).unwrap().find('"'), Some(1000));
        }
        assert!(stream.event(1) != stream.event(2));
        let Answer::Whole { bytes, .. } = make("mock-whole-504-0-7", false) else { panic!("a stream") };
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\"completion_tokens\":7,\"total_tokens\":107"), "{text}");
    }

    #[test]
    fn a_fault_is_what_its_name_says() {
        for (name, silence) in [("close", Silence::Close), ("reset", Silence::Reset), ("stall", Silence::Stall)] {
            assert!(matches!(make(&format!("mock-fault-{name}"), false), Answer::None(is) if is == silence), "{name}");
        }
        for (name, silence) in [("cut", Silence::Close), ("hang", Silence::Stall)] {
            let Answer::Stream(stream) = make(&format!("mock-fault-{name}"), false) else { panic!("{name}") };
            assert_eq!((stream.tokens, stream.breaks), (2, Some(silence)));
        }
        let begins = |name: &str, begin: &[u8]| match make(name, false) {
            Answer::Whole { bytes, .. } => bytes.starts_with(begin),
            _ => false,
        };
        assert!(begins("mock-fault-503", b"HTTP/1.1 503 ") && begins("mock-fault-nonsense", b"HTTP/1.1 200 "));
        assert!(!begins("mock-fault-garbage", b"HTTP"));
    }

    #[test]
    fn an_answer_is_made_once() {
        let answers = Answers::default();
        assert!(Rc::ptr_eq(&answers.of(b"mock-whole-504", false), &answers.of(b"mock-whole-504", false)));
    }
}
