//! The head of a request, read once and strictly (RFC 9112). What another server on the path could read differently is
//! refused, and the connection ends: nobody may smuggle a request through a disagreement.

use super::names;
use crate::telemetry::BadHead;
use crate::upstream::http1::body::Decoder;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Uri, Version};
use memchr::memchr;
use memchr::memmem::Finder;
use std::sync::LazyLock;
use tidegate_config::Limits;

/// Why a head is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For the metrics.
    pub reason: BadHead,
    /// For the client.
    pub status: StatusCode,
    /// For the client.
    pub message: &'static str,
}

fn framing(message: &'static str) -> Refused {
    Refused { reason: BadHead::Framing, status: StatusCode::BAD_REQUEST, message }
}

fn malformed(message: &'static str) -> Refused {
    Refused { reason: BadHead::Malformed, status: StatusCode::BAD_REQUEST, message }
}

fn too_large(reason: BadHead, message: &'static str) -> Refused {
    Refused { reason, status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message }
}

/// What a head says.
#[derive(Debug)]
pub(super) struct Request {
    pub parts: Parts,
    pub body: Decoder,
    /// Whether the client would use the connection again.
    pub keeps_alive: bool,
    /// Whether it asks for another protocol.
    pub upgrade: bool,
}

/// Empty lines before a request, which some clients send after a body, are nothing (RFC 9112 section 2.2).
pub(super) fn skip_empty_lines(buffer: &mut BytesMut) {
    while buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
}

/// Takes a head off the front of `buffer` once it is there to its empty line. `scanned` is how far earlier calls have
/// looked; it begins at 0 and is 0 again after a head.
///
/// # Errors
/// The first thing that is wrong with it, as soon as it can be seen.
pub(super) fn decode(buffer: &mut BytesMut, scanned: &mut usize, limits: &Limits) -> Result<Option<Request>, Refused> {
    if *scanned == 0 {
        skip_empty_lines(buffer);
        match buffer.first() {
            None => return Ok(None),
            Some(b'\r') if buffer.len() == 1 => return Ok(None),
            // Not HTTP at all, a TLS handshake say, may never get to the end of a line.
            Some(first) if !first.is_ascii_alphabetic() => return Err(malformed(NOT_HTTP)),
            Some(_) => {}
        }
    }
    let Some(end) = block_end(buffer, scanned, limits.head)? else { return Ok(None) };
    *scanned = 0;
    // One copy of its own: were the values cut from the read buffer, they would hold all of it.
    let raw = Bytes::copy_from_slice(&buffer[..end]);
    buffer.advance(end);
    parse(&raw, limits.headers).map(Some)
}

/// What is told where nothing better can be said.
const NOT_HTTP: &str = "The request's head is not valid HTTP.";

/// Where the head ends, its empty line included; none if that has not come yet.
fn block_end(block: &[u8], scanned: &mut usize, largest: usize) -> Result<Option<usize>, Refused> {
    let unseen = scanned.saturating_sub(END.needle().len() - 1);
    let end = END.find(&block[unseen..]).map(|at| unseen + at + END.needle().len());
    let lines = &block[unseen..end.unwrap_or(block.len()).min(largest)];
    // Without an early end, so that it is done many bytes at a time.
    let is_bare = |(&before, &byte): (&u8, &u8)| (byte == b'\n') & (before != b'\r');
    let behind = lines.get(1..).unwrap_or_default();
    if lines.iter().zip(behind).fold(false, |found, pair| found | is_bare(pair)) {
        return Err(framing("A line of the head ends with a bare line feed."));
    }
    if end.unwrap_or(block.len() + 1) > largest {
        return Err(too_large(BadHead::TooLarge, "The request's head is larger than this gateway accepts."));
    }
    *scanned = block.len();
    Ok(end)
}

/// How a head ends.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\r\n\r\n"));

/// The lines of a head, without their ends.
struct Lines<'a> {
    raw: &'a Bytes,
    at: usize,
}

impl<'a> Lines<'a> {
    /// The next one; none at the empty one.
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.raw.get(self.at..)?;
        let newline = memchr(b'\n', rest)?;
        self.at += newline + 1;
        rest.get(..newline.checked_sub(1)?).filter(|line| !line.is_empty())
    }
}

