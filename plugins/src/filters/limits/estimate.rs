//! What a request will cost, before anybody knows: learned, for each model of the file, from what others have cost.
//!
//! Deciding reads two numbers and takes no lock. Learning takes the model's own lock after an answer, and skips a turn
//! if another answer is just being learned from.

use crate::call::{Call, Endpoint};
use crate::prices::Price;
use crate::usage::Usage;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens in 1024 bytes of a prompt, before anything is known of a model: one in four bytes.
const FIRST_RATIO: u64 = 256;

/// Tokens of an answer, before anything is known of a model.
const FIRST_COMPLETION: u64 = 1024;

/// What a picture or a recording in a prompt is taken for, in tokens: its bytes say little.
const MEDIA: u64 = 1024;

/// A string of a body at least this long is looked at for whether it is media.
const LONG: usize = 2048;

/// Prompts, and answers, before what is learned from them is believed.
const ENOUGH: u32 = 16;

/// What is known of all models. One for the process.
#[derive(Debug, Default)]
pub struct Estimates(Mutex<HashMap<Arc<str>, Arc<Estimate>>>);

impl Estimates {
    /// What is known of the model the file calls `name`. For when filters are built.
    pub(super) fn of(&self, name: &Arc<str>) -> Arc<Estimate> {
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        models.entry(name.clone()).or_default().clone()
    }
}

/// What is known of one model.
#[derive(Debug)]
pub(super) struct Estimate {
    /// Tokens in 1024 bytes of a prompt.
    ratio: AtomicU64,
    /// 95 % of the answers have at most as many tokens; 0 before that is known.
    completion: AtomicU64,
    /// Prompts learned from.
    prompts: AtomicU64,
    /// Tokens in 1024 events of a stream.
    per_event: AtomicU64,
    learned: Mutex<Learned>,
}

impl Default for Estimate {
    fn default() -> Self {
        let (ratio, completion) = (AtomicU64::new(FIRST_RATIO), AtomicU64::new(0));
        let (prompts, per_event) = (AtomicU64::new(0), AtomicU64::new(1024));
        Self { ratio, completion, prompts, per_event, learned: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Learned {
    tokens: f64,
    bytes: f64,
    /// Tokens of streams, and the events they came in.
    streamed: f64,
    events: f64,
    /// Answers by length: the first 0 or 1 tokens, each further one half as long again as the one before.
    answers: [u32; LENGTHS],
    count: u32,
}

const LENGTHS: usize = 32;

/// What a request is expected to cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) prompt: u64,
    pub(super) completion: u64,
    /// Whether `completion` is what the client asked for, not our guess.
    pub(super) is_stated: bool,
    /// Whether nobody knows yet how long this model's answers are.
    pub(super) is_unknown: bool,
    /// What its tokens cost, if money is limited.
    pub(super) price: Price,
    /// Whether `prompt` rests on what the backend has said of others.
    is_measured: bool,
    /// Bytes of the prompt that are text.
    text: u64,
    /// Pictures and recordings in it.
    media: u64,
    choices: u64,
}

impl Cost {
    pub(super) fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    /// In money.
    pub(super) fn money(&self) -> u64 {
        let usage = Usage { prompt: Some(self.prompt), completion: Some(self.completion), ..Usage::default() };
        self.price.of(&usage)
    }

    /// The same, with an answer of one token where nobody knows how long it will be.
    pub(super) fn least(&self) -> Self {
        let completion = if self.is_unknown { self.completion.min(self.choices) } else { self.completion };
        Self { completion, ..*self }
    }

    /// The parts of it that are more than a guess: by these a request may be told that it is too large for good.
    pub(super) fn certain(&self) -> Self {
        let prompt = if self.is_measured { self.prompt } else { 0 };
        let completion = if self.is_stated { self.completion } else { 0 };
        Self { prompt, completion, ..*self }
    }
}

/// What calls of an endpoint cost tokens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spends {
    PromptAndAnswer,
    Prompt,
    /// Nobody can tell before: a recording, an image, a path we do not know.
    Something,
    Nothing,
}

impl Spends {
    pub(super) fn of(endpoint: Endpoint, has_body: bool) -> Self {
        match endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => Self::PromptAndAnswer,
            Endpoint::Embeddings | Endpoint::Rerank => Self::Prompt,
            Endpoint::CountTokens | Endpoint::Tokenize | Endpoint::Detokenize => Self::Nothing,
            Endpoint::Images | Endpoint::Audio | Endpoint::Other if has_body => Self::Something,
            Endpoint::Images | Endpoint::Audio | Endpoint::Other => Self::Nothing,
        }
    }
}

