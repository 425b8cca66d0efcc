//! What follows a body: checksums, late errors. Passed on where the client can take it.

use super::fail::{Fault, Result};
use super::fetch::Fetched;
use super::relay::END_OF_MESSAGE;
use super::{Session, Trip, headers};
use http::Version;
use http::header::{self, HeaderMap};

/// Gets the backend's trailers for a client that can take them: over HTTP/2, or over HTTP/1.1 if it says so and its
/// answer has no declared length. A backend that has said all but does not end its message gets a moment to.
pub(super) async fn take(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched) {
    if !can_take(session, trip) {
        return;
    }
    if !fetched.upstream.is_done() {
        let rest = pingora::time::timeout(END_OF_MESSAGE, fetched.upstream.read_body()).await;
        if !matches!(rest, Ok(Ok(None))) {
            return;
        }
    }
    if let Ok(Some(mut trailers)) = fetched.upstream.read_trailers().await {
        headers::strip_trailers(&mut trailers);
        trip.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    }
}

fn can_take(session: &mut Session, trip: &Trip<'_>) -> bool {
    if trip.record.http != Version::HTTP_11 {
        return trip.record.http == Version::HTTP_2;
    }
    let chunked = session.response_written().is_some_and(|head| head.headers.contains_key(header::TRANSFER_ENCODING));
    chunked && headers::has_token(trip.exchange.headers(), &header::TE, "trailers") && session.is_body_done()
}

/// Ends the answer. Trailers for HTTP/1.1 stay in the trip: Pingora's session cannot write them, so who owns it will.
///
/// # Errors
/// That the client has left.
pub(super) async fn end(session: &mut Session, trip: &mut Trip<'_>) -> Result<()> {
    match &trip.trailers {
        Some(_) if !session.is_http2() => return Ok(()),
        Some(_) => {
            let trailers = trip.trailers.take().unwrap_or_default();
            session.write_response_trailers(trailers).await.map_err(|_| Fault::ClientGone)?;
        }
        None => {}
    }
    session.finish_body().await.map_err(|_| Fault::ClientGone)
}

/// The end of a chunked body with trailers, as HTTP/1.1 has it (RFC 9112 section 7.1.2).
pub(crate) fn encode(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = b"0\r\n".to_vec();
    for (name, value) in trailers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}
