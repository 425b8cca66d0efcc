//! Answers that name the model the client asked for.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use crate::events::Events;
use crate::json;

static MODEL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"model\""));

/// Replaces the model's name in an answer by the one the client asked for, whatever the backend calls it.
///
/// Only the value of a member `model` is touched, where one of the protocols has it: at the top (chat, completions,
/// embeddings, whole messages and responses), in `message` (Anthropic's `message_start`) and in `response` (events of
/// the responses API). A text that contains `"model":"x"` has its quotes escaped, and is stepped over besides.
#[derive(Clone, Debug)]
pub struct ModelRenamer {
    quoted: String,
}

impl ModelRenamer {
    /// A renamer for a client that asked for `asked`.
    #[must_use]
    pub fn new(asked: &str) -> Self {
        Self { quoted: json::quoted(asked) }
    }

    /// The whole JSON answer with its model renamed; `None` if there is nothing to change.
    #[must_use]
    pub fn rename_in_json(&self, answer: &[u8]) -> Option<Bytes> {
        MODEL.find(answer)?;
        let mut out = Output { from: answer, to: BytesMut::new(), copied: 0 };
        self.rename(&mut out, 0..answer.len());
        out.finish()
    }

    /// The block of whole events with the model renamed in each; `None` if there is nothing to change. An event whose
    /// JSON is spread over several `data` lines (none of the known backends sends one) is left as it is.
    #[must_use]
    pub fn rename_in_events(&self, block: &[u8]) -> Option<Bytes> {
        let mut next = MODEL.find(block)?;
        let mut out = Output { from: block, to: BytesMut::new(), copied: 0 };
        for event in Events::new(block) {
            if event.end <= next {
                continue;
            }
            if let Some(data) = event.data_range().filter(|_| event.data_lines == 1) {
                self.rename(&mut out, data);
            }
            match MODEL.find(&block[event.end..]) {
                Some(found) => next = event.end + found,
                None => break,
            }
        }
        out.finish()
    }

    fn rename(&self, out: &mut Output<'_>, range: std::ops::Range<usize>) {
        for member in json::members_within(out.from, range.clone()) {
            match member.key {
                b"model" => out.replace(member.value.clone(), &self.quoted),
                b"message" | b"response" => {
                    for inner in json::members_within(out.from, member.value.clone()) {
                        if inner.key == b"model" {
                            out.replace(inner.value, &self.quoted);
                        }
                    }
                }
                _ => continue,
            }
            // The rest is most of an event, and as a rule names no model.
            if MODEL.find(&out.from[member.value.end..range.end]).is_none() {
                return;
            }
        }
    }
}

/// The answer being copied, as soon as there is a reason to.
struct Output<'a> {
    from: &'a [u8],
    to: BytesMut,
    copied: usize,
}

impl Output<'_> {
    fn replace(&mut self, value: std::ops::Range<usize>, text: &str) {
        let old = &self.from[value.clone()];
        // A null is no name to replace, and what is the same already needs no copy.
        if old.first() != Some(&b'"') || old == text.as_bytes() {
            return;
        }
        if self.to.is_empty() {
            self.to.reserve(self.from.len() + text.len());
        }
        self.to.extend_from_slice(&self.from[self.copied..value.start]);
        self.to.extend_from_slice(text.as_bytes());
        self.copied = value.end;
    }

    fn finish(mut self) -> Option<Bytes> {
        if self.copied == 0 {
            return None;
        }
        self.to.extend_from_slice(&self.from[self.copied..]);
        Some(self.to.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(answer: &str) -> Option<String> {
        let renamed = ModelRenamer::new("as\"ked").rename_in_json(answer.as_bytes())?;
        Some(String::from_utf8(renamed.to_vec()).unwrap())
    }

    fn events(block: &str) -> Option<String> {
        let renamed = ModelRenamer::new("asked").rename_in_events(block.as_bytes())?;
        Some(String::from_utf8(renamed.to_vec()).unwrap())
    }

    #[test]
    fn the_model_of_a_whole_answer_is_renamed_and_nothing_else() {
        let answer =
            r#"{ "choices":[{"model":"served","text":"{\"model\":\"served\"}"}], "model" : "served", "n":1.0 }"#;
        let renamed =
            r#"{ "choices":[{"model":"served","text":"{\"model\":\"served\"}"}], "model" : "as\"ked", "n":1.0 }"#;
        assert_eq!(json(answer).as_deref(), Some(renamed));
    }

    #[test]
    fn an_answer_without_a_name_stays() {
        for answer in [
            r#"{"object":"list"}"#,
            r#"{"model":null}"#,
            r#"{"model":{"a":"model"}}"#,
            r#"{"model":"as\"ked"}"#,
            r#"{"x":{"model":"served"}}"#,
            r#"{"content":"\"model\":\"served\""}"#,
            r#"["model","served"]"#,
            r#"{"model"#,
            "\"model\"",
        ] {
            assert_eq!(json(answer), None, "{answer}");
        }
    }

    #[test]
    fn each_event_of_a_block_is_renamed() {
        let block = "data: {\"id\":1,\"model\":\"served\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\"}}]}\n\n\
            : \"model\"\n\ndata: {\"a\":2}\n\nevent: x\ndata:{\"model\":\"served\"}\r\n\r\ndata: [DONE]\n\n";
        let expected = "data: {\"id\":1,\"model\":\"asked\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\"}}]}\n\n\
            : \"model\"\n\ndata: {\"a\":2}\n\nevent: x\ndata:{\"model\":\"asked\"}\r\n\r\ndata: [DONE]\n\n";
        assert_eq!(events(block).as_deref(), Some(expected));
    }

    #[test]
    fn the_places_of_the_other_protocols_are_known() {
        let started = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"s\",\"usage\":{}}}\n\n";
        assert_eq!(events(started), Some(started.replace("\"s\"", "\"asked\"")));
        let created =
            "data: {\"type\":\"response.created\",\"response\":{\"model\":\"s\",\"metadata\":{\"model\":\"t\"}}}\n\n";
        assert_eq!(events(created), Some(created.replace("\"s\"", "\"asked\"")));
        let delta = "data: {\"delta\":{\"model\":\"s\"}}\n\n";
        assert_eq!(events(delta), None);
    }
}
