//! Anthropic's messages: blocks that are opened, grown and closed, within a message that is.

use super::tree::{Object, Tree, inside, pieces};
use super::{Shape, event, payloads};
use crate::json;
use std::borrow::Cow;

/// The message that a stream's events add up to.
pub(super) fn whole(events: &[u8]) -> Option<Vec<u8>> {
    let payloads = payloads(events);
    let mut message: Option<Object<'_>> = None;
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for payload in &payloads {
        let event = Object::read(payload);
        let member = |name| json::member(payload, name).map(|at| &payload[at]);
        match event.given(b"type").and_then(inside)? {
            b"message_start" => message = Some(Object::read(member("message")?)),
            b"content_block_start" => blocks.push(Block::new(member("index")?, member("content_block")?)),
            b"content_block_delta" => {
                let index = member("index")?;
                blocks.iter_mut().find(|block| block.index == index)?.grow(member("delta")?);
            }
            b"message_delta" => {
                let message = message.as_mut()?;
                for (name, value) in Object::read(member("delta")?).0 {
                    message.set(name, value);
                }
                for (name, value) in event_rest(payload) {
                    message.update(name, value);
                }
                if let (Some(usage), Some(Tree::Raw(Cow::Borrowed(known)))) = (member("usage"), message.get(b"usage")) {
                    let mut known = Object::read(known);
                    Object::read(usage).0.into_iter().for_each(|(name, value)| known.update(name, value));
                    message.set(b"usage", Tree::Object(known));
                } else if let Some(usage) = member("usage") {
                    message.set(b"usage", Tree::Raw(Cow::Borrowed(usage)));
                }
            }
            _ => {}
        }
    }
    let mut message = message?;
    message.set(b"content", Tree::Array(blocks.into_iter().map(Block::finish).collect()));
    Some(message.to_json())
}

/// What an event of the end says beside the delta and the usage: a container, and what is not known yet.
fn event_rest(payload: &[u8]) -> impl Iterator<Item = (&[u8], Tree<'_>)> {
    Object::read(payload).0.into_iter().filter(|(name, _)| !matches!(*name, b"type" | b"delta" | b"usage"))
}

struct Block<'a> {
    index: &'a [u8],
    content: Object<'a>,
    /// The input of a tool, as it is written in the pieces of a text.
    input: Option<Vec<u8>>,
}

impl<'a> Block<'a> {
    fn new(index: &'a [u8], block: &'a [u8]) -> Self {
        Self { index, content: Object::read(block), input: None }
    }

    fn grow(&mut self, delta: &'a [u8]) {
        for (name, value) in Object::read(delta).0 {
            let Tree::Raw(Cow::Borrowed(raw)) = value else { continue };
            match name {
                b"type" => {}
                b"partial_json" => {
                    self.input.get_or_insert_default().extend_from_slice(inside(raw).unwrap_or_default());
                }
                b"citation" => {
                    if !matches!(self.content.get(b"citations"), Some(Tree::Array(_))) {
                        self.content.set(b"citations", Tree::Array(Vec::new()));
                    }
                    if let Some(Tree::Array(citations)) = self.content.get_mut(b"citations") {
                        citations.push(Tree::Raw(Cow::Borrowed(raw)));
                    }
                }
                _ => {
                    // What a block begins with is a piece as well.
                    if let Some(Tree::Raw(Cow::Borrowed(begun))) =
                        self.content.get(name).filter(|known| known.text().is_some())
                    {
                        let begun = Tree::Text(inside(begun).unwrap_or_default().to_vec());
                        self.content.set(name, begun);
                    }
                    self.content.merge(name, raw);
                }
            }
        }
    }

    fn finish(mut self) -> Tree<'a> {
        if let Some(written) = self.input {
            let input = json::unquoted(&written).filter(|input| !input.trim().is_empty());
            let input = input.map_or_else(|| b"{}".to_vec(), |input| input.into_owned().into_bytes());
            self.content.set(b"input", Tree::json(input));
        }
        Tree::Object(self.content)
    }
}

