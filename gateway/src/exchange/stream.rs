//! Event streams: cut into whole events, watched for whether they are complete, relayed as they come.

use super::answer::Answered;
use super::answer_head;
use super::fail::{Fault, Result, Wait};
use super::fetch::Fetched;
use super::{Session, Trip, relay, resume, tally};
use crate::telemetry::Cause;
use crate::upstream;
use bytes::Bytes;
use http::StatusCode;
use http::header;
use memchr::memmem;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};
use tidegate_plugins::Head;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::events::{EventCutter, Seen, StreamWatch};
use tidegate_plugins::json;
use tidegate_plugins::splice::{self, ModelRenamer};
use tokio::time::Sleep;

/// What a stream is on its way through: the cutter, the watcher, and how far it has come.
struct Streaming {
    cutter: EventCutter,
    watch: StreamWatch,
    renamer: Option<ModelRenamer>,
    /// Until the first event the head is held, so that a backend that fails before it still gets an honest status.
    head: Option<Head>,
    /// Whether anything has been passed on.
    has_begun: bool,
    last_event: Instant,
    /// Whether a token has come from the backend that is being read.
    has_token: bool,
    /// Events so far, tokens or not.
    events: u32,
    /// Blocks that came one right after the other, and when the last of them did.
    rush: (u32, Instant),
}

/// How a stream stands.
enum Flow {
    /// More is to come.
    Open,
    /// `[DONE]`, or what stands for it, has been passed on.
    Done,
    /// The backend has ended it.
    Ended,
    /// The backend says that it has failed, in this event; another may go on.
    Failed(Bytes),
}

/// Relays an event stream to its end. What is left of the backend that ended it comes back.
///
/// # Errors
/// What is wrong with it, or that the client has left. Where the client has the head already, the fault is told as an
/// event.
pub(super) async fn relay(
    session: &mut Session,
    trip: &mut Trip<'_>,
    fetched: Fetched,
    mut head: Head,
) -> Result<(Answered, Option<Fetched>)> {
    head.headers.remove(header::CONTENT_LENGTH);
    trip.record.stream = true;
    trip.streaming = true;
    resume::begin(trip);
    if trip.resuming.is_none() {
        relay::release_body(trip);
    }
    let choices = trip.exchange.call().and_then(|call| call.n).unwrap_or(1);
    let mut streaming = Streaming {
        cutter: EventCutter::new(trip.snapshot.limits.event),
        watch: StreamWatch::new(trip.exchange.endpoint()).with_choices(choices),
        renamer: relay::renamer(trip),
        // Where the client was told how it stands in the queue, it has one already.
        head: Some(head).filter(|_| !trip.head_sent),
        has_begun: false,
        last_event: Instant::now(),
        has_token: false,
        events: 0,
        rush: (0, Instant::now()),
    };
    let outcome = flow(session, trip, fetched, &mut streaming).await;
    count(trip, &streaming.watch);
    if streaming.watch.is_unbelievable() {
        tally::disbelieve(trip);
    }
    Ok((answered(trip, &streaming.watch), outcome?))
}

/// Takes down what the stream has cost so far.
fn count(trip: &mut Trip<'_>, watch: &StreamWatch) {
    trip.record.usage = watch.usage();
    trip.exchange.spend(trip.record.usage);
    trip.record.events = watch.content_events();
    trip.record.counted = trip.resuming.as_ref().is_some_and(|resuming| resuming.has_counted());
}

/// How a stream that ends here has answered.
fn answered(trip: &Trip<'_>, watch: &StreamWatch) -> Answered {
    let status = StatusCode::from_u16(trip.record.upstream_status.unwrap_or(200)).unwrap_or(StatusCode::OK);
    // An error event under a 200 is passed on as it came; it is the backend's fault all the same.
    match watch.saw_error() {
        true => Answered::failed(status, Cause::UpstreamError, ERROR_EVENT),
        false => Answered::ok(status),
    }
}

/// Hands over what the stream has cost, before its client sees a block that says so, or that it is over.
fn hand_over(trip: &mut Trip<'_>, it: &Streaming, is_over: bool, bytes: usize) {
    let told = || it.watch.usage().filter(|usage| !usage.estimated);
    let tells = || it.watch.complete() && told().is_some_and(|usage| trip.record.usage != Some(usage));
    if is_over || tells() {
        count(trip, &it.watch);
        tally::hand_over(trip, answered(trip, &it.watch).ending(), bytes);
    }
}

/// What is logged of a backend that fails in the middle of a stream and says so.
const ERROR_EVENT: &str = "the backend sent an error event";