/// Reads a whole head, from the request line to the empty line.
fn parse(raw: &Bytes, most_fields: usize) -> Result<Request, Refused> {
    let mut lines = Lines { raw, at: 0 };
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version) = request_line(raw, lines.next().unwrap_or_default())?;
    parts.headers.reserve(TYPICAL_FIELDS.min(most_fields));
    let mut framing = Framing::default();
    let mut fields = 0;
    while let Some(line) = lines.next() {
        fields += 1;
        if fields > most_fields {
            let message = "The request has more headers than this gateway accepts.";
            return Err(too_large(BadHead::TooManyHeaders, message));
        }
        let (name, value) = field(raw, line)?;
        framing.see(&name, value.as_bytes())?;
        parts.headers.append(name, value);
    }
    let (body, keeps_alive) = framing.judge(parts.version)?;
    let upgrade = framing.upgrade && parts.version == Version::HTTP_11 && parts.headers.contains_key(header::UPGRADE);
    Ok(Request { parts, body, keeps_alive, upgrade })
}

/// What a map has room for at once.
const TYPICAL_FIELDS: usize = 16;

/// Method, target and version, with one space between them.
fn request_line(raw: &Bytes, line: &[u8]) -> Result<(Method, Uri, Version), Refused> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed(NOT_HTTP));
    };
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(malformed(NOT_HTTP)),
    };
    let method = Method::from_bytes(method).map_err(|_| malformed(NOT_HTTP))?;
    // Origin form, or `*` (RFC 9112 section 3.2): the gateway is no forward proxy, and a target that begins with a host
    // could be routed by one reader and trusted by another. CONNECT gets its 405 further on.
    let plain = target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#');
    let local = target.first() == Some(&b'/') || target == b"*" || method == Method::CONNECT;
    let uri = (plain && local).then(|| Uri::from_maybe_shared(raw.slice_ref(target)).ok()).flatten();
    let uri = uri.ok_or_else(|| framing("The request's target must be a plain path."))?;
    Ok((method, uri, version))
}

/// A field; its value shares `raw`.
fn field(raw: &Bytes, line: &[u8]) -> Result<(HeaderName, HeaderValue), Refused> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(framing("A header is folded over lines, which is obsolete."));
    }
    // Names are short.
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return Err(framing("A line of the head is no header."));
    };
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    if name.last().is_some_and(u8::is_ascii_whitespace) {
        return Err(framing("A header's name is followed by a space."));
    }
    let name = match names::known(name) {
        Some(name) => name,
        None => HeaderName::from_bytes(name).map_err(|_| framing("A header's name is none."))?,
    };
    let value = HeaderValue::from_maybe_shared(raw.slice_ref(value));
    let value = value.map_err(|_| framing("A header has a bare carriage return or another control character."))?;
    Ok((name, value))
}

/// Without the spaces and tabs around it: those two only, since what else counts as blank is where readers differ.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What the fields say about the connection and the body (RFC 9112 sections 6 and 9).
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl Framing {
    fn see(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Refused> {
        match *name {
            header::HOST => {
                self.hosts += 1;
                if !is_authority(value) {
                    return Err(framing("The host is not a plain host and port."));
                }
            }
            header::CONTENT_LENGTH => {
                let length = number(value).ok_or_else(|| framing("The content-length is not a plain number."))?;
                if self.length.replace(length).is_some() {
                    return Err(framing("The head has more than one content-length."));
                }
            }
            header::TRANSFER_ENCODING => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(framing("The only transfer-encoding accepted is chunked."));
                }
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(framing("The head has more than one transfer-encoding."));
                }
            }
            header::CONNECTION => {
                for token in value.split(|&byte| byte == b',').map(trim) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The body that follows, and whether the client would use the connection again.
    fn judge(&self, version: Version) -> Result<(Decoder, bool), Refused> {
        let modern = version == Version::HTTP_11;
        // HTTP/1.0 knows no host.
        if self.hosts != 1 && (modern || self.hosts > 1) {
            return Err(framing("The head must have one host."));
        }
        let body = match (self.length, self.chunked) {
            (Some(_), true) => return Err(framing("The head has both a content-length and a transfer-encoding.")),
            (None, true) if !modern => return Err(framing("HTTP/1.0 knows no transfer-encoding.")),
            (None, true) => Decoder::chunked(),
            (Some(length), false) => Decoder::of_length(length),
            (None, false) => Decoder::empty(),
        };
        Ok((body, !self.close && (modern || self.keep_alive)))
    }
}

/// Digits only, and not so many that somebody's counter could overflow.
fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// `uri-host [":" port]` (RFC 9110 section 7.2), in the characters that hosts are written in.
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    };
    let port_fits = port.is_none_or(|port| port.is_empty() || number(port).is_some_and(|port| port <= 65_535));
    let bracketed = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let fits = match bracketed {
        Some(address) => address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')),
        None => host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    };
    fits && !host.is_empty() && port_fits
}
