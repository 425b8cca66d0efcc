//! Which requests can be continued, and the request for the rest.

use super::Given;
use crate::call::{Call, Endpoint, Key};
use crate::json;
use crate::splice::{Edits, SpliceFault};
use bytes::Bytes;
use std::ops::Range;

/// How a backend is asked for the rest.
#[derive(Clone, Copy, Debug)]
pub struct Continuation {
    /// Whether fields say that the last message is to be continued. Otherwise the backend has to know by itself.
    pub with_fields: bool,
    /// Tokens that have been given.
    pub tokens: u64,
}

/// Members with which an answer is more than text, or more than one.
const ODD: [&str; 20] = [
    "functions",
    "function_call",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "suffix",
    "audio",
    "grammar",
    "json_schema",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "regex",
    "ebnf",
    "structural_tag",
    "use_beam_search",
    "continue_final_message",
];

/// Whether the answer to this call is one plain text that can be continued.
#[must_use]
pub fn is_plain(call: &Call, body: &[u8]) -> bool {
    let single = |value: Option<u64>| value.unwrap_or(1) == 1;
    let has_beginning = match call.endpoint {
        Endpoint::Chat => ends_with_question(call, body),
        Endpoint::Completions => call.span(Key::Prompt).is_some_and(|prompt| body.get(prompt.start) == Some(&b'"')),
        _ => false,
    };
    call.stream
        && single(call.n)
        && has_beginning
        && call.span(Key::Tools).is_none_or(|tools| is_off(&body[tools]))
        && json::members(body).all(|member| is_plain_member(body, member.key, &member.value))
}

/// The last message is not the assistant's: an answer that the client itself has begun is not ours to continue.
fn ends_with_question(call: &Call, body: &[u8]) -> bool {
    let last = call.span(Key::Messages).and_then(|messages| json::elements_within(body, messages).last());
    let role = |message| json::members_within(body, message).find(|member| member.key == b"role");
    last.and_then(role).is_some_and(|role| body[role.value] != *b"\"assistant\"")
}

fn is_plain_member(body: &[u8], key: &[u8], value: &Range<usize>) -> bool {
    let text = &body[value.clone()];
    match key {
        b"response_format" => {
            let kind = json::members_within(body, value.clone()).find(|member| member.key == b"type");
            is_off(text) || kind.is_some_and(|kind| body[kind.value] == *b"\"text\"")
        }
        b"modalities" => is_off(text) || text == b"[\"text\"]",
        b"best_of" | b"n_completions" => is_off(text) || json::whole_number(text) == Some(1),
        _ => is_off(text) || !ODD.iter().any(|odd| odd.as_bytes() == key),
    }
}

/// A value with which a member is as good as not given.
fn is_off(value: &[u8]) -> bool {
    matches!(value, b"null" | b"false" | b"0" | b"\"\"" | b"[]" | b"{}")
}

/// The request for what comes after `given`. Where no text has been given, it is the request as it was.
///
/// # Errors
/// That the body is not the one that the call was read from.
pub fn continued(call: &Call, body: &Bytes, given: &Given, how: Continuation) -> Result<Bytes, SpliceFault> {
    let text = given.sent();
    if text.is_empty() {
        return Ok(body.clone());
    }
    let mut edits = Edits::default();
    match call.endpoint {
        Endpoint::Chat => {
            let messages = call.span(Key::Messages).ok_or(SpliceFault::NotAnObject)?;
            let message = format!(r#",{{"role":"assistant","content":{}}}"#, json::quoted(text));
            edits.insert(messages.end - 1, message)?;
            if how.with_fields {
                let all = 0..call.end() + 1;
                edits.set_member(body, all.clone(), "continue_final_message", "true")?;
                edits.set_member(body, all, "add_generation_prompt", "false")?;
            }
        }
        _ => {
            let prompt = call.span(Key::Prompt).ok_or(SpliceFault::NotAnObject)?;
            let quoted = json::quoted(text);
            edits.insert(prompt.end - 1, quoted[1..quoted.len() - 1].to_owned())?;
        }
    }
    shorten(&mut edits, body, how.tokens)?;
    edits.apply(body)
}

/// Members that say how many tokens an answer may, or has to, have.
const LENGTHS: [&[u8]; 4] = [b"max_tokens", b"max_completion_tokens", b"n_predict", b"min_tokens"];

/// Takes what was given off the length of the answer. One token is always asked for, so that it comes to its end.
fn shorten(edits: &mut Edits, body: &[u8], tokens: u64) -> Result<(), SpliceFault> {
    for member in json::members(body).filter(|member| LENGTHS.contains(&member.key)) {
        if let Some(length) = json::whole_number(&body[member.value.clone()]) {
            let least = u64::from(member.key != b"min_tokens");
            edits.replace(member.value, length.saturating_sub(tokens).max(least).to_string())?;
        }
    }
    Ok(())
}
