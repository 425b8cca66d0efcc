//! As much of an HTTP/1.1 request as it takes to find its end, its model and whether it wants to know its usage.

use memchr::memmem;
use std::ops::Range;

/// A request that has come whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Bytes it takes in the buffer.
    pub length: usize,
    /// Where its body stands, with a chunked body's framing still in it.
    pub body: Range<usize>,
}

/// What there is in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole request.
    Whole(Request),
    /// Part of one. It needs this many bytes in all, if that is known.
    Part(Option<usize>),
}

/// Looks for a request at the beginning of `buffer`.
pub(crate) fn find(buffer: &[u8]) -> Found {
    let Some(head) = memmem::find(buffer, b"\r\n\r\n") else { return Found::Part(None) };
    let begin = head + 4;
    if let Some(length) = header(&buffer[..head], b"content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        return whole(buffer, begin, begin + length);
    }
    if header(&buffer[..head], b"transfer-encoding").is_some() {
        // Nobody who measures sends trailers, and JSON has no bare line ends: the last chunk is where this is.
        return match memmem::find(&buffer[head..], b"\r\n0\r\n\r\n") {
            Some(end) => whole(buffer, begin, head + end + 7),
            None => Found::Part(None),
        };
    }
    whole(buffer, begin, begin)
}

fn whole(buffer: &[u8], begin: usize, end: usize) -> Found {
    match buffer.len() < end {
        true => Found::Part(Some(end)),
        false => Found::Whole(Request { length: end, body: begin..end }),
    }
}

/// A header's value, if the head has it.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        rest = &rest[end + 1..];
        if rest.len() > name.len() && rest[name.len()] == b':' && rest[..name.len()].eq_ignore_ascii_case(name) {
            let value = &rest[name.len() + 1..];
            let value = &value[..memchr::memchr(b'\r', value).unwrap_or(value.len())];
            return Some(value.trim_ascii());
        }
    }
    None
}

/// The model that a JSON body names: the first `"model":` in it.
pub(crate) fn model(body: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(body, b"\"model\"")?;
    let value = body[at + 7..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    memchr::memchr(b'"', value).map(|end| &value[..end])
}

/// Whether a stream's usage is asked for.
pub(crate) fn wants_usage(body: &[u8]) -> bool {
    memmem::find(body, b"\"include_usage\"").is_some_and(|at| {
        let value = body[at + 15..].trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| value.starts_with(b"true"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_its_length_says_and_the_next_one_follows() {
        let one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nContent-Length:  5\r\n\r\nabcde";
        let two = [&one[..], b"GET /health HTTP/1.1\r\n\r\n"].concat();
        let whole = Request { length: one.len(), body: one.len() - 5..one.len() };
        assert_eq!(find(&two), Found::Whole(whole));
        assert_eq!(find(&one[..one.len() - 1]), Found::Part(Some(one.len())));
        assert_eq!(find(&one[..20]), Found::Part(None));
    }

    #[test]
    fn a_chunked_request_ends_with_its_last_chunk() {
        let request = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let Found::Whole(found) = find(request) else { panic!("not whole") };
        assert_eq!(found.length, request.len());
        assert_eq!(find(&request[..request.len() - 2]), Found::Part(None));
    }

    #[test]
    fn the_model_is_found_with_and_without_space() {
        assert_eq!(model(br#"{"model":"mock-whole-504","x":1}"#), Some(&b"mock-whole-504"[..]));
        assert_eq!(model(br#"{"messages":[], "model" : "m"}"#), Some(&b"m"[..]));
        assert_eq!(model(br#"{"messages":[]}"#), None);
        assert!(wants_usage(br#"{"stream_options": {"include_usage": true}}"#));
        assert!(!wants_usage(br#"{"stream_options":{"include_usage":false}}"#) && !wants_usage(b"{}"));
    }
}
