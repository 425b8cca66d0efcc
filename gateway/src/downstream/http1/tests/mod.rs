//! Against a connection in memory, whose bytes come in the pieces that a test says.

mod answering;
mod heads;
mod reading;

use super::{Error, Http1, Unreadable};
use crate::telemetry::BadHead;
use crate::upstream::http1::tests::{Wire, now};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tidegate_config::Limits;

/// A request as it was understood, or what was wrong with it.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Request { line: String, headers: HeaderMap, body: Vec<u8>, keeps_alive: bool },
    BadHead(BadHead),
    BadBody(Error),
}

/// Small, so that tests need not be large.
fn limits() -> Limits {
    Limits { head: 1000, headers: 8, ..Limits::default() }
}

fn connection<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Http1<Wire> {
    Http1::new(Wire::of(pieces), None)
}

/// A connection on which this is asked, and which stays open.
fn asked(request: &str) -> Http1<Wire> {
    let mut connection = Http1::new(Wire { open: true, ..Wire::of([request.as_bytes()]) }, None);
    now(connection.read_head(&limits())).unwrap();
    connection
}

fn headers(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    let date = (header::DATE, HeaderValue::from_static("today"));
    fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).chain([date]).collect()
}

/// Serves a connection to its end, every request being answered with its number.
fn serve<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, into: bool) -> (Vec<Heard>, String) {
    let mut connection = connection(pieces);
    let mut heard = Vec::new();
    while now(connection.await_request()) {
        match now(connection.read_head(&limits())) {
            Ok(()) => {}
            Err(Unreadable::Gone) => break,
            Err(Unreadable::Refused(refused)) => {
                heard.push(Heard::BadHead(refused.reason));
                break;
            }
        }
        let parts = connection.take_request().unwrap();
        let line = format!("{} {} {:?}", parts.method, parts.uri, parts.version);
        let keeps_alive = connection.keeps_alive();
        match now(body(&mut connection, into)) {
            Ok(body) => heard.push(Heard::Request { line, headers: parts.headers, body, keeps_alive }),
            Err(error) => {
                heard.push(Heard::BadBody(error));
                break;
            }
        }
        connection.write_head(StatusCode::OK, &headers(&[(header::CONTENT_LENGTH, "1")])).unwrap();
        now(connection.write_body(heard.len().to_string().as_bytes())).unwrap();
        now(connection.finish(None)).unwrap();
        if !connection.is_reusable() {
            break;
        }
    }
    let written = String::from_utf8(connection.stream.written.clone()).unwrap();
    now(connection.close());
    (heard, written)
}

async fn body(connection: &mut Http1<Wire>, into: bool) -> super::Result<Vec<u8>> {
    let mut body = BytesMut::new();
    if into {
        while connection.read_body_into(&mut body).await? {}
    } else {
        while let Some(piece) = connection.read_body().await? {
            assert!(!piece.is_empty(), "a piece of nothing");
            body.extend_from_slice(&piece);
        }
    }
    assert!(connection.is_body_done());
    Ok(body.into())
}

/// What is heard of one request.
fn hear(request: &str) -> Heard {
    let (mut heard, _) = serve([request.as_bytes()], false);
    assert_eq!(heard.len(), 1, "{request:?}: {heard:?}");
    heard.remove(0)
}
