//! Whether a stream was whole, where it ends and what it has cost.

mod template;

use std::sync::{Arc, LazyLock};

use memchr::memmem::{self, Finder};

use self::template::Template;
use super::{Event, Events};
use crate::call::Endpoint;
use crate::json;
use crate::usage::{self, Place, Usage};

static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));
static ROLE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"role\""));
static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"finish_reason\""));

/// Follows one stream, block by block. It keeps counts and marks but no bytes.
#[derive(Clone, Debug)]
pub struct StreamWatch {
    protocol: Protocol,
    choices: u64,
    has_begun: bool,
    is_done: bool,
    has_failed: bool,
    finish_reasons: u64,
    content_events: u64,
    usage: Usage,
    usage_is_final: bool,
    usage_is_unbelievable: bool,
    was_filtered: bool,
    texts: Texts,
}

/// How a stream has ended that is proven to be whole and free of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// What it has cost; see [`StreamWatch::usage`].
    pub usage: Option<Usage>,
    /// Whether a filter of the backend's own has cut it short.
    pub was_filtered: bool,
}

/// What a block of events turned out to contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the backend has said something: an event with data, and no ping.
    pub has_event: bool,
    /// Whether some of that was a piece of the answer.
    pub has_content: bool,
    /// The stream is over, and this is where in the block: behind the last event. What follows is not for the client.
    pub done_at: Option<usize>,
    /// Where the first event begins that reports an error.
    pub failed_at: Option<usize>,
    /// Whether each event is as one before but for its text: nothing in it is there for anybody but the reader.
    pub only_text: bool,
}

/// How streams of an endpoint mark their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// `[DONE]`; and before it, a `finish_reason` for each choice.
    Chunks,
    /// `message_stop`.
    Messages,
    /// `response.completed`, `response.failed` or `response.incomplete`.
    Responses,
    /// Unknown to us; `[DONE]` is understood.
    Unmarked,
}

/// What an event may contain.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Hints {
    error: bool,
    usage: bool,
    role: bool,
    finish_reason: bool,
}

/// Where a block mentions a key next: it is searched once, however many events it has.
struct Mention {
    key: &'static Finder<'static>,
    next: Option<usize>,
}

impl Mention {
    fn of(key: &'static Finder<'static>, block: &[u8], from: usize) -> Self {
        Self { key, next: json::mention(block, from, key) }
    }

    /// Whether this event does. To be asked of one event after the other.
    fn is_in(&mut self, block: &[u8], event: &Event<'_>) -> bool {
        if self.next.is_some_and(|next| next < event.start) {
            self.next = json::mention(block, event.start, self.key);
        }
        self.next.is_some_and(|next| next < event.end)
    }
}

/// The same of all keys that matter.
struct Mentions {
    error: Mention,
    usage: Mention,
    /// The role and the reason to finish, where the protocol has them.
    chunks: Option<[Mention; 2]>,
}

impl Mentions {
    fn of(protocol: Protocol, block: &[u8], from: usize) -> Self {
        let mention = |key| Mention::of(key, block, from);
        let chunks = (protocol == Protocol::Chunks).then(|| [mention(&ROLE), mention(&FINISH_REASON)]);
        Self { error: mention(&ERROR), usage: mention(&usage::KEY), chunks }
    }

    fn within(&mut self, block: &[u8], event: &Event<'_>) -> Hints {
        let [role, finish_reason] = match &mut self.chunks {
            Some(keys) => keys.each_mut().map(|key| key.is_in(block, event)),
            None => [false; 2],
        };
        Hints { error: self.error.is_in(block, event), usage: self.usage.is_in(block, event), role, finish_reason }
    }
}

/// How many events are looked at for what they have in common, unless many have been since.
const TRIES: u8 = 8;

/// How many events of one form make it worth looking for another.
const MANY: u32 = 16;

/// What the events have in common that bring text and nothing else.
#[derive(Clone, Debug, Default)]
struct Texts {
    template: Option<Arc<Template>>,
    /// The last one that was not like that.
    last: Vec<u8>,
    tried: u8,
    /// Events since the template was found.
    like_it: u32,
}

impl Texts {
    /// Where such an event ends, if one begins at `at`.
    fn end_in(&mut self, block: &[u8], at: usize) -> Option<usize> {
        let end = self.template.as_ref()?.end_in(block, at)?;
        self.like_it = self.like_it.saturating_add(1);
        Some(end)
    }

