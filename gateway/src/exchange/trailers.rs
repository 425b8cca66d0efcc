//! What follows a body: checksums, late errors. Passed on where the client can take it.

use super::fail::{Fault, Result};
use super::fetch::Fetched;
use super::relay::END_OF_MESSAGE;
use super::{Session, Trip, headers};
use http::header;

/// Gets the backend's trailers for a client that can take them: over HTTP/2, or over HTTP/1.1 if it says so and its
/// answer has no declared length. A backend that has said all but does not end its message gets a moment to.
pub(super) async fn take(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched) {
    if !can_take(session, trip) {
        return;
    }
    if !fetched.is_done() {
        let rest = crate::patience::timeout(END_OF_MESSAGE, fetched.read_body()).await;
        if !matches!(rest, Ok(Ok(None))) {
            return;
        }
    }
    if let Ok(Some(mut trailers)) = fetched.upstream.read_trailers().await {
        headers::strip_trailers(&mut trailers);
        trip.trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    }
}

fn can_take(session: &Session, trip: &Trip<'_>) -> bool {
    session.is_http2()
        || session.can_have_trailers() && headers::has_token(trip.exchange.headers(), &header::TE, "trailers")
}

/// Ends the answer.
///
/// # Errors
/// That the client has left.
pub(super) async fn end(session: &mut Session, trip: &mut Trip<'_>) -> Result<()> {
    session.finish(trip.trailers.take()).await.map_err(|_| Fault::ClientGone)
}
