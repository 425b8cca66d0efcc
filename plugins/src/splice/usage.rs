//! Asking a backend what a stream has cost, for a client that did not ask.
//!
//! OpenAI's protocol tells the usage of a stream only to those who want it (`stream_options.include_usage`): in one more
//! chunk before the end, and as `"usage":null` in all others. [`ask_usage`] wants it; [`without_usage`] takes both out
//! again, so that the client sees the very bytes it would have seen.

use super::{Edits, set_value};
use crate::call::{Call, Key};
use crate::events::Events;
use crate::json;
use crate::usage;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// `body` with `stream_options.include_usage`, and how it reads now; none if there is no stream, or it asks already.
#[must_use]
pub fn ask_usage(call: &Call, body: &Bytes) -> Option<(Bytes, Call)> {
    if !call.stream || call.include_usage == Some(true) {
        return None;
    }
    let given = call.span(Key::StreamOptions).filter(|span| body.get(span.start) == Some(&b'{'));
    let options = match given {
        Some(span) => {
            let (object, mut edits) = (body.slice(span), Edits::default());
            edits.set_member(&object, 0..object.len(), "include_usage", "true").ok()?;
            edits.apply(&object).ok()?
        }
        None => Bytes::from_static(br#"{"include_usage":true}"#),
    };
    let (body, mut call) = set_value(call, body, Key::StreamOptions, &options);
    call.include_usage = Some(true);
    Some((body, call))
}

/// A block of whole events without the chunk that tells the usage, and without `"usage":null` in the others; none if
/// there is neither.
#[must_use]
pub fn without_usage(block: &[u8]) -> Option<Bytes> {
    split_usage(block).map(|(left, _)| left)
}

/// The same, and the chunk that tells the usage beside it, empty if there is none.
#[must_use]
pub fn split_usage(block: &[u8]) -> Option<(Bytes, Bytes)> {
    split(block, true)
}

/// The same, but `"usage":null` stays where it is: what is left is for those who asked.
#[must_use]
pub fn take_usage(block: &[u8]) -> Option<(Bytes, Bytes)> {
    split(block, false)
}

fn split(block: &[u8], nulls: bool) -> Option<(Bytes, Bytes)> {
    let next = |from| match nulls {
        true => usage::KEY.find(&block[from..]).map(|at| from + at),
        false => json::mention(block, from, &usage::KEY),
    };
    let mut told = Some(next(0)?);
    let mut taken = Bytes::new();
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for event in Events::new(block) {
        if told.is_none_or(|told| told >= event.end) {
            continue;
        }
        told = next(event.end);
        let Some(data) = event.data_range().filter(|_| event.data_lines == 1) else { continue };
        cuts.extend(match what_tells(block, data) {
            Some(Told::Chunk) => {
                taken = Bytes::copy_from_slice(&block[event.start..event.end]);
                Some(event.start..event.end)
            }
            Some(Told::Nothing(member)) => Some(member).filter(|_| nulls),
            None => None,
        });
    }
    if cuts.is_empty() {
        return None;
    }
    let (mut left, mut copied) = (BytesMut::with_capacity(block.len()), 0);
    for cut in cuts {
        left.extend_from_slice(&block[copied..cut.start]);
        copied = cut.end;
    }
    left.extend_from_slice(&block[copied..]);
    Some((left.freeze(), taken))
}

/// What a chunk says of the usage.
enum Told {
    /// It is there for nothing else.
    Chunk,
    /// That it is not known yet: a member, and the comma that goes with it.
    Nothing(Range<usize>),
}

fn what_tells(block: &[u8], data: Range<usize>) -> Option<Told> {
    // Where it is the last member, as with most, no other need be looked at.
    if block[data.clone()].ends_with(LAST) {
        return Some(Told::Nothing(data.end - LAST.len()..data.end - 1));
    }
    let (mut told, mut is_empty) = (None, false);
    // Behind the `{` or the member before.
    let mut before = block[data.clone()].iter().position(|byte| *byte == b'{').map(|at| data.start + at + 1)?;
    let mut is_first = true;
    for member in json::members_within(block, data) {
        match member.key {
            b"choices" => is_empty = is_empty_list(block, &member.value),
            b"usage" => told = Some((before, is_first, member.value.clone())),
            _ => {}
        }
        (before, is_first) = (member.value.end, false);
    }
    let (before, is_first, value) = told?;
    match block.get(value.start) {
        Some(b'{') => is_empty.then_some(Told::Chunk),
        Some(b'n') if !is_first => Some(Told::Nothing(before..value.end)),
        Some(b'n') => {
            let behind = json::skip_blanks(block, value.end);
            let end = if block.get(behind) == Some(&b',') { behind + 1 } else { value.end };
            Some(Told::Nothing(before..end))
        }
        _ => None,
    }
}

/// How an object ends that does not know its usage yet.
const LAST: &[u8] = br#","usage":null}"#;

fn is_empty_list(block: &[u8], list: &Range<usize>) -> bool {
    block.get(list.start) == Some(&b'[') && json::skip_blanks(block, list.start + 1) + 1 == list.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Endpoint;

    fn asked(body: &str) -> Option<String> {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let call = Call::read(&bytes, Endpoint::Chat).unwrap();
        let (asked, call) = ask_usage(&call, &bytes)?;
        assert_eq!(Call::read(&asked, Endpoint::Chat).unwrap(), call, "{asked:?}");
        Some(String::from_utf8(asked.to_vec()).unwrap())
    }

    #[test]
    fn a_stream_is_asked_for_its_usage_and_nothing_else_changes() {
        for (body, expected) in [
            (
                r#"{"model":"m","stream":true}"#,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":null,"model":"m","messages":[]}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"model":"m","messages":[]}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{ "x": 1 },"model":"m"}"#,
                r#"{"stream":true,"stream_options":{ "x": 1 ,"include_usage":true},"model":"m"}"#,
            ),
            (
                r#"{"stream":true, "stream_options": {"include_usage": false}, "model":"m"}"#,
                r#"{"stream":true, "stream_options": {"include_usage": true}, "model":"m"}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{},"model":"m"}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true},"model":"m"}"#,
            ),
        ] {
            assert_eq!(asked(body).as_deref(), Some(expected));
        }
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","stream":false,"stream_options":{}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        ] {
            assert_eq!(asked(body), None, "{body}");
        }
    }

    fn left(block: &str) -> Option<String> {
        let left = without_usage(&Bytes::copy_from_slice(block.as_bytes()))?;
        Some(String::from_utf8(left.to_vec()).unwrap())
    }

    #[test]
    fn what_was_added_is_taken_out_to_the_byte() {
        let usage = r#"{"prompt_tokens":1,"completion_tokens":2}"#;
        for (with, without) in [
            (r#"{"choices":[{"delta":{}}],"usage":null}"#, r#"{"choices":[{"delta":{}}]}"#),
            (r#"{ "choices": [1], "usage": null, "x": 1 }"#, r#"{ "choices": [1], "x": 1 }"#),
            (r#"{"usage":null,"choices":[1]}"#, r#"{"choices":[1]}"#),
            (r#"{"usage":null}"#, "{}"),
        ] {
            let event = |json: &str| format!("data: {json}\r\n\r\n");
            assert_eq!(left(&event(with)), Some(event(without)));
        }
        let block = format!(
            "data: {{\"choices\":[1],\"usage\":null}}\n\n: c\n\ndata: {{\"choices\":[ ],\"usage\":{usage}}}\n\ndata: [DONE]\n\n"
        );
        assert_eq!(left(&block).unwrap(), "data: {\"choices\":[1]}\n\n: c\n\ndata: [DONE]\n\n");
        assert_eq!(left(&format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n")).as_deref(), Some(""));
        for same in [
            "data: {\"choices\":[1]}\n\n".to_owned(),
            // What a backend says without being asked is the client's.
            format!("data: {{\"choices\":[1],\"usage\":{usage}}}\n\n"),
            "data: {\"choices\":[{\"usage\":null}]}\n\n".to_owned(),
            "data: {\"choices\":[\"\\\"usage\\\":null\"]}\n\n".to_owned(),
        ] {
            assert_eq!(left(&same), None, "{same}");
        }
    }
}