    /// Takes note of an event that brings text and nothing else, and was not like others.
    fn learn(&mut self, event: &[u8]) {
        if self.like_it >= MANY {
            (self.tried, self.like_it) = (0, 0);
        }
        // Half an event is like no other.
        if self.tried >= TRIES || !event.ends_with(b"\n") && !event.ends_with(b"\r") {
            return;
        }
        self.tried += 1;
        match Template::of(&self.last, event) {
            // Those that come are most likely like it: nothing else is held for long.
            Some(template) => {
                (self.template, self.last, self.like_it) = (Some(Arc::new(template)), Vec::new(), 0);
            }
            None => self.last = event.to_vec(),
        }
    }
}

impl StreamWatch {
    /// A watch over the answer of a call with one choice.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let protocol = match endpoint {
            Endpoint::Chat | Endpoint::Completions => Protocol::Chunks,
            Endpoint::Messages => Protocol::Messages,
            Endpoint::Responses => Protocol::Responses,
            _ => Protocol::Unmarked,
        };
        Self {
            protocol,
            choices: 1,
            has_begun: false,
            is_done: false,
            has_failed: false,
            finish_reasons: 0,
            content_events: 0,
            usage: Usage::default(),
            usage_is_final: false,
            usage_is_unbelievable: false,
            was_filtered: false,
            texts: Texts::default(),
        }
    }

    /// The same over an answer with `choices` choices (the call's `n`).
    #[must_use]
    pub fn with_choices(self, choices: u64) -> Self {
        Self { choices, ..self }
    }

    /// Takes the next block of whole events.
    pub fn see(&mut self, block: &[u8]) -> Seen {
        let mut seen = Seen { done_at: self.is_done.then_some(0), ..Seen::default() };
        let (mut at, content, mut only_text) = (0, self.content_events, true);
        let mut mentions: Option<Mentions> = None;
        while !self.is_done && at < block.len() {
            if let Some(end) = self.texts.end_in(block, at) {
                (at, seen.has_event) = (end, true);
                self.content_events += 1;
                continue;
            }
            let Some(event) = Events::from(block, at).next() else { break };
            at = event.end;
            only_text = false;
            if event.is_comment_only() || event.name == Some(b"ping") {
                continue;
            }
            seen.has_event = true;
            let hints =
                mentions.get_or_insert_with(|| Mentions::of(self.protocol, block, event.start)).within(block, &event);
            let (had_failed, before) = (self.has_failed, self.content_events);
            self.event(&event, hints);
            if self.has_failed && !had_failed {
                seen.failed_at = Some(event.start);
            }
            if hints == Hints::default() && self.content_events > before && event.data_lines == 1 {
                self.texts.learn(&block[event.start..event.end]);
            }
            seen.done_at = self.is_done.then_some(event.end);
        }
        seen.has_content = self.content_events > content;
        seen.only_text = only_text && seen.has_event;
        seen
    }

    fn event(&mut self, event: &Event<'_>, hints: Hints) {
        if event.is_done() {
            self.is_done = true;
            return;
        }
        self.has_begun = true;
        let data = &*event.payload();
        let failed = event.name == Some(b"error") || hints.error && has_error(data);
        self.has_failed |= failed;
        let content = self.content_events;
        match self.protocol {
            Protocol::Chunks if !failed => self.chunk(data, hints),
            Protocol::Messages => self.message_event(name_of(event, data)),
            Protocol::Responses => self.response_event(name_of(event, data)),
            Protocol::Chunks | Protocol::Unmarked => {}
        }
        if hints.finish_reason || self.content_events == content {
            self.was_filtered |= was_filtered(data);
        }
        match hints.usage.then(|| Usage::with_place(data)).flatten() {
            Some(Ok((usage, place))) => {
                self.usage.update(usage);
                self.usage_is_final |= place != Place::Message;
            }
            Some(Err(_)) => self.usage_is_unbelievable = true,
            None => {}
        }
    }

    fn chunk(&mut self, data: &[u8], hints: Hints) {
        let finished = if hints.finish_reason { finish_reasons(data) } else { 0 };
        self.finish_reasons += finished;
        // A chat's first chunk mostly names the role only, and the one with the reason need not have a text.
        let may_be_empty = finished > 0 || hints.role && memmem::find(data, b"\"role\"").is_some();
        // One that is there for the usage only.
        let is_bill = hints.usage && memmem::find(data, b"\"choices\":[]").is_some();
        self.content_events += u64::from(!(is_bill || may_be_empty && has_empty_delta(data)));
    }

    fn message_event(&mut self, name: &[u8]) {
        self.has_failed |= name == b"error";
        self.is_done |= name == b"message_stop";
        self.content_events += u64::from(name == b"content_block_delta");
    }

    fn response_event(&mut self, name: &[u8]) {
        self.is_done |= matches!(name, b"response.completed" | b"response.failed" | b"response.incomplete");
        self.has_failed |= matches!(name, b"response.failed" | b"error");
        self.content_events += u64::from(name.ends_with(b".delta"));
    }

    /// Whether the protocol's own last event has come: `[DONE]` or its like.
    #[must_use]
    pub fn saw_done(&self) -> bool {
        self.is_done
    }

    /// Whether the stream's end has come, and nothing before it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_done && !self.has_begun
    }

    /// Whether every choice has got its `finish_reason`. Only chat and completions have one.
    #[must_use]
    pub fn saw_finish_reason(&self) -> bool {
        self.finish_reasons >= self.choices
    }

    /// Whether the backend has reported an error in the stream.
    #[must_use]
    pub fn saw_error(&self) -> bool {
        self.has_failed
    }

    /// How many events carried a piece of the answer: about its tokens, most backends sending them one by one.
    #[must_use]
    pub fn content_events(&self) -> u64 {
        self.content_events
    }

    /// Whether the stream, if it ends here, is proven to be whole and free of errors. A stream of which we do not know
    /// how it would end is taken at its word.
    #[must_use]
    pub fn complete(&self) -> bool {
        !self.has_failed
            && !self.is_empty()
            && match self.protocol {
                Protocol::Chunks => self.is_done || self.saw_finish_reason(),
                Protocol::Messages | Protocol::Responses => self.is_done,
                Protocol::Unmarked => true,
            }
    }

    /// Its end, if it may end here.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.complete().then(|| StreamEnd { usage: self.usage(), was_filtered: self.was_filtered })
    }

    /// Whether the backend has said of its usage what cannot be.
    #[must_use]
    pub fn is_unbelievable(&self) -> bool {
        self.usage_is_unbelievable
    }

    /// What the stream has cost so far: as the backend says, or else as far as it has said so, with the events
    /// counted in place of the answer's tokens. `None` if it has neither said nor sent anything.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        if self.usage_is_final {
            return Some(self.usage);
        }
        let said_something = self.content_events > 0 || self.usage != Usage::default();
        let counted = Usage { completion: Some(self.content_events), estimated: true, ..self.usage };
        said_something.then_some(counted)
    }
}

