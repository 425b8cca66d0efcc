//! One answer, written once and read by many while it comes.
//!
//! A [`Recording`] is the head of an answer, its pieces so far, and how it stands. Whoever gets the answer from its source
//! writes; any number of [`Reader`]s read, each from the beginning and at its own pace. They share the bytes: what a
//! reader holds of its own is a number. The lock is held for as long as it takes to look, never across a wait.
//!
//! A recording is bounded. What is longer loses its beginning: from then on nobody new is let in, and a reader so far
//! behind that its next piece is gone is told so. A writer never waits for readers.

mod reader;
#[cfg(test)]
mod tests;

use crate::filter::{Audience, Head};
use crate::reply::Refusal;
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::header;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

pub use reader::Reader;

/// One answer while it comes, and afterwards.
pub struct Recording {
    state: Mutex<State>,
    max: usize,
    outlives_all: bool,
    /// How much all that are weighed together have.
    sum: Arc<AtomicU64>,
    /// What those who waited for this in vain went on to.
    successor: OnceLock<Arc<Recording>>,
    /// The other forms of it that have been asked for, made once: see [`Self::form`].
    forms: [OnceLock<Option<Arc<[Bytes]>>>; FORMS],
}

/// How many forms of an answer there may be beside the one it came in.
pub const FORMS: usize = 3;

struct State {
    head: Option<Arc<Opening>>,
    pieces: VecDeque<Bytes>,
    /// How many pieces are gone from the beginning.
    gone: usize,
    /// Bytes of the pieces that are here.
    bytes: usize,
    /// Where small pieces are put together, so that none of them holds a large buffer of its connection's.
    arena: BytesMut,
    phase: Phase,
    usage: Option<Usage>,
    readers: usize,
    /// Readers that wait for whatever comes next.
    next: Waiters,
    /// Readers that wait for the end, so that they sleep through what comes before.
    end: Waiters,
    /// Who wants to know that the last reader has left.
    writer: Option<Waker>,
}

/// Those who wait, woken all at once; the round changes when they have been.
#[derive(Default)]
struct Waiters {
    wakers: Vec<Waker>,
    round: u64,
}

enum Phase {
    Running,
    Complete,
    Failed(Failure),
}

/// How an answer begins.
#[derive(Debug)]
pub struct Opening {
    /// Status and headers, without those that frame the body.
    pub head: Head,
    /// Whether the backend failed or had no room: somebody else may have more luck.
    pub poor: bool,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The one who asked the backend was told this.
    Backend(Refusal),
    /// The one who asked was not let through, or left: it says nothing about what another would get.
    Unasked,
    /// It is longer than may be kept, and this reader was too slow.
    Behind,
}

/// Pieces of this size and more are kept as they come.
const LARGE: usize = 8 << 10;

/// What a piece costs beside its bytes.
const OVERHEAD: usize = 40;

impl Recording {
    /// A recording of at most `max` bytes, or of one piece if that is more. With `outlives_all`, the answer is wanted to
    /// its end although nobody reads.
    pub fn new(max: usize, outlives_all: bool) -> Arc<Self> {
        Self::weighed(max, outlives_all, Arc::default())
    }

