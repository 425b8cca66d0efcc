//! The strict reading of an HTTP/1 head (RFC 9112). What Pingora's parser tolerates but another server on the path
//! could read differently is refused, and the connection ends: nobody may smuggle a request through a disagreement.

use crate::telemetry::BadHead;
use http::StatusCode;
use memchr::memchr_iter;
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

/// Judges the bytes of a whole head, from the request line to the empty line.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn judge(raw: &[u8], limits: &Limits) -> Result<(), Refused> {
    let too_large = |reason, message| Refused { reason, status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message };
    if raw.len() > limits.head {
        return Err(too_large(BadHead::TooLarge, "The request's head is larger than this gateway accepts."));
    }
    let (mut lengths, mut codings, mut hosts, mut lines) = (0, 0, 0, 0);
    let mut start = 0;
    for newline in memchr_iter(b'\n', raw) {
        if newline == start || raw[newline - 1] != b'\r' {
            return Err(framing("A line of the head ends with a bare line feed."));
        }
        let line = &raw[start..newline - 1];
        start = newline + 1;
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(framing("The head contains a bare carriage return or a NUL."));
        }
        lines += 1;
        if lines == 1 {
            check_request_line(line)?;
            continue;
        }
        if line.is_empty() {
            continue;
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(framing("A header is folded over lines, which is obsolete."));
        }
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if name.last().is_some_and(u8::is_ascii_whitespace) {
            return Err(framing("A header's name is followed by a space."));
        }
        // By length first: most lines are none of the three.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                hosts += 1;
                if !is_authority(line[5..].trim_ascii()) {
                    return Err(framing("The host is not a plain host and port."));
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                lengths += 1;
                let digits = line[15..].trim_ascii();
                if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
                    return Err(framing("The content-length is not a plain number."));
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                codings += 1;
                if !line[18..].trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(framing("The only transfer-encoding accepted is chunked."));
                }
            }
            _ => {}
        }
    }
    match (lengths, codings) {
        (0 | 1, 0) | (0, 1) => {}
        (_, 0) => return Err(framing("The head has more than one content-length.")),
        (0, _) => return Err(framing("The head has more than one transfer-encoding.")),
        _ => return Err(framing("The head has both a content-length and a transfer-encoding.")),
    }
    let named = hosts == 1 || hosts == 0 && is_http10(raw);
    if !named {
        return Err(framing("The head must have one host."));
    }
    // Request line and empty line are not headers.
    if lines > limits.headers + 2 {
        return Err(too_large(BadHead::TooManyHeaders, "The request has more headers than this gateway accepts."));
    }
    Ok(())
}

/// Whether the request line says HTTP/1.0, which knows no host.
fn is_http10(raw: &[u8]) -> bool {
    raw.split(|&byte| byte == b'\r').next().is_some_and(|line| line.ends_with(b" HTTP/1.0"))
}

/// Origin form, or `*` (RFC 9112 section 3.2): the gateway is no forward proxy, and a target that begins with a host
/// could be routed by one reader and trusted by another.
fn check_request_line(line: &[u8]) -> Result<(), Refused> {
    let target = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    let plain = target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#');
    // Pingora has by now written a bare space in the target as %20, and paths of these APIs have neither.
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let spaced = memchr::memmem::find(path, b"%20").is_some();
    if plain && !spaced && (target.first() == Some(&b'/') || target == b"*") {
        return Ok(());
    }
    // CONNECT gets its 405 further on.
    if line.starts_with(b"CONNECT ") { Ok(()) } else { Err(framing("The request's target must be a plain path.")) }
}

/// `uri-host [":" port]` (RFC 9110 section 7.2), in the characters that hosts are written in.
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    };
    let port_fits = port
        .is_none_or(|port| port.is_empty() || std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok()));
    let bracketed = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let fits = match bracketed {
        Some(address) => address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')),
        None => host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    };
    fits && !host.is_empty() && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Result<(), BadHead> {
        judge(head.as_bytes(), &Limits::default()).map_err(|refused| refused.reason)
    }

    #[test]
    fn an_ordinary_head_passes() {
        assert_eq!(judged("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"), Ok(()));
        assert_eq!(judged("POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok(()));
    }

    #[test]
    fn two_readings_are_one_too_many() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding:\x0bchunked\r\n",
            "X: 1\n",
            "X: 1\r\n folded\r\n",
            "Content-Length : 5\r\n",
            "X: a\rb\r\n",
            "Host: b\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: +2\r\n",
        ] {
            let head = format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
            assert_eq!(judged(&head), Err(BadHead::Framing), "{headers:?}");
        }
    }

    #[test]
    fn size_and_number_are_bounded() {
        let many = "X: 1\r\n".repeat(101);
        assert_eq!(judged(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), Err(BadHead::TooManyHeaders));
        let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(70_000));
        assert_eq!(judged(&large), Err(BadHead::TooLarge));
    }
}
