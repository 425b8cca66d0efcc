//! What of a request a classifier sees: its text, so many bytes of it, and nothing else.

use crate::call::Key;
use crate::exchange::Exchange;
use crate::json;
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::Range;

/// What a classifier sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// The last message of the user; of a long one its beginning and its end.
    #[default]
    LastMessage,
    /// The end of the conversation, with who says what.
    Conversation,
}

/// The text that is seen; none if there is none.
pub(super) fn text(exchange: &Exchange, sees: Sees, bytes: usize) -> Option<String> {
    let (call, body) = (exchange.call()?, &exchange.body()[..]);
    let prompt = [Key::Messages, Key::Input, Key::Prompt].into_iter().find_map(|key| call.span(key))?;
    let text = match body.get(prompt.start)? {
        b'"' => clipped(&string(body, prompt)?, bytes),
        _ => {
            let messages: Vec<_> = json::elements_within(body, prompt).collect();
            match sees {
                Sees::LastMessage => clipped(&last(body, &messages)?, bytes),
                Sees::Conversation => conversation(body, &messages, bytes),
            }
        }
    };
    Some(text).filter(|text| !text.trim().is_empty())
}

/// What the user said last.
fn last(body: &[u8], messages: &[Range<usize>]) -> Option<String> {
    let is_users =
        |message: &&Range<usize>| member(body, message, b"role").is_some_and(|role| &body[role] == b"\"user\"");
    Some(said(body, messages.iter().rev().find(is_users)?))
}

/// As much of the end as fits.
fn conversation(body: &[u8], messages: &[Range<usize>], bytes: usize) -> String {
    let mut lines = Vec::new();
    let mut left = bytes;
    for message in messages.iter().rev() {
        let role = member(body, message, b"role").and_then(|role| string(body, role)).unwrap_or_default();
        let line = format!("{role}: {}\n", said(body, message));
        if line.len() > left {
            lines.push(line[line.ceil_char_boundary(line.len() - left)..].to_owned());
            break;
        }
        left -= line.len();
        lines.push(line);
    }
    lines.reverse();
    lines.concat()
}

/// The text of one message: all of its parts that are text.
fn said(body: &[u8], message: &Range<usize>) -> String {
    let Some(content) = member(body, message, b"content") else {
        return string(body, message.clone()).unwrap_or_default();
    };
    if body[content.start] == b'"' {
        return string(body, content).unwrap_or_default();
    }
    let parts = json::elements_within(body, content).filter_map(|part| string(body, member(body, &part, b"text")?));
    parts.collect::<Vec<_>>().join("\n")
}

fn member(body: &[u8], object: &Range<usize>, name: &[u8]) -> Option<Range<usize>> {
    json::members_within(body, object.clone()).find(|member| member.key == name).map(|member| member.value)
}

fn string(body: &[u8], range: Range<usize>) -> Option<String> {
    serde_json::from_slice(body.get(range)?).ok()
}

/// The beginning and the end of what is too long.
fn clipped(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let beginning = &text[..text.floor_char_boundary(bytes / 2)];
    let end = &text[text.ceil_char_boundary(text.len() - bytes / 2)..];
    format!("{beginning} ... {end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn seen(body: &str, sees: Sees, bytes: usize) -> Option<String> {
        text(&testing::exchange(body), sees, bytes)
    }

    #[test]
    fn the_text_is_seen_and_nothing_else() {
        let body = r#"{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"one"},
            {"role":"assistant","content":"two"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:x"}},
            {"type":"text","text":"thr\u00e9e"}]},{"role":"assistant","content":null,"tool_calls":[]}]}"#;
        assert_eq!(seen(body, Sees::LastMessage, 100).unwrap(), "thrée");
        let all = "system: be brief\nuser: one\nassistant: two\nuser: thrée\nassistant: \n";
        assert_eq!(seen(body, Sees::Conversation, 100).unwrap(), all);
        assert_eq!(seen(body, Sees::Conversation, 30).unwrap(), all[all.len() - 30..]);
        assert_eq!(seen(r#"{"model":"m","prompt":"say"}"#, Sees::LastMessage, 100).unwrap(), "say");
        for nothing in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","messages":[]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":""}]}"#,
        ] {
            assert_eq!(seen(nothing, Sees::LastMessage, 100), None, "{nothing}");
        }
    }

    #[test]
    fn of_what_is_long_the_beginning_and_the_end() {
        assert_eq!(clipped("abcdefghij", 10), "abcdefghij");
        assert_eq!(clipped("abcdefghij", 4), "ab ... ij");
        assert_eq!(clipped("éééé", 3), " ... ");
    }
}