impl Estimate {
    /// What a call with this body will cost.
    pub(super) fn cost(&self, spends: Spends, call: Option<&Call>, body: &[u8]) -> Cost {
        if matches!(spends, Spends::Nothing | Spends::Something) || call.is_none() {
            let prompt = u64::from(spends != Spends::Nothing);
            return Cost { prompt, ..Cost::default() };
        }
        let (text, media) = measure(body);
        let prompt = (text * self.ratio.load(Relaxed)).div_ceil(1024).saturating_add(media * MEDIA).max(1);
        let choices = call.map_or(1, |call| call.n.max(call.best_of).unwrap_or(1).max(1));
        let stated = call.and_then(|call| call.max_tokens);
        let (expected, is_unknown) = self.answer(stated);
        let completion = if spends == Spends::PromptAndAnswer { expected.saturating_mul(choices) } else { 0 };
        let is_measured = media == 0 && self.prompts.load(Relaxed) >= u64::from(ENOUGH);
        let is_stated = stated.is_some();
        Cost { prompt, completion, is_stated, is_unknown, is_measured, text, media, choices, price: Price::default() }
    }

    /// What a turn of a conversation will cost, before which its client has said so many bytes of text.
    pub(super) fn turn(&self, text: u64, stated: Option<u64>) -> Cost {
        let prompt = text.saturating_mul(self.ratio.load(Relaxed)).div_ceil(1024).max(1);
        let (completion, is_unknown) = self.answer(stated);
        Cost { prompt, completion, is_stated: stated.is_some(), is_unknown, text, choices: 1, ..Cost::default() }
    }

    /// How long an answer may be, and whether nobody knows.
    fn answer(&self, stated: Option<u64>) -> (u64, bool) {
        match (stated, self.completion.load(Relaxed)) {
            (Some(stated), _) => (stated, false),
            (None, 0) => (FIRST_COMPLETION, true),
            (None, learned) => (learned, false),
        }
    }

    /// How many tokens so many events of a stream most likely carried.
    pub(super) fn of_events(&self, events: u64) -> u64 {
        (events.min(1 << 40) * self.per_event.load(Relaxed)).div_ceil(1024)
    }

    /// Learns from what a call did cost, as its backend says, and in how many events of a stream it came.
    pub(super) fn learn(&self, expected: &Cost, usage: &Usage, events: u64) {
        let Ok(mut learned) = self.learned.try_lock() else { return };
        let streamed = usage.completion.filter(|completion| !usage.estimated && *completion > 0 && events > 0);
        if let Some(completion) = streamed {
            learned.streamed = learned.streamed * 0.9 + completion.min(1 << 32) as f64;
            learned.events = learned.events * 0.9 + events as f64;
            let per_event = (learned.streamed / learned.events * 1024.0).clamp(128.0, 65536.0);
            self.per_event.store(per_event as u64, Relaxed);
        }
        if let Some(prompt) = usage.prompt.filter(|_| expected.media == 0 && expected.text > 0) {
            // Weighted by size, so that a template around short prompts does not pass for the density of long ones.
            learned.tokens = learned.tokens * 0.9 + prompt.min(1 << 32) as f64;
            learned.bytes = learned.bytes * 0.9 + expected.text as f64;
            let ratio = (learned.tokens / learned.bytes * 1024.0).clamp(16.0, 4096.0);
            self.ratio.store(ratio as u64, Relaxed);
            self.prompts.fetch_add(1, Relaxed);
        }
        if let Some(completion) = usage.completion.filter(|_| !usage.estimated && expected.choices > 0) {
            learned.answer(completion / expected.choices);
            if learned.count >= ENOUGH {
                self.completion.store(learned.high(), Relaxed);
            }
        }
    }
}

impl Learned {
    fn answer(&mut self, tokens: u64) {
        let length = (0..LENGTHS).find(|length| tokens <= bound(*length)).unwrap_or(LENGTHS - 1);
        self.answers[length] += 1;
        self.count += 1;
        // What was long ago counts less and less.
        if self.count >= 1024 {
            self.answers.iter_mut().for_each(|answers| *answers /= 2);
            self.count = self.answers.iter().sum();
        }
    }

    fn high(&self) -> u64 {
        let mut left = self.count - self.count / 20;
        let length = self.answers.iter().position(|answers| {
            left = left.saturating_sub(*answers);
            left == 0
        });
        bound(length.unwrap_or(LENGTHS - 1))
    }
}

/// The longest answer of a length: 1, 2, 3, 5, 8, 12, 18, 27, ... 466608.
fn bound(length: usize) -> u64 {
    (0..length).fold(1_u64, |bound, _| bound + bound.div_ceil(2))
}

