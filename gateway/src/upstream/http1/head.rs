//! Heads: a request's written, an answer's read. Both strictly by RFC 9112: what another server could read differently
//! is refused, not repaired.

use super::body::Decoder;
use crate::upstream::error::{Error, Result};
use crate::upstream::fields::Fields;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use memchr::{memchr_iter, memchr3};
use std::mem::MaybeUninit;
use tidegate_plugins::Head;

/// The largest head of an answer, in bytes.
pub(super) const LARGEST: usize = 64 << 10;

/// The most fields in a head.
pub(super) const MOST_FIELDS: usize = 100;

/// The head of a request.
#[derive(Clone, Default)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All but `Host`, which the connection knows.
    pub headers: Fields,
}

/// How long a request's body says it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// This many bytes.
    Known(u64),
    /// It is sent in chunks.
    Chunked,
}

/// The bytes of a request's head, and the framing that it declares.
///
/// # Errors
/// If a part of it would end its line, or the framing is ambiguous.
pub(super) fn encode(head: &RequestHead, authority: &str) -> Result<(Vec<u8>, Length)> {
    let (method, target) = (head.method.as_str(), head.target.as_bytes());
    if target.first() != Some(&b'/') || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(Error::Unsendable("its target has characters that no target can have"));
    }
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(method.len() + target.len() + authority.len() + fields + 24);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(&mut out, "host", authority.as_bytes())?;
    let (mut length, mut chunked) = (None, false);
    for (name, value) in head.headers.iter() {
        match *name {
            header::HOST => continue,
            header::CONTENT_LENGTH if length.is_some() => return Err(Error::Unsendable("it has two lengths")),
            header::CONTENT_LENGTH => {
                length = Some(number(value.as_bytes()).ok_or(Error::Unsendable("its length is no number"))?);
            }
            header::TRANSFER_ENCODING => chunked = true,
            _ => {}
        }
        field(&mut out, name.as_str(), value.as_bytes())?;
    }
    out.extend_from_slice(b"\r\n");
    match (length, chunked) {
        (Some(_), true) => Err(Error::Unsendable("it has a length and is chunked")),
        (None, true) => Ok((out, Length::Chunked)),
        (length, false) => Ok((out, Length::Known(length.unwrap_or(0)))),
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<()> {
    // `HeaderValue` promises this; but it can also be made unchecked, and here a line break would be a second request.
    if memchr3(b'\r', b'\n', 0, value).is_some() {
        return Err(Error::Unsendable("a header has a line break or a NUL"));
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// An answer's head, and what it says about what follows.
#[derive(Debug)]
pub(super) struct Answer {
    pub head: Head,
    pub body: Decoder,
    /// Whether the connection can be used again after the body.
    pub keeps_alive: bool,
}

/// Takes a head off the front of `buffer` once it is there to its empty line. `scanned` is how far earlier calls have
/// looked; it begins at 0 and is 0 again after a head.
///
/// # Errors
/// What is wrong with it, as soon as it can be seen.
pub(super) fn decode(buffer: &mut BytesMut, scanned: &mut usize, to_head: bool) -> Result<Option<Answer>> {
    const BEGIN: &[u8] = b"HTTP/1.";
    let begun = buffer.len().min(BEGIN.len());
    if buffer[..begun] != BEGIN[..begun] {
        return Err(Error::Malformed("the answer does not begin like one"));
    }
    let Some(end) = block_end(buffer, scanned, LARGEST)? else { return Ok(None) };
    *scanned = 0;
    // One copy of its own: were the values cut from the read buffer, they would hold all of it.
    let raw = Bytes::copy_from_slice(&buffer[..end]);
    let answer = parse(&raw, to_head)?;
    buffer.advance(end);
    Ok(Some(answer))
}

/// Where a block of lines ends, its empty line included; none if that has not come yet. Every line must end with CRLF.
///
/// # Errors
/// A bare LF, or more than `largest` bytes.
pub(super) fn block_end(block: &[u8], scanned: &mut usize, largest: usize) -> Result<Option<usize>> {
    let from = *scanned;
    for newline in memchr_iter(b'\n', &block[from..]).map(|at| from + at) {
        if newline == 0 || block[newline - 1] != b'\r' {
            return Err(Error::Malformed("a line of the head ends with a bare line feed"));
        }
        if newline == 1 || block[newline - 2] == b'\n' {
            return if newline < largest { Ok(Some(newline + 1)) } else { Err(TOO_LARGE) };
        }
    }
    *scanned = block.len();
    if block.len() < largest { Ok(None) } else { Err(TOO_LARGE) }
}

const TOO_LARGE: Error = Error::Malformed("the head is too large");

fn parse(raw: &Bytes, to_head: bool) -> Result<Answer> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, raw, &mut fields);
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Error::Malformed("the head has too many fields")),
        _ => return Err(Error::Malformed("the head is not one")),
    }
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Error::Malformed("the status is none"))?;
    let headers = header_map(raw, response.headers)?;
    let modern = response.version == Some(1);
    let framing = Framing::read(&headers)?;
    if framing.chunked && !modern {
        return Err(Error::Malformed("HTTP/1.0 knows no chunks"));
    }
    let (body, mut keeps_alive) = framing.body(status, to_head);
    keeps_alive &= modern && !says_close(&headers);
    Ok(Answer { head: Head { status, headers }, body, keeps_alive })
}

/// How many headers the gateway itself may well add to an answer: room for them is made once.
const ADDED: usize = 12;

/// The fields as a map whose values share `raw`.
///
/// # Errors
/// A field that the map cannot hold.
pub(super) fn header_map(raw: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(raw.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Error::Malformed("a field is none")) };
        headers.append(name, value);
    }
    Ok(headers)
}

/// What a head says about its body's length (RFC 9112 section 6).
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    fn read(headers: &HeaderMap) -> Result<Self> {
        let mut length = None;
        for value in headers.get_all(header::CONTENT_LENGTH) {
            let value = number(value.as_bytes()).ok_or(Error::Malformed("the content-length is no number"))?;
            if length.replace(value).is_some_and(|before| before != value) {
                return Err(Error::Malformed("two different content-lengths"));
            }
        }
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = match (codings.next(), codings.next()) {
            (None, _) => false,
            (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
            _ => return Err(Error::Malformed("a transfer-encoding other than chunked")),
        };
        if chunked && length.is_some() {
            return Err(Error::Malformed("both a content-length and a transfer-encoding"));
        }
        Ok(Self { length, chunked })
    }

    /// What follows the head, and whether another answer can follow that.
    fn body(&self, status: StatusCode, to_head: bool) -> (Decoder, bool) {
        match (status.as_u16(), self.length) {
            (101, _) => (Decoder::to_the_end(), false),
            // A backend that declares a body where there can be none may well send it.
            (100..=199 | 204, length) => (Decoder::empty(), !self.chunked && length.unwrap_or(0) == 0),
            (304, _) => (Decoder::empty(), true),
            _ if to_head => (Decoder::empty(), true),
            (_, Some(length)) => (Decoder::of_length(length), true),
            (_, None) if self.chunked => (Decoder::chunked(), true),
            (_, None) => (Decoder::to_the_end(), false),
        }
    }
}

/// A number of digits only: no sign, no space, nothing beyond 64 bits.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn says_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}