    /// The same, its bytes added to `sum` for as long as it is there.
    pub fn weighed(max: usize, outlives_all: bool, sum: Arc<AtomicU64>) -> Arc<Self> {
        let state = State {
            head: None,
            pieces: VecDeque::new(),
            gone: 0,
            bytes: 0,
            arena: BytesMut::new(),
            phase: Phase::Running,
            usage: None,
            readers: 0,
            next: Waiters::default(),
            end: Waiters::default(),
            writer: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            max,
            outlives_all,
            sum,
            successor: OnceLock::new(),
            forms: Default::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer begins.
    pub fn begin(&self, head: &Head, poor: bool) {
        let mut head = head.clone();
        head.headers.remove(header::CONTENT_LENGTH);
        self.change(|state| state.head = Some(Arc::new(Opening { head, poor })));
    }

    /// The next piece, and how it is kept: to be passed on in its place, so that the bytes are there once.
    pub fn push(&self, piece: &Bytes) -> Bytes {
        if piece.is_empty() {
            return piece.clone();
        }
        self.change(|state| {
            let before = state.bytes;
            let kept = state.keep(piece);
            state.bytes += kept.len() + OVERHEAD;
            state.pieces.push_back(kept.clone());
            while state.bytes > self.max && state.pieces.len() > 1 {
                let lost = state.pieces.pop_front().unwrap_or_default();
                state.bytes -= lost.len() + OVERHEAD;
                state.gone += 1;
            }
            // In a ring of all numbers: what is less than before is added too.
            self.sum.fetch_add((state.bytes as u64).wrapping_sub(before as u64), Relaxed);
            kept
        })
    }

    /// That was all of it.
    pub fn finish(&self, usage: Option<Usage>) {
        self.change(|state| {
            state.usage = usage;
            state.arena = BytesMut::new();
            state.pieces.shrink_to_fit();
            state.end(Phase::Complete);
        });
    }

    /// There will be no (more) answer. What has ended before stays as it is.
    pub fn fail(&self, failure: Failure) {
        self.change(|state| state.end(Phase::Failed(failure)));
    }

    /// Somebody more who reads it, from the beginning. None if that is not here any more.
    pub fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if state.gone > 0 {
            return None;
        }
        state.readers += 1;
        drop(state);
        Some(Reader::new(self.clone()))
    }

    /// What those who waited for this in vain went on to: the first of them says it, and all others find it.
    pub fn successor(&self) -> &OnceLock<Arc<Self>> {
        &self.successor
    }

    /// What is here of the body, in one piece.
    pub fn body(&self) -> Bytes {
        self.state().whole()
    }

    /// One of its other forms, by number: what `make` makes of it when it is first asked for. The same pieces for all.
    pub fn form(&self, number: usize, make: impl FnOnce() -> Option<Vec<Bytes>>) -> Option<Arc<[Bytes]>> {
        self.forms.get(number)?.get_or_init(|| make().map(Into::into)).clone()
    }

    /// Whether all of it is here.
    pub fn is_complete(&self) -> bool {
        let state = self.state();
        state.gone == 0 && matches!(state.phase, Phase::Complete)
    }

    /// What it takes of memory.
    pub fn weight(&self) -> usize {
        let state = self.state();
        Self::weight_with(state.head.as_ref().map(|opening| &opening.head), state.bytes)
    }

    /// What one with this head and so many bytes takes at least.
    pub fn weight_with(head: Option<&Head>, bytes: usize) -> usize {
        let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + 64;
        size_of::<Self>() + head.map_or(0, |head| head.headers.iter().map(header).sum::<usize>()) + bytes
    }

    /// Changes the state and wakes whoever waits for what has changed.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, woken, ended) = {
            let mut state = self.state();
            let changed = change(&mut state);
            let ended = if state.is_over() { state.end.take() } else { Vec::new() };
            (changed, state.next.take(), ended)
        };
        woken.into_iter().chain(ended).for_each(Waker::wake);
        changed
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.sum.fetch_sub(state.bytes as u64, Relaxed);
    }
}

impl Waiters {
    fn take(&mut self) -> Vec<Waker> {
        self.round += 1;
        std::mem::take(&mut self.wakers)
    }

    /// Notes that somebody waits, who may have asked before; gives what to say the next time.
    fn wait(&mut self, asked: Option<(u64, usize)>, context: &Context<'_>) -> (u64, usize) {
        if let Some((round, place)) = asked.filter(|(round, _)| *round == self.round)
            && let Some(waker) = self.wakers.get_mut(place)
        {
            waker.clone_from(context.waker());
            return (round, place);
        }
        self.wakers.push(context.waker().clone());
        (self.round, self.wakers.len() - 1)
    }
}

impl State {
    /// Whether those who want all of it have nothing to wait for.
    fn is_over(&self) -> bool {
        self.gone > 0 || !matches!(self.phase, Phase::Running)
    }

    fn keep(&mut self, piece: &Bytes) -> Bytes {
        if piece.len() >= LARGE {
            return piece.clone();
        }
        if self.arena.capacity() < piece.len() {
            let room = self.bytes.clamp(1 << 10, 2 * LARGE).max(piece.len());
            self.arena = BytesMut::with_capacity(room);
        }
        self.arena.extend_from_slice(piece);
        self.arena.split().freeze()
    }

    fn end(&mut self, phase: Phase) {
        if matches!(self.phase, Phase::Running) {
            self.phase = phase;
        }
    }
}

impl Audience for Recording {
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.outlives_all {
            return Poll::Pending;
        }
        let mut state = self.state();
        if state.readers == 0 {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }
}
