//! What conditions can look at.

use crate::call::{Endpoint, Key};
use crate::exchange::Exchange;
use crate::json;
use http::HeaderName;
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// What every type of a part that brings a picture has in it.
static IMAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("image"));

/// What a request has or has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// It offers tools.
    HasTools,
    /// There are pictures in it.
    HasImages,
    /// It wants JSON, by schema or not.
    JsonMode,
    /// It wants an event stream.
    Stream,
}

/// What is counted in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Tokens of the prompt: one for four bytes.
    PromptTokens,
    /// The most tokens that the answer may have; 0 if the request does not say.
    MaxTokens,
    /// Messages of the conversation.
    Messages,
    /// Tools offered.
    Tools,
    /// Answers asked for.
    Choices,
    /// Bytes of the body.
    BodyBytes,
}

/// What is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// The model asked for.
    Model,
    /// Which API: `chat`, `completions`, `embeddings`, ...
    Endpoint,
    /// The name of the key.
    Key,
    /// The user.
    User,
    /// The team.
    Team,
    /// The organisation.
    Org,
    /// A header.
    Header(HeaderName),
}

pub(super) enum Feature {
    Flag(Flag),
    /// What is on or off for the caller; its name follows.
    Switch,
    /// What a classifier says of it; its name follows.
    Class,
    Number(Number),
    Text(Text),
}

/// What is followed by the header's name.
pub(super) const HEADER: &str = "header";

/// What is followed by the name of a flag that callers have.
pub(super) const SWITCH: &str = "flag";

const FLAGS: [(&str, Flag); 4] = [
    ("has_tools", Flag::HasTools),
    ("has_images", Flag::HasImages),
    ("json_mode", Flag::JsonMode),
    ("stream", Flag::Stream),
];

const NUMBERS: [(&str, Number); 6] = [
    ("prompt_tokens", Number::PromptTokens),
    ("max_tokens", Number::MaxTokens),
    ("messages", Number::Messages),
    ("tools", Number::Tools),
    ("n", Number::Choices),
    ("body_bytes", Number::BodyBytes),
];

const TEXTS: [(&str, Text); 6] = [
    ("model", Text::Model),
    ("endpoint", Text::Endpoint),
    ("key", Text::Key),
    ("user", Text::User),
    ("team", Text::Team),
    ("org", Text::Org),
];

/// What is followed by the name of a classifier.
pub(super) const CLASS: &str = "class";

pub(super) fn named(name: &str) -> Option<Feature> {
    if name == HEADER {
        return Some(Feature::Text(Text::Header(http::header::HOST)));
    }
    match name {
        SWITCH => return Some(Feature::Switch),
        CLASS => return Some(Feature::Class),
        _ => {}
    }
    let flag = FLAGS.iter().find(|(known, _)| *known == name).map(|(_, flag)| Feature::Flag(*flag));
    let number = || NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| Feature::Number(*number));
    let text = || TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| Feature::Text(text.clone()));
    flag.or_else(number).or_else(text)
}

pub(super) fn names() -> String {
    let names = FLAGS.iter().map(|(name, _)| *name);
    let names = names.chain(NUMBERS.iter().map(|(name, _)| *name)).chain(TEXTS.iter().map(|(name, _)| *name));
    names.chain(["header(\"...\")", "flag(\"...\")", "class(\"...\")"]).collect::<Vec<_>>().join(", ")
}

/// A request, looked at.
pub(super) struct Features<'a>(&'a Exchange);

impl<'a> Features<'a> {
    pub(super) fn of(exchange: &'a Exchange) -> Self {
        Self(exchange)
    }

    pub(super) fn flag(&self, flag: Flag) -> bool {
        match flag {
            Flag::HasTools => self.number(Number::Tools) > 0,
            Flag::HasImages => self.has_images(),
            Flag::JsonMode => self.wants_json(),
            Flag::Stream => self.0.wants_stream(),
        }
    }

    pub(super) fn switch(&self, name: &str) -> bool {
        self.0.caller().is_some_and(|caller| caller.has_flag(name))
    }

    pub(super) fn class(&self, classifier: &str) -> Option<&'a Arc<str>> {
        self.0.class(classifier)
    }

    pub(super) fn number(&self, number: Number) -> u64 {
        let call = self.0.call();
        let elements = |key| {
            let span = call.and_then(|call| call.span(key));
            span.map_or(0, |span| json::elements_within(self.0.body(), span).count() as u64)
        };
        match number {
            Number::PromptTokens => self.prompt().map_or(0, |prompt| prompt.len() as u64 / 4),
            Number::MaxTokens => call.and_then(|call| call.max_tokens).unwrap_or(0),
            Number::Messages => elements(Key::Messages),
            Number::Tools => elements(Key::Tools),
            Number::Choices => call.and_then(|call| call.n).unwrap_or(1),
            Number::BodyBytes => self.0.body().len() as u64,
        }
    }

    pub(super) fn text(&self, text: &Text) -> Option<Cow<'a, str>> {
        let caller = self.0.caller();
        let named = match text {
            Text::Model => self.0.model(),
            Text::Endpoint => return Some(self.0.endpoint().as_str().into()),
            Text::Key => caller.and_then(|caller| caller.key.as_ref()),
            Text::User => caller.and_then(|caller| caller.user.as_ref()),
            Text::Team => caller.and_then(|caller| caller.team.as_ref()),
            Text::Org => caller.and_then(|caller| caller.org.as_ref()),
            Text::Header(name) => return self.0.headers().get(name)?.to_str().ok().map(Cow::Borrowed),
        };
        named.map(|name| Cow::Borrowed(&**name))
    }

    /// Where what the model is to read stands in the body.
    fn prompt(&self) -> Option<Range<usize>> {
        let call = self.0.call()?;
        [Key::Messages, Key::Input, Key::Prompt].into_iter().find_map(|key| call.span(key))
    }

    /// Whether a part of a message, or a message itself, is of a type that brings a picture.
    fn has_images(&self) -> bool {
        let Some(prompt) = self.prompt() else { return false };
        let body = &self.0.body()[..];
        let is_named = |range| IMAGE.find(&body[range]).is_some();
        // No type is long: what is said need not be searched.
        let may_have = match self.0.outline() {
            Some(outline) => outline.beside_long(prompt.clone()).any(is_named),
            None => is_named(prompt.clone()),
        };
        if !may_have {
            return false;
        }
        let is_image = |element: Range<usize>| {
            let types = [&b"\"image_url\""[..], b"\"input_image\"", b"\"image\""];
            let kind = json::members_within(body, element).find(|member| member.key == b"type");
            kind.is_some_and(|kind| types.contains(&&body[kind.value]))
        };
        json::elements_within(body, prompt).any(|message| {
            let content = json::members_within(body, message.clone()).find(|member| member.key == b"content");
            is_image(message) || content.is_some_and(|it| json::elements_within(body, it.value).any(is_image))
        })
    }

    /// `response_format` of chats and completions, `text.format` of responses.
    fn wants_json(&self) -> bool {
        let body = &self.0.body()[..];
        let within = |range: Range<usize>, name: &[u8]| {
            json::members_within(body, range).find(|member| member.key == name).map(|member| member.value)
        };
        let format = match self.0.endpoint() {
            Endpoint::Responses => json::member(body, "text").and_then(|text| within(text, b"format")),
            _ => json::member(body, "response_format"),
        };
        let kind = format.and_then(|format| within(format, b"type"));
        kind.is_some_and(|kind| [&b"\"json_object\""[..], b"\"json_schema\""].contains(&&body[kind]))
    }
}
