//! Chat and completions: chunks that are joined by choice, with the usage in a chunk of its own.

use super::tree::{Object, Tree, pieces};
use super::{Shape, event, payloads};
use crate::call::Endpoint;
use crate::json;
use std::borrow::Cow;

/// The whole answer that a stream's events add up to.
pub(super) fn whole(endpoint: Endpoint, events: &[u8]) -> Option<Vec<u8>> {
    let payloads = payloads(events);
    let mut top = Object::default();
    let mut choices: Vec<(u64, Object<'_>)> = Vec::new();
    for payload in &payloads {
        for (name, value) in Object::read(payload).0 {
            match (name, value) {
                (b"choices", Tree::Raw(Cow::Borrowed(list))) => {
                    // It stands where it first stood.
                    top.update(name, Tree::json(b"null".as_slice()));
                    json::elements_within(list, 0..list.len()).try_for_each(|at| join(&mut choices, &list[at]))?;
                }
                (b"object", _) if endpoint == Endpoint::Chat => {
                    top.set(name, Tree::json(b"\"chat.completion\"".as_slice()));
                }
                (name, value) => top.update(name, value),
            }
        }
    }
    // Announced in each chunk, and never given.
    if top.get(b"usage").is_some_and(Tree::is_null) {
        top.remove(b"usage");
    }
    choices.sort_by_key(|(index, _)| *index);
    let list = choices.into_iter().map(|(_, choice)| finished(endpoint, choice)).collect();
    *top.get_mut(b"choices")? = Tree::Array(list);
    Some(top.to_json())
}

/// Joins a piece of a choice with what came of it before.
fn join<'a>(choices: &mut Vec<(u64, Object<'a>)>, piece: &'a [u8]) -> Option<()> {
    let index = json::member(piece, "index").map_or(Some(0), |at| json::whole_number(&piece[at]))?;
    let at = choices.iter().position(|(known, _)| *known == index).unwrap_or_else(|| {
        choices.push((index, Object::default()));
        choices.len() - 1
    });
    let choice = &mut choices[at].1;
    for (name, value) in Object::read(piece).0 {
        let Tree::Raw(Cow::Borrowed(raw)) = value else { continue };
        match name {
            b"delta" => choice.merge(b"message", raw),
            b"text" | b"logprobs" => choice.merge(name, raw),
            _ if raw.first() == Some(&b'[') => choice.merge(name, raw),
            _ => choice.update(name, Tree::Raw(Cow::Borrowed(raw))),
        }
    }
    Some(())
}

/// A choice as a whole answer has it.
fn finished<'a>(endpoint: Endpoint, mut choice: Object<'a>) -> Tree<'a> {
    if endpoint == Endpoint::Chat {
        if choice.get(b"message").is_none_or(Tree::is_null) {
            choice.set(b"message", Tree::Object(Object::default()));
        }
        if let Some(Tree::Object(message)) = choice.get_mut(b"message") {
            if message.get(b"role").is_none() {
                message.set(b"role", Tree::json(b"\"assistant\"".as_slice()));
            }
            if message.get(b"content").is_none() {
                message.set(b"content", Tree::json(b"null".as_slice()));
            }
            if let Some(Tree::Array(calls)) = message.get_mut(b"tool_calls") {
                for call in calls {
                    if let Tree::Object(call) = call {
                        call.remove(b"index");
                    }
                }
            }
        }
    }
    Tree::Object(choice)
}