/// Relays a stream to its end, whoever begins and whoever ends it.
async fn flow(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    it: &mut Streaming,
) -> Result<Option<Fetched>> {
    // One timer for the whole stream, not one for each wait: when it rings, it is seen whether time is really up.
    let mut timer = pin!(tokio::time::sleep_until(patience(trip, &fetched, it).0.into()));
    loop {
        let until = patience(trip, &fetched, it);
        if until.0 < timer.deadline().into_std() {
            timer.as_mut().reset(until.0.into());
        }
        let waiting = (!it.has_begun).then(Instant::now);
        let read = next(session, trip, &mut fetched, until, timer.as_mut()).await;
        if let Some(since) = waiting {
            trip.record.upstream_time += since.elapsed();
        }
        let (block, flow) = match read.and_then(|read| step(trip, &fetched, it, read)) {
            Ok(step) => step,
            Err(fault) if resume::is_whole(trip, &it.watch, &fault) => return Ok(None),
            Err(fault) => {
                // Boxed: rare, and many times as large as all else that a stream holds.
                fetched = Box::pin(resume::rest(session, trip, fetched, &it.watch, fault, false)).await?;
                it.read_on(trip, &mut fetched);
                continue;
            }
        };
        if let Some(block) = block {
            pass(session, trip, it, block).await?;
        }
        if it.rush.0 >= TURN {
            it.rush.0 = 0;
            tokio::task::yield_now().await;
        }
        match flow {
            Flow::Open => {}
            Flow::Done => return Ok(Some(fetched)),
            Flow::Ended => {
                pass(session, trip, it, Bytes::new()).await?;
                return Ok(Some(fetched));
            }
            Flow::Failed(event) => {
                let fault = Fault::broken(ERROR_EVENT);
                if resume::is_whole(trip, &it.watch, &fault) {
                    return Ok(None);
                }
                match Box::pin(resume::rest(session, trip, fetched, &it.watch, fault, true)).await {
                    Ok(next) => fetched = next,
                    Err(Fault::ClientGone) => return Err(Fault::ClientGone),
                    Err(_) => {
                        let block = as_it_came(trip, it, event)?;
                        pass(session, trip, it, block).await?;
                        return Ok(None);
                    }
                }
                it.read_on(trip, &mut fetched);
            }
        }
    }
}

/// After so many blocks that come as fast as they are passed on, others have their turn: who waits for a first token is not
/// to wait for all of somebody else's.
const TURN: u32 = 2;

/// Blocks that are farther apart do not come as fast as they are passed on.
const RUSH: Duration = Duration::from_millis(1);

/// Gives the client a block, and before the first one the head, if it has none yet.
async fn pass(session: &mut Session, trip: &mut Trip<'_>, it: &mut Streaming, block: Bytes) -> Result<()> {
    if !std::mem::replace(&mut it.has_begun, true) {
        match it.head.take() {
            Some(mut head) => answer_head::send_head(session, trip, &mut head).await?,
            None => answer_head::measure(trip),
        }
    }
    relay::write(session, trip, block).await
}

/// An event in which a backend says that it has failed, where nobody else goes on.
fn as_it_came(trip: &mut Trip<'_>, it: &mut Streaming, mut event: Bytes) -> Result<Bytes> {
    if let Some(end) = it.watch.see(&event).done_at {
        event.truncate(end);
    }
    trip.exchange.watch(it.watch.end(), false);
    outgoing(trip, it, &mut event)?;
    hand_over(trip, it, true, event.len());
    Ok(event)
}

impl Streaming {
    /// Another backend goes on with the stream. Half an event of the first one is gone with it.
    fn read_on(&mut self, trip: &mut Trip<'_>, fetched: &mut Fetched) {
        let mut head = relay::head(trip, fetched);
        head.headers.remove(header::CONTENT_LENGTH);
        if let Some(held) = &mut self.head {
            *held = head;
        }
        self.cutter = EventCutter::new(trip.snapshot.limits.event);
        // What has begun keeps the names that it began with.
        if !resume::has_begun(trip) {
            self.renamer = relay::renamer(trip);
        }
        (self.last_event, self.has_token, self.events) = (Instant::now(), false, 0);
    }
}

/// Waits for the next piece, with the stream's one timer.
async fn next(
    session: &mut Session,
    trip: &Trip<'_>,
    fetched: &mut Fetched,
    until: (Instant, Wait),
    mut timer: Pin<&mut Sleep>,
) -> Result<upstream::error::Result<Option<Bytes>>> {
    loop {
        tokio::select! {
            biased;
            read = fetched.read_body() => return Ok(read),
            () = session.left() => return Err(Fault::ClientGone),
            () = trip.core.is_cut() => return Err(Fault::leaving()),
            () = &mut timer => {
                if until.0 <= Instant::now() {
                    return Err(Fault::timed_out(until.1));
                }
                timer.as_mut().reset(until.0.into());
            }
        }
    }
}

/// Events after which a stream is under way although none of them was a token: more than announce one.
const UNDER_WAY: u32 = 4;

/// How long the next event may take. Comments are signs of life, not progress: only events move the clock.
fn patience(trip: &Trip<'_>, fetched: &Fetched, it: &Streaming) -> (Instant, Wait) {
    let Some(route) = &trip.route else { return (it.last_event, Wait::Total) };
    // Some streams have no tokens that we know: after a few events they are under way all the same.
    if it.has_token || it.events >= UNDER_WAY {
        return fetched.deadline.until(Wait::Idle, it.last_event, route.timeouts.idle, false);
    }
    let sent = trip.record.sent.unwrap_or(it.last_event);
    fetched.deadline.until(Wait::FirstToken, sent, route.timeouts.first_token, it.head.is_some())
}

