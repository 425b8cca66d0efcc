//! Records an answer for others while it passes to the one who asked for it.

use super::told::is_stream;
use crate::events::StreamWatch;
use crate::exchange::{Exchange, Source};
use crate::filter::{Audience, Head, ResponseFilter, Result};
use crate::recording::{Failure, Recording};
use crate::reply::Refusal;
use bytes::Bytes;
use http::StatusCode;
use std::sync::Arc;

/// The place from which an answer is recorded: where others find the recording.
pub trait Seat: Send + Sync {
    /// The answer is over, and `good` says whether it is whole and a backend's own word. Called once.
    fn leave(&mut self, good: bool);

    /// Sees, and may change, the head of the answer.
    fn head(&mut self, head: &mut Head) {
        let _ = head;
    }
}

/// Records one answer.
pub struct Recorder<S: Seat> {
    recording: Arc<Recording>,
    /// None once it is left.
    seat: Option<S>,
    step: Step,
    /// The head of a stream of which no event has come yet: one that begins with an error is as good as none.
    held: Option<Box<(Head, StreamWatch)>>,
    /// Whether the backend refuses the request, as it would any time.
    refuses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing has come.
    Waiting,
    /// An answer comes.
    Recording,
    /// All of it has come.
    Whole,
    /// Nothing more will come for others.
    Over,
}

impl<S: Seat> Recorder<S> {
    /// A recorder on `recording`, which others find at `seat`.
    pub fn new(recording: Arc<Recording>, seat: S) -> Self {
        Self { recording, seat: Some(seat), step: Step::Waiting, held: None, refuses: false }
    }

    fn give_up(&mut self, failure: Failure) {
        if matches!(self.step, Step::Waiting | Step::Recording) {
            // First nobody new may come, then those who are here go and look for another.
            self.step = Step::Over;
            self.leave(false);
            self.recording.fail(failure);
        }
    }

    fn leave(&mut self, good: bool) {
        if let Some(mut seat) = self.seat.take() {
            seat.leave(good);
        }
    }

    /// Lets go of the head once it is seen what the stream begins with.
    fn see(&mut self, data: &[u8], last: bool) {
        let Some(held) = &mut self.held else { return };
        let (_, watch) = &mut **held;
        if !watch.see(data).has_event && !last {
            return;
        }
        let poor = watch.saw_error() && watch.content_events() == 0;
        if let Some(held) = self.held.take() {
            self.begin(&held.0, poor);
        }
    }

    fn begin(&mut self, head: &Head, poor: bool) {
        if poor {
            self.leave(false);
        }
        self.recording.begin(head, poor);
    }
}

/// Whether an answer says more of the backend than of the request: another attempt may fare better.
fn is_poor(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 409 | 425 | 429)
}

impl<S: Seat> ResponseFilter for Recorder<S> {
    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        if self.step != Step::Waiting {
            return Ok(());
        }
        // What the gateway itself says to this request it would not say to another.
        if exchange.source() == Source::Gateway {
            self.give_up(Failure::Unasked);
            return Ok(());
        }
        let poor = is_poor(head.status);
        self.refuses = head.status.is_client_error();
        if !poor && let Some(seat) = &mut self.seat {
            seat.head(head);
        }
        if head.status.is_success() && is_stream(head) {
            self.held = Some(Box::new((head.clone(), StreamWatch::new(exchange.endpoint()))));
        } else {
            self.begin(head, poor);
        }
        self.step = Step::Recording;
        Ok(())
    }

    fn chunk(&mut self, exchange: &mut Exchange, data: &mut Bytes, last: bool) -> Result<()> {
        if self.step != Step::Recording {
            return Ok(());
        }
        *data = self.recording.push(data);
        self.see(data, last);
        if last {
            self.recording.finish(exchange.spent());
            self.step = Step::Whole;
        }
        Ok(())
    }

    fn fault(&mut self, _: &Exchange, refusal: &Refusal) {
        self.give_up(match refusal.status.is_server_error() {
            true => Failure::Backend(refusal.clone()),
            false => Failure::Unasked,
        });
    }

    fn audience(&self) -> Option<Arc<dyn Audience>> {
        Some(self.recording.clone())
    }

    fn end(mut self: Box<Self>, exchange: &Exchange) {
        self.give_up(Failure::Unasked);
        let is_complete = exchange.outcome().is_some_and(|outcome| outcome.complete);
        self.leave(self.step == Step::Whole && (is_complete || self.refuses));
    }
}

/// Whatever ends a request without its end being told.
impl<S: Seat> Drop for Recorder<S> {
    fn drop(&mut self) {
        self.give_up(Failure::Unasked);
        self.leave(false);
    }
}
