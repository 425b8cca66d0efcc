//! The opening of a stream: everything up to the first event with content, read and held before it is decided whose
//! stream the client gets. Where a pool holds streams for so long, and where a second backend may be asked.

use super::attempt::{Ask, Failed, Got, Miss, Outcome};
use super::fail::{Fault, Wait};
use crate::upstream::hedge::Hedging;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::events::{EventCutter, StreamWatch};

/// What is to be looked for in a stream.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    /// In whose protocol it is.
    pub endpoint: Endpoint,
    /// How many answers it has.
    pub choices: u64,
    /// The largest event.
    pub limit: usize,
}

/// A backend that has begun to answer, and what it has said.
pub(super) struct Opened {
    /// The backend.
    pub got: Got,
    /// What has been read of its answer.
    pub held: VecDeque<Bytes>,
    /// Whether that is an error where a stream should have been.
    pub is_error: bool,
}

impl Opened {
    /// Whether it is an answer, and no refusal.
    pub(super) fn is_good(&self) -> bool {
        self.got.head.status.is_success() && !self.is_error
    }
}

/// Asks, and reads a stream up to its first event with content. An idle connection that turns out to be dead is replaced.
///
/// # Errors
/// How it ended.
pub(super) async fn open(ask: Ask<'_>, opening: Opening) -> Outcome<Opened> {
    let again = ask.clone();
    let got = match ask.run(false).await {
        Err(Failed::Stale) => again.clone().run(true).await?,
        outcome => outcome?,
    };
    let mut opened = Opened { got, held: VecDeque::new(), is_error: false };
    let kind = super::headers::media_type(&opened.got.head.headers);
    if opened.got.head.status.as_u16() == 200 && kind == "text/event-stream" {
        read(&again, &mut opened, opening).await?;
    }
    Ok(opened)
}

async fn read(ask: &Ask<'_>, opened: &mut Opened, opening: Opening) -> Outcome<()> {
    let mut cutter = EventCutter::new(opening.limit);
    let mut watch = StreamWatch::new(opening.endpoint).with_choices(opening.choices);
    let mut held = 0;
    loop {
        let (until, wait) = ask.until(Wait::FirstToken, opened.got.sent);
        let patience = until.saturating_duration_since(Instant::now());
        let read = pingora::time::timeout(patience, opened.got.upstream.read_body()).await;
        let chunk = match read {
            Ok(Ok(Some(chunk))) => chunk,
            // What becomes of a stream without content is for the relay to say.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(Failed::Missed(Miss::Lost, Fault::broken(ask.told(&error)))),
            Err(_) if wait == Wait::FirstToken => return Err(Failed::Missed(Miss::Timeout, Fault::timed_out(wait))),
            Err(_) => return Err(Failed::Final(Fault::timed_out(wait))),
        };
        ask.alive();
        held += chunk.len();
        opened.held.push_back(chunk.clone());
        // Larger than may be held: the relay says so.
        let Ok(block) = cutter.push(chunk) else { return Ok(()) };
        if let Some(block) = block {
            let done = watch.see(&block).done_at.is_some();
            opened.is_error = watch.saw_error() && watch.content_events() == 0;
            if done || opened.is_error || watch.content_events() > 0 {
                return Ok(());
            }
        }
        if held > opening.limit {
            return Ok(());
        }
    }
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
    let refused = super::headers::text(trip.exchange.headers(), "x-tidegate-hedge").is_some_and(|value| value == "off");
    if refused || (side_effects && !hedging.settings.side_effects) {
        return None;
    }
    hedging.patience()
}
