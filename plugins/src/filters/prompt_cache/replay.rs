//! Kept bytes on their way to a client: in slices of what is kept wherever nothing in them changes.

use crate::forms::Fresh;
use crate::reply::{Body, Pieces, Refusal};
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// About how much of a stream goes out at once, where ids in it have to be changed.
const BLOCK: usize = 16 << 10;

/// A whole answer: up to `small` bytes in one piece, beyond that as slices of what is kept with new ids between.
pub(super) fn whole(
    plain: &Bytes,
    fresh: Option<&Fresh>,
    content_type: HeaderValue,
    small: usize,
) -> (HeaderMap, Body) {
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
    let body = match fresh {
        None => Body::Whole(plain.clone()),
        Some(fresh) if plain.len() <= small => Body::Whole(fresh.apply(plain)),
        Some(fresh) => {
            // New ids are as long as the old.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(plain.len()));
            Body::Pieces(Box::new(Replay::new(fresh.segments(plain), None, 0, None)))
        }
    };
    (headers, body)
}

/// A stream that is told again.
pub(super) struct Replay {
    parts: VecDeque<Bytes>,
    fresh: Option<Fresh>,
    /// Between events; none: at once.
    step: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    usage: Option<Usage>,
}

impl Replay {
    /// Of these blocks of whole events; `pace` of them a second, or at once.
    pub(super) fn new(parts: Vec<Bytes>, fresh: Option<Fresh>, pace: u32, usage: Option<Usage>) -> Self {
        let step = (pace > 0).then(|| Duration::from_secs(1) / pace);
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { parts, fresh, step, timer: None, usage }
    }

    fn take(&mut self) -> Option<Bytes> {
        let front = self.parts.front_mut()?;
        let least = match (self.step, &self.fresh) {
            (Some(_), _) => 1,
            (None, Some(_)) => BLOCK,
            (None, None) => usize::MAX,
        };
        let end = end_of_event(front, least);
        let block = front.split_to(end);
        if front.is_empty() {
            self.parts.pop_front();
        }
        Some(match &self.fresh {
            Some(fresh) => fresh.apply(&block),
            None => block,
        })
    }
}

/// Where the event ends that the byte at `least` belongs to.
fn end_of_event(block: &[u8], least: usize) -> usize {
    let Some(rest) = block.get(least.saturating_sub(1)..) else { return block.len() };
    let plain = memchr::memmem::find(rest, b"\n\n").map(|at| at + 2);
    let other = if plain.is_none() { memchr::memmem::find(rest, b"\r\n\r\n").map(|at| at + 4) } else { None };
    plain.or(other).map_or(block.len(), |end| block.len() - rest.len() + end)
}

impl Pieces for Replay {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        if let Some(step) = self.step {
            match &mut self.timer {
                None => self.timer = Some(Box::pin(sleep_until(Instant::now() + step))),
                Some(timer) => {
                    std::task::ready!(timer.as_mut().poll(context));
                    let next = timer.deadline() + step;
                    timer.as_mut().reset(next);
                }
            }
        }
        Poll::Ready(self.take().map(Ok))
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(mut replay: Replay) -> Vec<Bytes> {
        let mut told = Vec::new();
        while let Some(piece) = (&mut replay as &mut dyn Pieces).next().await {
            told.push(piece.expect("kept answers do not fail"));
        }
        told
    }

    #[tokio::test]
    async fn what_does_not_change_is_the_same_memory() {
        let kept = Bytes::from("data: 1\n\n".repeat(10_000));
        let told = told(Replay::new(vec![kept.clone()], None, 0, None)).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].as_ptr(), kept.as_ptr());
    }

    #[tokio::test]
    async fn a_paced_stream_comes_event_by_event_in_its_time() {
        let kept = Bytes::from("data: 1\r\n\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n");
        let begun = std::time::Instant::now();
        let told = told(Replay::new(vec![kept], None, 50, None)).await;
        assert_eq!(told.len(), 3);
        assert!(begun.elapsed().as_millis() >= 60, "{:?}", begun.elapsed());
    }

    #[test]
    fn blocks_end_where_events_do() {
        assert_eq!(end_of_event(b"a\n\nbb\n\nc", 1), 3);
        assert_eq!(end_of_event(b"a\n\nbb\n\nc", 4), 7);
        assert_eq!(end_of_event(b"a\n\nbb\n\nc", 8), 8);
        assert_eq!(end_of_event(b"a", 100), 1);
    }
}
