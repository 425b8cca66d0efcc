//! The responses API: a stream's last event has the whole answer in it.

use super::tree::{Object, Tree, inside, pieces};
use super::{Shape, event, payloads};
use crate::json;
use std::borrow::Cow;

/// The response that a stream ends with.
pub(super) fn whole(events: &[u8]) -> Option<Vec<u8>> {
    let payloads = payloads(events);
    payloads.iter().rev().find_map(|payload| {
        let kind = json::member(payload, "type")?;
        let is_last = matches!(inside(&payload[kind])?, b"response.completed" | b"response.incomplete");
        json::member(payload, "response").filter(|_| is_last).map(|at| payload[at].to_vec())
    })
}

/// The events that a whole response would have come as.
pub(super) fn events(whole: &[u8], shape: Shape) -> Option<Vec<Vec<u8>>> {
    let mut begun = Object::read(whole);
    let Some(Tree::Raw(Cow::Borrowed(output))) = begun.get(b"output").cloned() else { return None };
    let status = begun.given(b"status").and_then(inside).unwrap_or(b"completed");
    let last = if status == b"incomplete" { "response.incomplete" } else { "response.completed" };
    begun.set(b"status", Tree::Text(b"in_progress".to_vec()));
    begun.set(b"output", Tree::Array(Vec::new()));
    for name in [&b"usage"[..], b"completed_at", b"incomplete_details"] {
        if let Some(value) = begun.get_mut(name) {
            *value = null();
        }
    }
    // A convenience of some servers, made of the output.
    begun.remove(b"output_text");
    let mut out = Writer { events: Vec::new(), number: 0, piece: shape.piece };
    out.say("response.created", vec![(&b"response"[..], Tree::Object(begun.clone()))]);
    out.say("response.in_progress", vec![(&b"response"[..], Tree::Object(begun))]);
    for (index, at) in json::elements_within(output, 0..output.len()).enumerate() {
        out.item(index, &output[at]);
    }
    out.say(last, vec![(&b"response"[..], Tree::Raw(Cow::Borrowed(whole)))]);
    Some(out.events)
}

fn null<'a>() -> Tree<'a> {
    Tree::json(b"null".as_slice())
}

fn number<'a>(number: usize) -> Tree<'a> {
    Tree::json(number.to_string().into_bytes())
}

type Fields<'a> = Vec<(&'a [u8], Tree<'a>)>;

struct Writer {
    events: Vec<Vec<u8>>,
    number: usize,
    piece: usize,
}

