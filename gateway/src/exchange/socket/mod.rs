//! WebSockets: after the 101, bytes go both ways as they come, closes and pings included.
//!
//! Where limits count turns, or somebody has told who the client is, [`talk`] reads along, and leaves out what is refused.

mod frames;
mod standing;
mod talk;

use super::answer::Answered;
use super::answer_head;
use super::arrive::REALTIME;
use super::fail::{Fault, Result};
use super::fetch::Fetched;
use super::{Session, Trip, relay, tally};
use crate::telemetry::Cause;
use bytes::Bytes;
use frames::Unreadable;
use http::StatusCode;
use http::header::{self, HeaderValue};
use standing::Standing;
use std::time::Instant;
use talk::{Stop, Talk};
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
    answer_head::identify(trip, &mut headers);
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    trip.head_sent = true;
    session.set_write_timeout(trip.snapshot.limits.write_timeout);
    session.write_head(StatusCode::SWITCHING_PROTOCOLS, headers).await.map_err(|_| Fault::ClientGone)?;
    session.flush().await.map_err(|_| Fault::ClientGone)?;
    fetched.upstream.tunnel();
    let patience = fetched.deadline.total().saturating_duration_since(Instant::now());
    let turns = std::mem::take(&mut trip.turns);
    let both = match turns.is_empty() {
        true => crate::patience::timeout(patience, carry(session, trip, &mut fetched)).await.map(Ok),
        false => {
            let mut talk = Talk::new(turns, trip.snapshot.limits.event);
            let both = crate::patience::timeout(patience, listen(session, trip, &mut fetched, &mut talk)).await;
            talk.end(trip).await;
            both
        }
    };
    fetched.upstream.close();
    session.shutdown().await;
    Ok(match both {
        Ok(Ok(())) => Answered::ok(StatusCode::SWITCHING_PROTOCOLS),
        Ok(Err((cause, why))) => Answered::failed(StatusCode::SWITCHING_PROTOCOLS, cause, why),
        Err(_) => Answered::failed(StatusCode::SWITCHING_PROTOCOLS, Cause::UpstreamTimeout, "open for the total time"),
    })
}

/// Asks those that follow the answer whether they want to judge turns. The backend is then not offered extensions, since
/// what it compresses could not be read.
pub(super) fn judges(trip: &mut Trip<'_>) {
    if trip.upgrade {
        let Trip { followers, exchange, turns, snapshot, .. } = trip;
        // Elsewhere what is said may be anything.
        if exchange.caller().is_some() && *exchange.head().path == *REALTIME {
            turns.push(Box::new(Standing::new(snapshot.own.clone())));
        }
        turns.extend(followers.iter_mut().filter_map(|follower| follower.turns(exchange)));
    }
}

/// Carries messages both ways until one side ends, or cannot be understood.
async fn listen(
    session: &mut Session,
    trip: &mut Trip<'_>,
    fetched: &mut Fetched,
    talk: &mut Talk,
) -> std::result::Result<(), (Cause, String)> {
    loop {
        tokio::select! {
            biased;
            answer = fetched.upstream.read_body() => {
                let Ok(Some(data)) = answer else { return Ok(()) };
                fetched.lease.backend().health.alive(Instant::now());
                let before = trip.record.usage;
                let passed = match talk.server_says(trip, data).await {
                    Ok(passed) => passed,
                    Err(stop) => return Err((Cause::UpstreamError, stop_text("the backend", &stop))),
                };
                if trip.record.usage != before {
                    let so_far = Answered::ok(StatusCode::SWITCHING_PROTOCOLS);
                    tally::hand_over(trip, so_far.ending(), passed.on.iter().map(Bytes::len).sum());
                }
                for data in passed.on {
                    if relay::write(session, trip, data).await.is_err() {
                        return Ok(());
                    }
                }
            }
            message = session.read_body() => {
                let Ok(Some(data)) = message else { return Ok(()) };
                trip.record.request_bytes += data.len() as u64;
                let passed = match talk.client_says(trip, data).await {
                    Ok(passed) => passed,
                    Err(stop) => return Err(hang_up(session, trip, &stop).await),
                };
                for data in passed.back {
                    if relay::write(session, trip, data).await.is_err() {
                        return Ok(());
                    }
                }
                if passed.ends {
                    return Err(hang_up(session, trip, &Stop::Dismissed).await);
                }
                for data in passed.on.into_iter().filter(|data| !data.is_empty()) {
                    if fetched.upstream.send_body(data).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Tells a client that cannot be understood why its connection ends.
async fn hang_up(session: &mut Session, trip: &mut Trip<'_>, stop: &Stop) -> (Cause, String) {
    let (code, reason, cause) = match stop {
        Stop::Unreadable(Unreadable::Protocol) => (1002, "this is no frame of a WebSocket", Cause::Validation),
        Stop::Unreadable(Unreadable::TooLarge) => (1009, "the message is too long", Cause::Validation),
        Stop::Dismissed => (1008, "the key lets nobody in any more", Cause::Auth),
        Stop::Fault(_) => (1011, "the gateway failed", Cause::Gateway),
    };
    // It may have left: then nobody is there to be told.
    let _ = relay::write(session, trip, frames::close(code, reason)).await;
    (cause, stop_text("the client", stop))
}

fn stop_text(who: &str, stop: &Stop) -> String {
    match stop {
        Stop::Unreadable(Unreadable::Protocol) => format!("{who} sent what is no frame of a WebSocket"),
        Stop::Unreadable(Unreadable::TooLarge) => format!("{who} sent a message longer than limits.event"),
        Stop::Dismissed => format!("{who} is let in no more"),
        Stop::Fault(fault) => format!("{fault:?}"),
    }
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