/// Whether a filter of the backend's own has cut this answer short, be it whole or events.
#[must_use]
pub fn was_filtered(answer: &[u8]) -> bool {
    static CUT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"content_filter\""));
    CUT.find_iter(answer).any(|at| {
        let before = answer[..at].trim_ascii_end();
        before.strip_suffix(b":").is_some_and(|before| before.trim_ascii_end().ends_with(b"reason\""))
    })
}

/// An event's name; some backends give it as the `type` within the data only.
fn name_of<'a>(event: &Event<'a>, data: &'a [u8]) -> &'a [u8] {
    let kind = || data[json::member(data, "type")?].strip_prefix(b"\"")?.strip_suffix(b"\"");
    event.name.or_else(kind).unwrap_or_default()
}

fn has_error(data: &[u8]) -> bool {
    json::member(data, "error").is_some_and(|value| data[value] != *b"null")
}

/// Whether the choices of a chunk bring nothing of the answer: no more than a role, and members without content.
fn has_empty_delta(data: &[u8]) -> bool {
    let Some(choices) = json::member(data, "choices") else { return false };
    let mut choices = json::elements_within(data, choices).peekable();
    let is_empty = |choice| match json::members_within(data, choice).find(|member| member.key == b"delta") {
        Some(delta) => json::members_within(data, delta.value)
            .all(|member| member.key == b"role" || matches!(&data[member.value], b"null" | b"\"\"" | b"[]" | b"{}")),
        None => false,
    };
    choices.peek().is_some() && choices.all(is_empty)
}

/// How many choices of a chunk have a reason to finish.
fn finish_reasons(data: &[u8]) -> u64 {
    let reason_in = |choice| json::members_within(data, choice).find(|member| member.key == b"finish_reason");
    let Some(choices) = json::member(data, "choices") else { return 0 };
    let reasons = json::elements_within(data, choices).filter_map(reason_in);
    reasons.filter(|reason| data[reason.value.start] == b'"').count() as u64
}

#[cfg(test)]
mod tests;
