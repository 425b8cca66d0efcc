//! WebSockets: after the 101, bytes go both ways as they come, closes and pings included.

use super::answer::{self, Answered};
use super::fail::{Fault, Result};
use super::fetch::Fetched;
use super::{Session, Trip, relay};
use crate::telemetry::Cause;
use http::StatusCode;
use http::header::{self, HeaderValue};
use std::time::Instant;
use tidegate_plugins::Head;

/// Passes the backend's 101 on, and then everything, until either side closes or the total time is over.
///
/// # Errors
/// That the client had left before the 101 went out.
pub(super) async fn tunnel(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    mut head: Head,
) -> Result<Answered> {
    let protocol = super::headers::text(&head.headers, "upgrade").unwrap_or_default();
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(Fault::malformed("an upgrade to something else than was asked for"));
    }
    super::headers::strip_response(&mut head.headers);
    for follower in trip.followers.iter_mut().rev() {
        follower.head(&mut trip.exchange, &mut head).map_err(|error| Fault::ours(format!("filter: {error}")))?;
    }
    let mut headers = head.headers;
    answer::identify(trip, &mut headers);
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    trip.head_sent = true;
    session.set_write_timeout(trip.snapshot.limits.write_timeout);
    session.write_head(StatusCode::SWITCHING_PROTOCOLS, headers).await.map_err(|_| Fault::ClientGone)?;
    session.flush().await.map_err(|_| Fault::ClientGone)?;
    fetched.upstream.tunnel();
    let patience = fetched.deadline.total().saturating_duration_since(Instant::now());
    let both = pingora::time::timeout(patience, carry(session, trip, &mut fetched)).await;
    fetched.upstream.close();
    session.shutdown().await;
    Ok(match both {
        Ok(()) => Answered::ok(StatusCode::SWITCHING_PROTOCOLS),
        Err(_) => Answered::failed(StatusCode::SWITCHING_PROTOCOLS, Cause::UpstreamTimeout, "open for the total time"),
    })
}

/// Carries bytes both ways until one side ends.
async fn carry(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched) {
    loop {
        tokio::select! {
            biased;
            answer = fetched.upstream.read_body() => {
                let Ok(Some(data)) = answer else { return };
                fetched.lease.backend().health.alive(Instant::now());
                if relay::write(session, trip, data).await.is_err() {
                    return;
                }
            }
            message = session.read_body() => {
                let Ok(Some(data)) = message else { return };
                trip.record.request_bytes += data.len() as u64;
                if fetched.upstream.send_body(data).await.is_err() {
                    return;
                }
            }
        }
    }
}