/// Takes in what was read; gives what goes out and how the stream stands.
fn step(
    trip: &mut Trip<'_>,
    fetched: &Fetched,
    it: &mut Streaming,
    read: upstream::error::Result<Option<Bytes>>,
) -> Result<(Option<Bytes>, Flow)> {
    let chunk = match read {
        Ok(Some(chunk)) => chunk,
        Ok(None) => return ended(trip, it),
        Err(error) => {
            return Err(Fault::broken(format!("{}: {error}", fetched.lease.backend().settings.name)));
        }
    };
    let now = Instant::now();
    let rushes = now.duration_since(it.rush.1) < RUSH;
    it.rush = (if rushes { it.rush.0 + 1 } else { 0 }, now);
    fetched.lease.backend().health.alive(now);
    let block = it
        .cutter
        .push(chunk)
        .map_err(|_| Fault::malformed(format!("an event of more than {} bytes", trip.snapshot.limits.event)))?;
    let Some(mut block) = block else { return Ok((None, Flow::Open)) };
    if let Some(resuming) = &mut trip.resuming {
        block = resuming.join(block)?;
        it.last_event = now;
    }
    let (seen, failed) = see(trip, it, &mut block);
    if it.watch.is_empty() {
        return Err(Fault::broken("the stream ended before it began"));
    }
    if seen.has_event {
        it.last_event = now;
        it.events = it.events.saturating_add(1);
        if it.events == 1
            && trip.exchange.endpoint() == Endpoint::Responses
            && let Some(id) = response_id(&block)
        {
            fetched.lease.attempt().named(id);
        }
    }
    // The event that only names the role is no token yet.
    if seen.has_content && !it.has_token {
        it.has_token = true;
        trip.record.first_token.get_or_insert(now);
        fetched.lease.attempt().first_token(now);
    }
    if let Some(end) = seen.done_at {
        block.truncate(end);
    }
    let flow = match failed {
        Some(event) => Flow::Failed(event),
        None if seen.done_at.is_some() => Flow::Done,
        None => Flow::Open,
    };
    // All of it is held, or another's to say again: the head waits as well.
    if block.is_empty() {
        return Ok((None, flow));
    }
    if seen.has_event {
        resume::given(trip, &block);
    }
    trip.exchange.watch(it.watch.end(), seen.only_text);
    outgoing(trip, it, &mut block)?;
    hand_over(trip, it, matches!(flow, Flow::Done), block.len());
    Ok((Some(block), flow))
}

/// Watches a block. If another backend may go on where this one says that it has failed, the block ends before that, and
/// the rest of it comes back.
fn see(trip: &Trip<'_>, it: &mut Streaming, block: &mut Bytes) -> (Seen, Option<Bytes>) {
    let before = trip.resuming.is_some().then(|| it.watch.clone());
    let seen = it.watch.see(block);
    match (before, seen.failed_at) {
        (Some(before), Some(at)) if !resume::is_clients(&block[at..]) => {
            let event = block.split_off(at);
            it.watch = before;
            (it.watch.see(block), Some(event))
        }
        _ => (seen, None),
    }
}

/// The backend has ended the stream: whole, or not.
fn ended(trip: &mut Trip<'_>, it: &mut Streaming) -> Result<(Option<Bytes>, Flow)> {
    let mut rest = it.cutter.finish().unwrap_or_default();
    if let Some(resuming) = &mut trip.resuming {
        rest = resuming.join(rest)?;
    }
    if !rest.is_empty() {
        it.watch.see(&rest);
    }
    // After an error event nothing more needs to be said: the backend has said it.
    if !it.watch.complete() && !it.watch.saw_error() {
        return Err(Fault::broken("the stream ended without saying that it was complete"));
    }
    trip.exchange.watch(it.watch.end(), false);
    outgoing(trip, it, &mut rest)?;
    hand_over(trip, it, true, rest.len());
    Ok((Some(rest).filter(|rest| !rest.is_empty()), Flow::Ended))
}

/// What goes out next, head first, past the followers, and without what they alone asked for.
fn outgoing(trip: &mut Trip<'_>, it: &mut Streaming, block: &mut Bytes) -> Result<()> {
    if let Some(head) = &mut it.head {
        relay::show(trip, head)?;
    }
    if let Some(renamer) = &it.renamer
        && let Some(renamed) = renamer.rename_in_events(block)
    {
        *block = renamed;
    }
    relay::follow(trip, block, false)?;
    // Those who keep the answer want it for clients who ask.
    if trip.hides_usage
        && let Some(left) = splice::without_usage(block)
    {
        *block = left;
    }
    Ok(())
}

/// The id of the response that the first event of a stream announces.
fn response_id(block: &[u8]) -> Option<&[u8]> {
    let data = &block[memmem::find(block, b"data:")? + 5..];
    let data = &data[json::skip_blanks(data, 0)..];
    let response = &data[json::member(data, "response")?];
    Some(&response[json::member(response, "id")?])
}
