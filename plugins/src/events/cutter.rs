//! Chunks in, blocks of whole events out.

use bytes::{Bytes, BytesMut};
use memchr::memrchr2;
use thiserror::Error;

/// Cuts a stream where its events end. Copies nothing unless an event is spread over chunks.
#[derive(Debug)]
pub struct EventCutter {
    /// The beginning of an event whose end has not come yet.
    carry: BytesMut,
    limit: usize,
}

/// An event is larger than the limit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an event of the stream is larger than {limit} bytes")]
pub struct TooLarge {
    /// The limit it exceeds.
    pub limit: usize,
}

impl EventCutter {
    /// A cutter that holds no more than `limit` bytes of an unfinished event, besides the chunk at hand.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { carry: BytesMut::new(), limit }
    }

    /// Takes the next chunk, and returns all that is now whole: the longest part of what has come that ends with a
    /// blank line. Nothing is lost, whatever the cuts: the blocks and [`EventCutter::finish`] together are the stream.
    ///
    /// A blank line ended by CR is taken as soon as the CR is there, as a client takes it; should an LF follow in the
    /// next chunk, it belongs to that line end and comes at the beginning of the next block.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, TooLarge> {
        let Some(end) = last_boundary(&self.carry, &chunk) else {
            if self.carry.len() + chunk.len() > self.limit {
                return Err(TooLarge { limit: self.limit });
            }
            self.carry.extend_from_slice(&chunk);
            return Ok(None);
        };
        let mut block = chunk.split_to(end);
        if !self.carry.is_empty() {
            self.carry.extend_from_slice(&block);
            block = self.carry.split().freeze();
        }
        self.carry.extend_from_slice(&chunk);
        Ok(Some(block))
    }

    /// What is left when the stream is over: nothing, or half an event.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.carry.is_empty()).then(|| self.carry.split().freeze())
    }
}

/// Where in `chunk` its last blank line ends. `carry` comes before it, begins a line and contains no blank line.
fn last_boundary(carry: &[u8], chunk: &[u8]) -> Option<usize> {
    // The two bytes before the chunk: a line end, or half of one, may stand there.
    let before = |back: usize| carry.len().checked_sub(back).map(|at| carry[at]);
    let byte = |at: usize, back: usize| at.checked_sub(back).map_or_else(|| before(back - at), |at| Some(chunk[at]));
    let mut search = chunk.len();
    while let Some(at) = memrchr2(b'\n', b'\r', &chunk[..search]) {
        // The byte before this line end: none at the beginning, the end of another line, or the line's last.
        let last = match (chunk[at], byte(at, 1)) {
            (b'\n', Some(b'\r')) => byte(at, 2),
            (_, last) => last,
        };
        if matches!(last, None | Some(b'\n' | b'\r')) {
            return Some(at + 1);
        }
        search = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&'static str]) -> (Vec<Bytes>, Option<Bytes>) {
        let mut cutter = EventCutter::new(1024);
        let push = |chunk: &&'static str| cutter.push(Bytes::from_static(chunk.as_bytes())).unwrap();
        (chunks.iter().filter_map(push).collect(), cutter.finish())
    }

    #[test]
    fn a_block_ends_with_the_last_whole_event() {
        let (blocks, rest) = cut(&["data: 1\n\ndata: 2\n\ndata: 3", "\ndata: 4\n", "\n", "data: 5\n\n"]);
        assert_eq!(blocks, ["data: 1\n\ndata: 2\n\n", "data: 3\ndata: 4\n\n", "data: 5\n\n"]);
        assert_eq!(rest, None);
    }

    #[test]
    fn a_half_event_is_left_over() {
        assert_eq!(cut(&["data: 1\n\ndata: 2\n"]), (vec!["data: 1\n\n".into()], Some("data: 2\n".into())));
    }

    #[test]
    fn whole_events_are_not_copied() {
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2");
        let block = EventCutter::new(64).push(chunk.clone()).unwrap().unwrap();
        assert_eq!(block.as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn every_line_end_counts_wherever_it_is_cut() {
        assert_eq!(cut(&["data: 1\r\n", "\r\n"]).0, ["data: 1\r\n\r\n"]);
        assert_eq!(cut(&["data: 1\r", "\n\r", "\n"]).0, ["data: 1\r\n\r", "\n"]);
        assert_eq!(cut(&["data: 1\r", "\n"]).0, [""; 0]);
        assert_eq!(cut(&["data: 1\r", "\r"]).0, ["data: 1\r\r"]);
        assert_eq!(cut(&["data: 1\n\r\n"]).0, ["data: 1\n\r\n"]);
        assert_eq!(cut(&["data: 1\r\r\nx"]).0, ["data: 1\r\r\n"]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut cutter = EventCutter::new(8);
        assert_eq!(cutter.push("data: 12".into()), Ok(None));
        assert_eq!(cutter.push("3".into()), Err(TooLarge { limit: 8 }));
        let mut cutter = EventCutter::new(8);
        assert_eq!(cutter.push("data: 12".into()), Ok(None));
        assert_eq!(cutter.push("\n\nda".into()), Ok(Some("data: 12\n\n".into())));
    }
}