/// The events that a whole answer would have come as.
pub(super) fn events(endpoint: Endpoint, whole: &[u8], shape: Shape) -> Option<Vec<Vec<u8>>> {
    let mut top = Object::read(whole);
    let list = json::member(whole, "choices")?;
    let list: Vec<&[u8]> = json::elements_within(whole, list).map(|at| &whole[at]).collect();
    top.remove(b"choices");
    let usage = top.remove(b"usage").filter(|usage| !usage.is_null());
    if endpoint == Endpoint::Chat {
        top.set(b"object", Tree::json(b"\"chat.completion.chunk\"".as_slice()));
    }
    // What is said of the answer as a whole comes at its end.
    let is_early = |name: &[u8]| {
        matches!(name, b"id" | b"object" | b"created" | b"model" | b"system_fingerprint" | b"service_tier")
    };
    let (top, late): (Vec<_>, Vec<_>) = top.0.into_iter().partition(|(name, _)| is_early(name));
    let mut writer = Writer { top: Object(top), usage: shape.usage, chunks: Vec::new() };
    for choice in &list {
        let choice = Object::read(choice);
        match endpoint {
            Endpoint::Chat => chat_choice(&mut writer, choice, shape)?,
            _ => text_choice(&mut writer, choice, shape),
        }
    }
    let asked = if shape.usage { usage } else { None };
    // A chunk without choices is a surprise for a client that did not ask for one.
    if let Some(usage) = asked {
        let mut chunk = writer.top.clone();
        chunk.0.push((b"choices", Tree::Array(Vec::new())));
        chunk.0.push((b"usage", usage));
        writer.chunks.push(chunk);
    }
    if let Some(last) = writer.chunks.last_mut() {
        last.0.extend(late);
    }
    let mut events: Vec<_> = writer.chunks.iter().map(|chunk| event(None, &chunk.to_json())).collect();
    events.push(b"data: [DONE]\n\n".to_vec());
    Some(events)
}

struct Writer<'a> {
    top: Object<'a>,
    /// Whether the client gets the usage, and until then a null.
    usage: bool,
    chunks: Vec<Object<'a>>,
}

impl<'a> Writer<'a> {
    fn chunk(&mut self, choice: Object<'a>) {
        let mut chunk = self.top.clone();
        chunk.0.push((b"choices", Tree::Array(vec![Tree::Object(choice)])));
        if self.usage {
            chunk.0.push((b"usage", Tree::json(b"null".as_slice())));
        }
        self.chunks.push(chunk);
    }
}

/// A piece of a choice.
fn piece<'a>(index: &Tree<'a>, body: (&'a [u8], Tree<'a>), logprobs: Option<Tree<'a>>) -> Object<'a> {
    let null = || Tree::json(b"null".as_slice());
    let mut choice = Object(vec![(&b"index"[..], index.clone()), body]);
    choice.0.push((b"logprobs", logprobs.unwrap_or_else(null)));
    choice.0.push((b"finish_reason", null()));
    choice
}

fn chat_choice<'a>(writer: &mut Writer<'a>, mut choice: Object<'a>, shape: Shape) -> Option<()> {
    let index = choice.remove(b"index").unwrap_or_else(|| Tree::json(b"0".as_slice()));
    let Some(Tree::Raw(Cow::Borrowed(message))) = choice.remove(b"message") else { return None };
    let logprobs = choice.remove(b"logprobs");
    let mut message = Object::read(message);
    let role = message.remove(b"role").unwrap_or_else(|| Tree::json(b"\"assistant\"".as_slice()));
    let content = message.remove(b"content").unwrap_or_else(|| Tree::json(b"null".as_slice()));
    let calls = message.remove(b"tool_calls");
    let opening = if content.text().is_some() { Tree::Text(Vec::new()) } else { content.clone() };
    let delta = Object(vec![(&b"role"[..], role), (&b"content"[..], opening)]);
    writer.chunk(piece(&index, (b"delta", Tree::Object(delta)), None));
    // Reasoning, a refusal, annotations and what else there is.
    for (name, value) in message.0.into_iter().filter(|(_, value)| !value.is_null()) {
        writer.chunk(piece(&index, (b"delta", Tree::Object(Object(vec![(name, value)]))), None));
    }
    let content = content.text().unwrap_or_default().to_vec();
    for (text, logprobs) in said(&content, logprobs, shape.piece) {
        let delta = Object(text.map(|text| (&b"content"[..], Tree::Text(text))).into_iter().collect());
        writer.chunk(piece(&index, (b"delta", Tree::Object(delta)), logprobs));
    }
    if let Some(Tree::Raw(Cow::Borrowed(calls))) = &calls {
        for (number, at) in json::elements_within(calls, 0..calls.len()).enumerate() {
            let mut call = Object::read(&calls[at]);
            call.0.insert(0, (b"index", Tree::json(number.to_string().into_bytes())));
            let delta = Object(vec![(&b"tool_calls"[..], Tree::Array(vec![Tree::Object(call)]))]);
            writer.chunk(piece(&index, (b"delta", Tree::Object(delta)), None));
        }
    }
    choice.0.insert(0, (b"index", index));
    choice.0.insert(1, (b"delta", Tree::Object(Object::default())));
    choice.0.insert(2, (b"logprobs", Tree::json(b"null".as_slice())));
    writer.chunk(choice);
    Some(())
}