/// Bytes that are text, and how many pieces of media stand between them: strings of base64.
fn measure(body: &[u8]) -> (u64, u64) {
    if body.len() < LONG {
        return (body.len() as u64, 0);
    }
    let (mut start, mut media, mut media_bytes) = (0, 0, 0);
    // What is long begins at the last quote of a window as long as it, so that most of a text is not looked at.
    while let Some(window) = body.get(start..start + LONG) {
        if let Some(quote) = memchr::memrchr(b'"', window) {
            start += quote + 1;
            continue;
        }
        let Some(rest) = memchr::memchr(b'"', &body[start + LONG..]) else { break };
        let string = &body[start..start + LONG + rest];
        if is_base64(string) {
            media += 1;
            media_bytes += string.len();
        }
        start += string.len() + 1;
    }
    ((body.len() - media_bytes) as u64, media)
}

/// Whether a long string is base64, perhaps behind `data:...;base64,`: no text goes on so long without a blank.
fn is_base64(string: &[u8]) -> bool {
    let data = &string[string.len() / 4..string.len() * 3 / 4];
    data.iter().take(LONG).all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> Call {
        Call::read(body.as_bytes(), Endpoint::Chat).unwrap()
    }

    fn cost(estimate: &Estimate, body: &str) -> Cost {
        estimate.cost(Spends::PromptAndAnswer, Some(&call(body)), body.as_bytes())
    }

    #[test]
    fn a_prompt_is_measured_by_what_backends_say_of_others() {
        let estimate = Estimate::default();
        let body = format!(r#"{{"model":"m","max_tokens":8,"messages":[{{"content":"{}"}}]}}"#, "word ".repeat(800));
        let first = cost(&estimate, &body);
        assert_eq!(first.prompt, (body.len() as u64).div_ceil(4));
        let usage = Usage { prompt: Some(body.len() as u64 / 2), completion: Some(8), ..Usage::default() };
        estimate.learn(&first, &usage, 0);
        let next = cost(&estimate, &body);
        assert!(next.prompt.abs_diff(body.len() as u64 / 2) <= 4, "{next:?}");
        assert_eq!((next.completion, next.is_stated), (8, true));
    }

    #[test]
    fn an_answer_is_expected_to_be_as_long_as_most_are() {
        let estimate = Estimate::default();
        let body = r#"{"model":"m","n":2,"messages":[]}"#;
        assert_eq!(cost(&estimate, body).completion, 2 * FIRST_COMPLETION);
        for tokens in (0..200).map(|n| if n % 50 == 0 { 5000 } else { 100 }) {
            let usage = Usage { completion: Some(tokens * 2), ..Usage::default() };
            estimate.learn(&cost(&estimate, body), &usage, 0);
        }
        let learned = cost(&estimate, body).completion / 2;
        assert!((100..160).contains(&learned), "{learned}");
        let counted = Usage { completion: Some(90_000), estimated: true, ..Usage::default() };
        (0..500).for_each(|_| estimate.learn(&cost(&estimate, body), &counted, 0));
        assert_eq!(cost(&estimate, body).completion / 2, learned);
    }

    #[test]
    fn a_picture_is_not_counted_by_its_bytes() {
        let estimate = Estimate::default();
        let body =
            format!(r#"{{"model":"m","x":"data:image/png;base64,{}","messages":[]}}"#, "iVBORw0K".repeat(50_000));
        let cost = cost(&estimate, &body);
        assert!(cost.prompt < 2 * MEDIA, "{cost:?}");
        assert_eq!(measure("a \"plain text\" ".repeat(1000).as_bytes()), (15_000, 0));
    }

    #[test]
    fn media_is_found_wherever_it_begins() {
        let data = "iVBORw0K".repeat(400);
        for before in [0, 1, 100, LONG - 1, LONG, LONG + 1, 3 * LONG] {
            for after in [0, 7, 2 * LONG] {
                let text = |length: usize| "say \"it\", ".repeat(length / 10) + &"\"x".repeat(length % 10 / 2);
                let body = format!("{}\"{data}\"{}\"{data}\"", text(before), text(after));
                assert_eq!(measure(body.as_bytes()), ((body.len() - 2 * data.len()) as u64, 2), "{before} {after}");
            }
        }
        assert_eq!(measure(format!("\"{data}").as_bytes()), (data.len() as u64 + 1, 0), "it never ends");
    }

    #[test]
    fn events_are_worth_as_many_tokens_as_backends_put_into_them() {
        let estimate = Estimate::default();
        assert_eq!(estimate.of_events(10), 10);
        let (cost, usage) = (Cost::default(), Usage { completion: Some(300), ..Usage::default() });
        (0..50).for_each(|_| estimate.learn(&cost, &usage, 100));
        assert_eq!(estimate.of_events(10), 30);
        let counted = Usage { completion: Some(100), estimated: true, ..Usage::default() };
        (0..50).for_each(|_| estimate.learn(&cost, &counted, 100));
        assert_eq!(estimate.of_events(10), 30, "what was counted teaches nothing");
    }

    #[test]
    fn the_lengths_of_answers_reach_far_enough() {
        assert!(bound(LENGTHS - 1) > 400_000, "{}", bound(LENGTHS - 1));
    }
}
