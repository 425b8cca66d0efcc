//! The opening of an answer: of a stream everything up to the first event, or the first with content, of any other all of
//! it; read and held before it is decided whose answer the client gets. Where a pool holds streams for so long, where a
//! second backend may be asked, and where another is asked if one breaks off.

use super::attempt::{Ask, Failed, Got, Miss, Outcome};
use super::budget::Share;
use super::fail::{Fault, Wait};
use super::{Route, Trip, body, whole};
use crate::upstream::hedge::Hedging;
use bytes::Bytes;
use http::header;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tidegate_config::Hold;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::events::{EventCutter, StreamWatch};

/// What is to be looked for in an answer.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    /// In whose protocol it is.
    endpoint: Endpoint,
    /// How many answers it has.
    choices: u64,
    /// How much of a stream is held; none: a whole answer is to come.
    stream: Option<Hold>,
    /// The largest event, or the largest whole answer that is held.
    limit: usize,
    /// Bytes of all answers and bodies that may be held.
    in_flight: usize,
    /// How long a whole answer may pause.
    idle: Duration,
}

impl Opening {
    /// For the answer to `trip`, if it is one that is read before it is passed on.
    pub(super) fn new(trip: &Trip<'_>, route: &Route) -> Option<Self> {
        let (call, endpoint) = (trip.exchange.call()?, trip.exchange.endpoint());
        let limits = &trip.snapshot.limits;
        let hold = if route.hedging.is_some() { Hold::Content } else { route.pool.hold };
        let stream = call.stream.then_some(hold);
        if stream.is_none() && matches!(endpoint, Endpoint::Audio | Endpoint::Images) {
            return None;
        }
        let limit = if stream.is_some() { limits.event } else { limits.answer };
        let (choices, idle) = (call.n.unwrap_or(1), route.timeouts.idle);
        Some(Self { endpoint, choices, stream, limit, in_flight: trip.memory, idle })
    }
}

/// A backend that has begun to answer, and what it has said.
pub(super) struct Opened {
    /// The backend.
    pub got: Got,
    /// What has been read of its answer.
    pub held: VecDeque<Bytes>,
    /// Whether that is an error where an answer should have been.
    pub is_error: bool,
    /// The memory that a whole answer takes.
    pub share: Share,
}

impl Opened {
    /// Whether it is an answer, and no refusal.
    pub(super) fn is_good(&self) -> bool {
        self.got.head.status.is_success() && !self.is_error
    }
}

/// Asks, and reads the opening of the answer. An idle connection that turns out to be dead is replaced.
///
/// # Errors
/// How it ended.
pub(super) async fn open(ask: Ask<'_>, opening: Opening) -> Outcome<Opened> {
    let again = ask.clone();
    let got = match ask.run(false).await {
        Err(Failed::Stale) => again.clone().run(true).await?,
        outcome => outcome?,
    };
    let mut opened = Opened { got, held: VecDeque::new(), is_error: false, share: again.share() };
    if opened.got.head.status.as_u16() == 200 {
        let is_stream = super::headers::media_type(&opened.got.head.headers) == "text/event-stream";
        match opening.stream {
            Some(hold) if is_stream => read_stream(&again, &mut opened, opening, hold).await?,
            _ => {
                if !is_stream {
                    read_whole(&again, &mut opened, opening).await?;
                }
                judge(&again, &mut opened, opening, is_stream)?;
            }
        }
    }
    Ok(opened)
}

/// Judges what is no stream, or a stream that nobody asked for. What is too large, or encoded, is judged by the relay.
fn judge(ask: &Ask<'_>, opened: &mut Opened, opening: Opening, is_stream: bool) -> Outcome<()> {
    let headers = &opened.got.head.headers;
    if matches!(opening.endpoint, Endpoint::Audio | Endpoint::Images)
        || headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity")
        || !is_stream && !opened.got.upstream.is_done()
    {
        return Ok(());
    }
    let answer = match &opened.held.make_contiguous()[..] {
        [only] => only.clone(),
        pieces => pieces.concat().into(),
    };
    opened.is_error = !is_stream && whole::is_error(&answer);
    let is_wanted = opening.stream.is_none() && !is_stream;
    let judged = || is_wanted && body::large(answer.len(), || whole::is_answer(&answer, opening.endpoint));
    match opened.is_error || judged() {
        true => Ok(()),
        false => {
            Err(Failed::Missed(Miss::Malformed, Fault::malformed(ask.told("what came is not what was asked for"))))
        }
    }
}

