//! An answer as it comes: fed with what was read, it says when it is whole and how many events have passed.

use memchr::{memchr, memmem};

/// What a client has seen of one answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    state: State,
    /// Bytes of a head or of a chunk's size line that has not come whole.
    held: Vec<u8>,
    /// Its status, once the head has come.
    pub status: u16,
    /// Whole events that carry data.
    pub events: u64,
    /// Whether the connection ends with it.
    pub closes: bool,
    /// Whether its stream ended with `[DONE]`.
    pub done: bool,
    /// The last bytes of the body, for what is cut between two reads.
    tail: [u8; 6],
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of body are still to come.
    Length(usize),
    /// A chunk's size line.
    Size,
    /// So many bytes of a chunk, its line end included, are still to come.
    Chunk(usize),
    /// The last chunk's line end.
    Last,
    /// Over.
    Whole,
}

/// A line without its end, and what follows it.
type Line<'a> = (Vec<u8>, &'a [u8]);

/// What cannot be an answer.
#[derive(Debug)]
pub(crate) struct Malformed;

impl Answer {
    /// Whether all of it has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// It is no HTTP, or there is more of it than one answer.
    pub(crate) fn feed(&mut self, mut data: &[u8]) -> Result<(), Malformed> {
        while !data.is_empty() {
            data = match self.state {
                State::Head => self.head(data)?,
                State::Length(left) => {
                    let (body, rest) = data.split_at(left.min(data.len()));
                    self.state = if body.len() == left { State::Whole } else { State::Length(left - body.len()) };
                    rest
                }
                State::Size => self.size(data)?,
                State::Chunk(left) => {
                    let (chunk, rest) = data.split_at(left.min(data.len()));
                    self.count(&chunk[..chunk.len().min(left.saturating_sub(2))]);
                    self.state = if chunk.len() == left { State::Size } else { State::Chunk(left - chunk.len()) };
                    rest
                }
                State::Last => {
                    let line = self.line(data)?;
                    match line {
                        Some((text, rest)) => {
                            // Trailers pass; an empty line ends the answer.
                            self.state = if text.is_empty() { State::Whole } else { State::Last };
                            rest
                        }
                        None => &[],
                    }
                }
                State::Whole => return Err(Malformed),
            };
        }
        Ok(())
    }

    fn head<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.held.len();
        self.held.extend_from_slice(data);
        let Some(end) = memmem::find(&self.held, b"\r\n\r\n") else { return Ok(&[]) };
        let head = std::str::from_utf8(&self.held[..end]).map_err(|_| Malformed)?.to_ascii_lowercase();
        self.status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(Malformed)?;
        let value = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)).map(str::trim);
        self.closes = value("connection:") == Some("close");
        self.state = match (value("content-length:"), value("transfer-encoding:")) {
            (_, Some("chunked")) => State::Size,
            (Some(length), None) => match length.parse().map_err(|_| Malformed)? {
                0 => State::Whole,
                length => State::Length(length),
            },
            _ => return Err(Malformed),
        };
        self.held.clear();
        Ok(&data[end + 4 - before..])
    }

    fn size<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some((line, rest)) = self.line(data)? else { return Ok(&[]) };
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
        self.state = match usize::from_str_radix(digits, 16).map_err(|_| Malformed)? {
            0 => State::Last,
            size => State::Chunk(size + 2),
        };
        Ok(rest)
    }

    /// A line without its end, and what follows; none if its end has not come.
    fn line<'a>(&mut self, data: &'a [u8]) -> Result<Option<Line<'a>>, Malformed> {
        let Some(end) = memchr(b'\n', data) else {
            self.held.extend_from_slice(data);
            return if self.held.len() > 4096 { Err(Malformed) } else { Ok(None) };
        };
        let mut line = std::mem::take(&mut self.held);
        line.extend_from_slice(&data[..end]);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some((line, &data[end + 1..])))
    }

    /// Counts the events whose end is in `data`: an event ends with an empty line.
    fn count(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let last = self.tail[self.tail.len() - 1];
        let across = last == b'\n' && data[0] == b'\n';
        self.events += u64::from(across) + memmem::find_iter(data, b"\n\n").count() as u64;
        self.done |= memmem::rfind(data, b"[DONE]").is_some() || self.done_across(data);
        let kept = data.len().min(self.tail.len());
        self.tail.rotate_left(kept);
        let begin = self.tail.len() - kept;
        self.tail[begin..].copy_from_slice(&data[data.len() - kept..]);
    }

    fn done_across(&self, data: &[u8]) -> bool {
        let mut joint = self.tail.to_vec();
        joint.extend_from_slice(&data[..data.len().min(5)]);
        memmem::find(&joint, b"[DONE]").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `answer` in pieces of `size` bytes.
    fn fed(answer: &[u8], size: usize) -> Answer {
        let mut seen = Answer::default();
        for piece in answer.chunks(size) {
            assert!(!seen.is_whole());
            seen.feed(piece).unwrap();
        }
        seen
    }

    #[test]
    fn a_stream_is_counted_the_same_however_it_is_cut() {
        let stream = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n\
                       1a\r\ndata: 2\n\ndata: 3\n\ndata: [D\r\n6\r\nONE]\n\n\r\n0\r\n\r\n";
        for size in 1..=stream.len() {
            let seen = fed(stream, size);
            assert!(seen.is_whole() && seen.done, "{size}");
            assert_eq!((seen.events, seen.status), (4, 200), "{size}");
        }
    }

    #[test]
    fn a_whole_answer_ends_with_its_length_and_nothing_may_follow() {
        let answer = b"HTTP/1.1 503 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        for size in 1..=answer.len() {
            let seen = fed(answer, size);
            assert!(seen.is_whole() && seen.closes, "{size}");
            assert_eq!(seen.status, 503);
        }
        assert!(fed(answer, 7).feed(b"x").is_err());
    }
}
