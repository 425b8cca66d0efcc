//! Kept bytes on their way to a client: in slices of what is kept wherever nothing in them changes.

use super::packed::unpack_next;
use super::recorded::Telling;
use crate::forms::Fresh;
use crate::reply::{Body, Pieces, Refusal};
use crate::splice::without_usage;
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use zstd::bulk::Decompressor;

/// About how much of a stream goes out at once, where ids in it have to be changed.
const BLOCK: usize = 16 << 10;

/// Room for the headers that an answer gets on its way out.
const HEADERS: usize = 12;

/// A piece of what is kept.
pub(super) enum Part {
    /// As it is told, but for ids and times.
    Plain(Bytes),
    /// The blocks of a stream.
    Pieces(Telling),
    /// In compressed frames.
    Packed(Bytes),
    /// As it is told.
    Ready(Bytes),
}

impl Part {
    fn is_empty(&self) -> bool {
        match self {
            Self::Plain(bytes) | Self::Packed(bytes) | Self::Ready(bytes) => bytes.is_empty(),
            Self::Pieces(telling) => telling.is_over(),
        }
    }
}

/// A whole answer of `size` bytes: up to `small` bytes in one piece, beyond that as slices of what is kept with new ids
/// between.
pub(super) fn whole(
    kept: Part,
    size: usize,
    fresh: Option<Fresh>,
    content_type: HeaderValue,
    small: usize,
) -> (HeaderMap, Body) {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, content_type);
    let body = match (kept, fresh) {
        (Part::Plain(plain), None) => Body::Whole(plain),
        (Part::Plain(plain), Some(fresh)) if size <= small => Body::Whole(fresh.whole(&plain)),
        (kept, fresh) => {
            // New ids are as long as the old.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            let (parts, fresh) = match (kept, fresh) {
                (Part::Plain(plain), Some(fresh)) => {
                    (fresh.segments(&plain).into_iter().map(Part::Ready).collect(), None)
                }
                (kept, fresh) => (vec![kept], fresh),
            };
            Body::Pieces(Box::new(Replay::new(parts, fresh, 0, None)))
        }
    };
    (headers, body)
}

/// An answer that is told again, piece by piece. What has to be changed or unpacked is, in a buffer that is used for one
/// piece after the other as long as nobody keeps them.
pub(super) struct Replay {
    parts: VecDeque<Part>,
    fresh: Option<Fresh>,
    buffer: BytesMut,
    unpacker: Option<Decompressor<'static>>,
    /// Between events; none: at once.
    step: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    usage: Option<Usage>,
    /// Whether what its chunks say of the usage is left out.
    silent: bool,
}

impl Replay {
    /// Of these blocks of whole events; `pace` of them a second, or at once.
    pub(super) fn new(parts: Vec<Part>, fresh: Option<Fresh>, pace: u32, usage: Option<Usage>) -> Self {
        let step = (pace > 0).then(|| Duration::from_secs(1) / pace);
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { parts, fresh, buffer: BytesMut::new(), unpacker: None, step, timer: None, usage, silent: false }
    }

    /// For those who did not ask for the usage.
    pub(super) fn without_usage(self) -> Self {
        Self { silent: true, ..self }
    }

    /// The next piece as it is told. Always whole events, of a stream.
    fn next_told(&mut self) -> Option<std::result::Result<Bytes, Refusal>> {
        let piece = self.take()?;
        Some(piece.map(|piece| match self.silent {
            true => without_usage(&piece).unwrap_or(piece),
            false => piece,
        }))
    }

    /// The next piece; an error if what is kept is not what was.
    fn take(&mut self) -> Option<std::result::Result<Bytes, Refusal>> {
        let least = if self.step.is_some() { 1 } else { BLOCK };
        let mut block = match self.parts.pop_front()? {
            Part::Packed(mut packed) => {
                if unpack_next(&mut packed, &mut self.buffer, &mut self.unpacker).is_none() {
                    self.parts.clear();
                    let message = "What was kept of the answer cannot be read.";
                    return Some(Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)));
                }
                self.put_back(Part::Packed(packed));
                self.renewed()
            }
            Part::Pieces(mut telling) => {
                telling.fill(&mut self.buffer, least);
                self.put_back(Part::Pieces(telling));
                self.renewed()
            }
            Part::Plain(mut plain) if self.fresh.is_some() => {
                self.buffer.extend_from_slice(&plain.split_to(end_of_event(&plain, least)));
                self.put_back(Part::Plain(plain));
                return Some(Ok(self.renewed()));
            }
            Part::Plain(block) | Part::Ready(block) => block,
        };
        if self.step.is_none() {
            return Some(Ok(block));
        }
        let event = block.split_to(end_of_event(&block, least));
        self.put_back(Part::Ready(block));
        Some(Ok(event))
    }

    /// What is left of a part comes next.
    fn put_back(&mut self, rest: Part) {
        if !rest.is_empty() {
            self.parts.push_front(rest);
        }
    }

    /// What stands in the buffer, with new ids.
    fn renewed(&mut self) -> Bytes {
        if let Some(fresh) = &self.fresh {
            fresh.renew(&mut self.buffer);
        }
        self.buffer.split().freeze()
    }
}

/// Where the event ends that the byte at `least` belongs to.
pub(super) fn end_of_event(block: &[u8], least: usize) -> usize {
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
        Poll::Ready(self.next_told())
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
        let told = told(Replay::new(vec![Part::Plain(kept.clone())], None, 0, None)).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].as_ptr(), kept.as_ptr());
    }

    #[tokio::test]
    async fn a_paced_stream_comes_event_by_event_in_its_time() {
        let kept = Bytes::from("data: 1\r\n\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n");
        let begun = std::time::Instant::now();
        let told = told(Replay::new(vec![Part::Plain(kept)], None, 50, None)).await;
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