/// Reads one more piece, no later than `until`.
async fn piece(ask: &Ask<'_>, opened: &mut Opened, (until, wait): (Instant, Wait)) -> Outcome<Option<Bytes>> {
    let patience = until.saturating_duration_since(Instant::now());
    match crate::patience::timeout(patience, opened.got.upstream.read_body()).await {
        Ok(Ok(piece)) => {
            if piece.is_some() {
                ask.alive();
            }
            Ok(piece)
        }
        Ok(Err(error)) => Err(Failed::Missed(Miss::Lost, Fault::broken(ask.told(&error)))),
        Err(_) if matches!(wait, Wait::FirstToken | Wait::Idle) => {
            Err(Failed::Missed(Miss::Timeout, Fault::timed_out(wait)))
        }
        Err(_) => Err(Failed::Final(Fault::timed_out(wait))),
    }
}

async fn read_stream(ask: &Ask<'_>, opened: &mut Opened, opening: Opening, hold: Hold) -> Outcome<()> {
    let mut cutter = EventCutter::new(opening.limit);
    let mut watch = StreamWatch::new(opening.endpoint).with_choices(opening.choices);
    let mut held = 0;
    loop {
        let until = ask.until(Wait::FirstToken, opened.got.sent);
        let Some(chunk) = piece(ask, opened, until).await? else {
            if let Some(rest) = cutter.finish() {
                watch.see(&rest);
            }
            // Nothing, or no word that this is all: as good as broken off.
            return if watch.complete() || watch.saw_error() { Ok(()) } else { Err(ended_early(ask)) };
        };
        held += chunk.len();
        opened.held.push_back(chunk.clone());
        // Larger than may be held: the relay says so.
        let Ok(block) = cutter.push(chunk) else { return Ok(()) };
        if let Some(block) = block {
            let seen = watch.see(&block);
            let is_enough = watch.content_events() > 0 || hold == Hold::Event && seen.has_event;
            opened.is_error = watch.saw_error() && watch.content_events() == 0;
            if watch.is_empty() {
                return Err(ended_early(ask));
            }
            if seen.done_at.is_some() || opened.is_error || is_enough {
                return Ok(());
            }
        }
        if held > opening.limit {
            return Ok(());
        }
    }
}

fn ended_early(ask: &Ask<'_>) -> Failed {
    Failed::Missed(Miss::Lost, Fault::broken(ask.told("the stream ended before it began")))
}

/// Reads a whole answer to its end, or as far as there is room for it.
async fn read_whole(ask: &Ask<'_>, opened: &mut Opened, opening: Opening) -> Outcome<()> {
    let mut held = 0;
    while !opened.got.upstream.is_done() {
        let until = ask.within(Wait::Idle, opening.idle);
        let Some(piece) = piece(ask, opened, until).await? else { return Ok(()) };
        held += piece.len();
        let fits = opened.share.grow(piece.len(), opening.in_flight);
        opened.held.push_back(piece);
        if !fits || held > opening.limit {
            return Ok(());
        }
    }
    Ok(())
}

/// Two that were asked, and who was heard.
pub(super) struct Race {
    /// Whose answer it is.
    pub outcome: Outcome<Opened>,
    /// Whether that is the second's.
    pub is_second: bool,
}

/// Waits for the first of two that is any good; the other is let go of, and its connection closed.
pub(super) async fn race(
    mut first: std::pin::Pin<&mut impl Future<Output = Outcome<Opened>>>,
    second: impl Future<Output = Outcome<Opened>>,
) -> Race {
    let mut second = std::pin::pin!(second);
    let good = |outcome: &Outcome<Opened>| outcome.as_ref().is_ok_and(Opened::is_good);
    tokio::select! {
        biased;
        outcome = &mut first => {
            if good(&outcome) {
                return Race { outcome, is_second: false };
            }
            let other = second.await;
            if good(&other) { Race { outcome: other, is_second: true } } else { Race { outcome, is_second: false } }
        }
        outcome = &mut second => {
            if good(&outcome) {
                return Race { outcome, is_second: true };
            }
            Race { outcome: first.await, is_second: false }
        }
    }
}

/// Whether a second backend may be asked for this request, and after how long.
pub(super) fn patience(trip: &super::Trip<'_>, hedging: &Hedging) -> Option<Duration> {
    use tidegate_plugins::call::Key;
    let call = trip.exchange.call()?;
    let side_effects = call.span(Key::Tools).is_some() || call.endpoint == Endpoint::Responses;
    if trip.wishes.no_hedge || (side_effects && !hedging.settings.side_effects) {
        return None;
    }
    hedging.patience(call.stream)
}
