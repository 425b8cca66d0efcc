//! Where a request comes from when proxies handed it on: `X-Forwarded-For` and `Forwarded` (RFC 7239), read from the
//! right, since each proxy adds what it knows at the end and everything before that is hearsay.

use crate::networks::Networks;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};
use std::iter;
use std::net::{IpAddr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// The client's address; none over a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether a trusted proxy handed the request over.
    pub by_proxy: bool,
}

/// The two headers name different clients. A proxy that writes one of them and passes the other on would have us
/// believe its client's word: nobody can tell here which one it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contradiction;

/// Who sent a request that came from `peer`.
///
/// # Errors
/// If both headers are there and differ.
pub(crate) fn source(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &Networks,
) -> std::result::Result<Source, Contradiction> {
    if !trusted.contain(peer) {
        return Ok(Source { client: peer, by_proxy: false });
    }
    let one = is_there(headers, &X_FORWARDED_FOR).then(|| farthest(peer, x_forwarded_for(headers), trusted));
    let other = is_there(headers, &FORWARDED).then(|| farthest(peer, forwarded(headers), trusted));
    if let (Some(one), Some(other)) = (one, other)
        && one != other
    {
        return Err(Contradiction);
    }
    Ok(Source { client: one.or(other).unwrap_or(peer), by_proxy: true })
}

fn is_there(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| !value.is_empty())
}

/// The farthest hop that is vouched for: each is named by the one before, as long as that is trusted. What cannot be
/// read ends the walk where it is.
fn farthest(peer: Option<IpAddr>, hops: impl Iterator<Item = Option<IpAddr>>, trusted: &Networks) -> Option<IpAddr> {
    let mut here = peer;
    for hop in hops {
        if hop.is_none() || !trusted.contain(here) {
            break;
        }
        here = hop;
    }
    here
}

/// The hops, the nearest first; none where an entry is no address.
fn x_forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let entries = headers.get_all(X_FORWARDED_FOR).iter().rev().map(HeaderValue::as_bytes);
    entries
        .flat_map(|line| line.rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|it| !it.is_empty())
        .map(node)
}

/// The same from `Forwarded`.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).iter().rev().map(HeaderValue::as_bytes);
    lines.flat_map(elements).filter(|it| !it.is_empty()).map(of_element)
}

/// The elements of a `Forwarded` line from the last to the first. From the right, so that a quote which a client left
/// open swallows nothing that a proxy wrote behind it.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    iter::from_fn(move || {
        let line = rest?;
        let comma = last_comma(line);
        rest = comma.map(|at| &line[..at]);
        Some(line[comma.map_or(0, |at| at + 1)..].trim_ascii())
    })
}

/// The last comma that is not quoted.
fn last_comma(line: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(&line[..at]) => quoted = !quoted,
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Whether what follows `before` is escaped: an odd number of backslashes stands at its end.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address behind `for` in an element such as `for="[2001:db8::1]:4711";proto=https`. None if there is not exactly
/// one, or the element is not what the grammar says.
fn of_element(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    while !rest.is_empty() {
        let (name, value, behind) = pair(rest)?;
        if name.eq_ignore_ascii_case(b"for") {
            let address = node(value)?;
            if found.replace(address).is_some() {
                return None;
            }
        }
        rest = behind;
    }
    found
}

/// The first `name=value` and what follows its semicolon. A value in quotes is given without them.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (name, rest) = (text[..equals].trim_ascii_start(), &text[equals + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    let (value, behind) = match rest.strip_prefix(b"\"") {
        Some(quoted) => {
            let end = (0..quoted.len()).find(|at| quoted[*at] == b'"' && !is_escaped(&quoted[..*at]))?;
            (&quoted[..end], &quoted[end + 1..])
        }
        None => {
            // More than the grammar allows without quotes: addresses with ports are written so all over.
            let end = rest.iter().position(|byte| !is_token(*byte) && !b":[]".contains(byte)).unwrap_or(rest.len());
            rest.split_at(end)
        }
    };
    match behind.trim_ascii_start() {
        [] => Some((name, value, &[])),
        [b';', behind @ ..] => Some((name, value, behind)),
        _ => None,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`. Not `unknown`, and not a name that a proxy made up.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(six) => six.parse::<std::net::Ipv6Addr>().ok()?.into(),
        None => text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests;