/// A text in pieces, each with the log probabilities of its tokens: they are given out with the tokens that they belong
/// to, or all with the first piece if they do not spell out the text.
fn said<'a>(content: &[u8], logprobs: Option<Tree<'a>>, size: usize) -> Vec<(Option<Vec<u8>>, Option<Tree<'a>>)> {
    let logprobs = logprobs.filter(|logprobs| !logprobs.is_null());
    let Some(Tree::Raw(Cow::Borrowed(raw))) = logprobs else {
        return pieces(content, size).into_iter().map(|text| (Some(text.to_vec()), None)).collect();
    };
    let mut others = Object::read(raw);
    let tokens: Vec<&[u8]> = match others.remove(b"content") {
        Some(Tree::Raw(Cow::Borrowed(list))) => {
            json::elements_within(list, 0..list.len()).map(|at| &list[at]).collect()
        }
        _ => Vec::new(),
    };
    let text_of = |token: &'a [u8]| {
        let at = json::member(token, "token")?;
        super::tree::inside(&token[at])
    };
    let texts: Option<Vec<&[u8]>> = tokens.iter().map(|token| text_of(token)).collect();
    let Some(texts) = texts.filter(|texts| !texts.is_empty() && texts.concat() == content) else {
        let mut said: Vec<_> = pieces(content, size).into_iter().map(|text| (Some(text.to_vec()), None)).collect();
        let all = Some(Tree::Raw(Cow::Borrowed(raw)));
        match said.first_mut() {
            Some(first) => first.1 = all,
            None => said.push((None, all)),
        }
        return said;
    };
    let mut said: Vec<(Vec<u8>, Vec<Tree<'a>>)> = Vec::new();
    for (token, text) in tokens.into_iter().zip(texts) {
        match said.last_mut().filter(|(text, _)| text.len() < size) {
            Some((known, list)) => {
                known.extend_from_slice(text);
                list.push(Tree::Raw(Cow::Borrowed(token)));
            }
            None => said.push((text.to_vec(), vec![Tree::Raw(Cow::Borrowed(token))])),
        }
    }
    let mut others = Some(others);
    let with_others = |(text, list): (Vec<u8>, Vec<Tree<'a>>)| {
        let mut logprobs = Object(vec![(&b"content"[..], Tree::Array(list))]);
        logprobs.0.extend(others.take().unwrap_or_default().0);
        (Some(text), Some(Tree::Object(logprobs)))
    };
    said.into_iter().map(with_others).collect()
}

fn text_choice<'a>(writer: &mut Writer<'a>, mut choice: Object<'a>, shape: Shape) {
    let index = choice.remove(b"index").unwrap_or_else(|| Tree::json(b"0".as_slice()));
    let logprobs = choice.remove(b"logprobs").filter(|logprobs| !logprobs.is_null());
    let text = choice.remove(b"text").and_then(|text| text.text().map(<[u8]>::to_vec)).unwrap_or_default();
    // Which of the tokens are which part of the text is not told: with log probabilities it comes in one piece.
    let parts = if logprobs.is_some() { vec![&text[..]] } else { pieces(&text, shape.piece) };
    let mut logprobs = logprobs;
    for part in parts {
        writer.chunk(piece(&index, (b"text", Tree::Text(part.to_vec())), logprobs.take()));
    }
    choice.0.insert(0, (b"index", index));
    choice.0.insert(1, (b"text", Tree::Text(Vec::new())));
    choice.0.insert(2, (b"logprobs", Tree::json(b"null".as_slice())));
    writer.chunk(choice);
}