/// The events that a whole message would have come as.
pub(super) fn events(whole: &[u8], shape: Shape) -> Option<Vec<Vec<u8>>> {
    let mut message = Object::read(whole);
    let null = || Tree::json(b"null".as_slice());
    let Some(Tree::Raw(Cow::Borrowed(content))) = message.get(b"content").cloned() else { return None };
    let mut end = Vec::new();
    for name in [&b"stop_reason"[..], b"stop_sequence", b"container", b"context_management"] {
        if let Some(value) = message.get_mut(name) {
            end.push((name, std::mem::replace(value, null())));
        }
    }
    let usage = message.get(b"usage").cloned();
    if let Some(Tree::Raw(Cow::Borrowed(usage))) = &usage {
        let mut begun = Object::read(usage);
        if let Some(output) = begun.get_mut(b"output_tokens") {
            *output = Tree::json(b"0".as_slice());
        }
        message.set(b"usage", Tree::Object(begun));
    }
    message.set(b"content", Tree::Array(Vec::new()));
    let mut out = Writer::default();
    out.say("message_start", vec![(&b"message"[..], Tree::Object(message))]);
    for (number, at) in json::elements_within(content, 0..content.len()).enumerate() {
        out.block(number, Object::read(&content[at]), shape.piece);
    }
    let is_delta = |name: &[u8]| matches!(name, b"stop_reason" | b"stop_sequence");
    let (delta, rest): (Vec<_>, Vec<_>) = end.into_iter().partition(|(name, _)| is_delta(name));
    let mut fields = vec![(&b"delta"[..], Tree::Object(Object(delta)))];
    fields.extend(usage.map(|usage| (&b"usage"[..], usage)));
    fields.extend(rest.into_iter().filter(|(_, value)| !value.is_null()));
    out.say("message_delta", fields);
    out.say("message_stop", Vec::new());
    Some(out.events)
}

#[derive(Default)]
struct Writer {
    events: Vec<Vec<u8>>,
}

impl Writer {
    fn say<'a>(&mut self, name: &str, fields: Vec<(&'a [u8], Tree<'a>)>) {
        let mut data = Object(vec![(&b"type"[..], Tree::Text(name.as_bytes().to_vec()))]);
        data.0.extend(fields);
        self.events.push(event(Some(name), &data.to_json()));
    }

    fn block<'a>(&mut self, number: usize, mut block: Object<'a>, size: usize) {
        let index = || Tree::json(number.to_string().into_bytes());
        let mut deltas: Vec<Vec<(&'a [u8], Tree<'a>)>> = Vec::new();
        let kind = |kind: &str| (&b"type"[..], Tree::Text(kind.as_bytes().to_vec()));
        let grown = |deltas: &mut Vec<_>, block: &mut Object<'a>, name: &'a [u8], delta: &str, whole: bool| {
            let Some(text) = block.get_mut(name).filter(|value| value.text().is_some()) else { return };
            let text = std::mem::replace(text, Tree::Text(Vec::new()));
            let inner = text.text().unwrap_or_default();
            let parts = if whole { vec![inner] } else { pieces(inner, size) };
            deltas.extend(
                parts
                    .iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| vec![kind(delta), (name, Tree::Text(part.to_vec()))]),
            );
        };
        if let Some(Tree::Raw(Cow::Borrowed(citations))) = block.get(b"citations").cloned()
            && citations.starts_with(b"[")
        {
            block.set(b"citations", Tree::Array(Vec::new()));
            let list = json::elements_within(citations, 0..citations.len());
            deltas.extend(
                list.map(|at| {
                    vec![kind("citations_delta"), (&b"citation"[..], Tree::Raw(Cow::Borrowed(&citations[at])))]
                }),
            );
        }
        match block.given(b"type").and_then(inside).unwrap_or_default() {
            b"text" => grown(&mut deltas, &mut block, b"text", "text_delta", false),
            b"thinking" => {
                grown(&mut deltas, &mut block, b"thinking", "thinking_delta", false);
                grown(&mut deltas, &mut block, b"signature", "signature_delta", true);
            }
            b"tool_use" | b"server_tool_use" | b"mcp_tool_use" => {
                if let Some(Tree::Raw(Cow::Borrowed(input))) = block.remove(b"input") {
                    let text = json::quoted(&String::from_utf8_lossy(input)).into_bytes();
                    let text = Tree::Text(inside(&text).unwrap_or_default().to_vec());
                    deltas.push(vec![kind("input_json_delta"), (&b"partial_json"[..], text)]);
                }
                block.set(b"input", Tree::Object(Object::default()));
            }
            _ => {}
        }
        self.say("content_block_start", vec![(&b"index"[..], index()), (&b"content_block"[..], Tree::Object(block))]);
        for delta in deltas {
            self.say(
                "content_block_delta",
                vec![(&b"index"[..], index()), (&b"delta"[..], Tree::Object(Object(delta)))],
            );
        }
        self.say("content_block_stop", vec![(&b"index"[..], index())]);
    }
}