impl Writer {
    fn say<'a>(&mut self, name: &str, fields: Fields<'a>) {
        let mut data = Object(vec![(&b"type"[..], Tree::Text(name.as_bytes().to_vec()))]);
        data.0.push((b"sequence_number", number(self.number)));
        data.0.extend(fields);
        self.number += 1;
        self.events.push(event(Some(name), &data.to_json()));
    }

    fn item(&mut self, index: usize, item: &[u8]) {
        let mut begun = Object::read(item);
        let kind = begun.given(b"type").and_then(inside).unwrap_or_default().to_vec();
        if let Some(status) = begun.get_mut(b"status") {
            *status = Tree::Text(b"in_progress".to_vec());
        }
        let list = |object: &mut Object<'_>, name: &[u8]| {
            let known = object.get_mut(name)?;
            let Tree::Raw(raw) = std::mem::replace(known, Tree::Array(Vec::new())) else { return None };
            raw.starts_with(b"[").then(|| raw.into_owned())
        };
        let (mut content, mut summary) = (None, None);
        match &kind[..] {
            b"message" | b"reasoning" => {
                content = list(&mut begun, b"content");
                summary = list(&mut begun, b"summary");
            }
            b"function_call" => begun.set(b"arguments", Tree::Text(Vec::new())),
            _ => {}
        }
        let id = begun.get(b"id").cloned().unwrap_or_else(null);
        let place = || vec![(&b"item_id"[..], id.clone()), (&b"output_index"[..], number(index))];
        self.say(
            "response.output_item.added",
            vec![(&b"output_index"[..], number(index)), (&b"item"[..], Tree::Object(begun.clone()))],
        );
        if let Some(summary) = &summary {
            for (at, part) in json::elements_within(summary, 0..summary.len()).enumerate() {
                let mut place = place();
                place.push((b"summary_index", number(at)));
                self.part(
                    &summary[part],
                    &place,
                    ["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"],
                );
            }
        }
        if let Some(content) = &content {
            for (at, part) in json::elements_within(content, 0..content.len()).enumerate() {
                let mut place = place();
                place.push((b"content_index", number(at)));
                self.part(&content[part], &place, ["response.content_part.added", "response.content_part.done"]);
            }
        }
        if kind == b"function_call" {
            let done = Object::read(item);
            let arguments = done.get(b"arguments").cloned().unwrap_or_else(|| Tree::Text(Vec::new()));
            self.grow("response.function_call_arguments", b"arguments", &arguments, &place(), Vec::new());
        }
        self.say(
            "response.output_item.done",
            vec![(&b"output_index"[..], number(index)), (&b"item"[..], Tree::Raw(Cow::Borrowed(item)))],
        );
    }

    /// A part of an item: a text, a refusal, a summary, or what it may be.
    fn part<'a>(&mut self, part: &'a [u8], place: &Fields<'a>, [added, done]: [&str; 2]) {
        let mut begun = Object::read(part);
        let kind = begun.given(b"type").and_then(inside).unwrap_or_default().to_vec();
        let grows: Option<(&str, &[u8])> = match &kind[..] {
            b"output_text" => Some(("response.output_text", b"text")),
            b"refusal" => Some(("response.refusal", b"refusal")),
            b"summary_text" => Some(("response.reasoning_summary_text", b"text")),
            b"reasoning_text" => Some(("response.reasoning_text", b"text")),
            _ => None,
        };
        let grown = grows.and_then(|(name, field)| {
            let value = std::mem::replace(begun.get_mut(field)?, Tree::Text(Vec::new()));
            Some((name, field, value))
        });
        let logprobs = begun.get(b"logprobs").cloned();
        for name in [&b"logprobs"[..], b"annotations"] {
            if let Some(list) = begun.get_mut(name).filter(|_| kind == b"output_text") {
                *list = Tree::Array(Vec::new());
            }
        }
        let with = |part: Tree<'a>| place.iter().cloned().chain([(&b"part"[..], part)]).collect::<Fields<'a>>();
        self.say(added, with(Tree::Object(begun)));
        if let Some((name, field, value)) = grown {
            let logprobs = logprobs.filter(|_| kind == b"output_text").map(|list| (&b"logprobs"[..], list));
            self.grow(name, field, &value, place, logprobs.into_iter().collect());
        }
        self.say(done, with(Tree::Raw(Cow::Borrowed(part))));
    }

    /// A text in pieces, and then the whole of it. What is `beside` comes with the first piece and with the whole.
    fn grow<'a>(&mut self, name: &str, field: &'a [u8], text: &Tree<'a>, place: &Fields<'a>, beside: Fields<'a>) {
        let inner = text.text().unwrap_or_default();
        let mut first = Some(beside.clone());
        let empty = || beside.iter().map(|(name, _)| (*name, Tree::Array(Vec::new()))).collect::<Fields<'a>>();
        for piece in pieces(inner, self.piece) {
            let mut fields = place.clone();
            fields.push((b"delta", Tree::Text(piece.to_vec())));
            fields.extend(first.take().unwrap_or_else(empty));
            self.say(&format!("{name}.delta"), fields);
        }
        let mut fields = place.clone();
        fields.push((field, Tree::Text(inner.to_vec())));
        fields.extend(beside);
        self.say(&format!("{name}.done"), fields);
    }
}
