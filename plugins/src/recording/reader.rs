//! One who reads a recording, at its own pace.

use super::{Failure, Opening, Phase, Recording, State};
use crate::reply::{Pieces, Refusal};
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Pieces that wait for a reader are put together up to this size: one write for many events.
const TOGETHER: usize = 4 << 10;

/// One who reads.
pub struct Reader {
    recording: Arc<Recording>,
    /// The next piece.
    at: usize,
    /// Where it stands among those who wait for what comes next, and for the end.
    asked: [Option<(u64, usize)>; 2],
}

impl Reader {
    pub(super) fn new(recording: Arc<Recording>) -> Self {
        Self { recording, at: 0, asked: [None; 2] }
    }

    /// What is read.
    pub fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    /// How the answer begins, once it does.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn opening(&mut self) -> Result<Arc<Opening>, Failure> {
        self.wait(List::Next, |state| match (&state.head, &state.phase) {
            (Some(opening), _) => Some(Ok(opening.clone())),
            (None, Phase::Running) => None,
            (None, Phase::Failed(failure)) => Some(Err(failure.clone())),
            (None, Phase::Complete) => Some(Err(Failure::Unasked)),
        })
        .await
    }

    /// Returns once all of it is there: see [`Recording::body`].
    ///
    /// # Errors
    /// Why that will never be.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        self.wait(List::End, |state| match &state.phase {
            _ if state.gone > 0 => Some(Err(Failure::Behind)),
            Phase::Running => None,
            Phase::Complete => Some(Ok(())),
            Phase::Failed(failure) => Some(Err(failure.clone())),
        })
        .await
    }

    async fn wait<T>(&mut self, list: List, ready: impl Fn(&State) -> Option<T>) -> T {
        std::future::poll_fn(|context| self.poll(context, list, |_, state| ready(state))).await
    }

    /// Looks; asks to be woken if what is looked for is not there.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        list: List,
        ready: impl FnOnce(&mut usize, &State) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.recording.state();
        if let Some(ready) = ready(&mut self.at, &state) {
            return Poll::Ready(ready);
        }
        let waiters = match list {
            List::Next => &mut state.next,
            List::End => &mut state.end,
        };
        let asked = &mut self.asked[list as usize];
        *asked = Some(waiters.wait(*asked, context));
        Poll::Pending
    }
}

/// What is waited for.
#[derive(Clone, Copy)]
enum List {
    Next,
    End,
}

impl State {
    pub(super) fn whole(&self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces[0].clone(),
            _ => {
                let mut whole = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
                self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        }
    }

    /// What is next for a reader that has got as far as `at`.
    fn next(&self, at: &mut usize) -> Option<Bytes> {
        let from = *at - self.gone;
        let first = self.pieces.get(from)?;
        let (mut length, mut count) = (first.len(), 1);
        while let Some(piece) = self.pieces.get(from + count).filter(|piece| length + piece.len() <= TOGETHER) {
            length += piece.len();
            count += 1;
        }
        *at += count;
        if count == 1 {
            return Some(first.clone());
        }
        let mut together = BytesMut::with_capacity(length);
        self.pieces.range(from..from + count).for_each(|piece| together.extend_from_slice(piece));
        Some(together.freeze())
    }
}

impl Pieces for Reader {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        self.poll(context, List::Next, |at, state| {
            if *at < state.gone {
                return Some(Some(Err(Failure::Behind.refusal())));
            }
            if let Some(piece) = state.next(at) {
                return Some(Some(Ok(piece)));
            }
            match &state.phase {
                Phase::Running => None,
                Phase::Complete => Some(None),
                Phase::Failed(failure) => Some(Some(Err(failure.clone().refusal()))),
            }
        })
    }

    fn usage(&self) -> Option<Usage> {
        self.recording.state().usage
    }
}

impl Failure {
    /// What a reader is told that cannot ask by itself any more.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Backend(refusal) => refusal,
            Self::Unasked => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "shared_answer_lost",
                "The request whose answer this one shares was given up. Try again.",
            ),
            Self::Behind => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "fell_behind",
                "This client read an answer that is shared with others too slowly, and its next part is gone. Try again.",
            ),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.recording.state();
        state.readers -= 1;
        let writer = if state.readers == 0 { state.writer.take() } else { None };
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
