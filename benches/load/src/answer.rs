//! An answer as it comes: fed with what was read, it says when it is whole and how many events have passed.

use crate::events::Events;
use crate::usage::Usage;
use memchr::{memchr, memmem};

/// What a client has seen of one answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    state: State,
    /// Bytes of a head or of a chunk's size line that has not come whole.
    held: Vec<u8>,
    /// Its status, once the head has come.
    pub status: u16,
    /// Its events, if it is a stream of them.
    pub events: Events,
    /// The tokens it says it has, if somebody wants to know.
    pub usage: Option<Usage>,
    /// Whether the connection ends with it.
    pub closes: bool,
    is_stream: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of body are still to come.
    Length(usize),
    /// It ends with the connection.
    UntilClosed,
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

/// No head is longer.
const LONGEST_HEAD: usize = 256 << 10;

impl Answer {
    /// Nothing yet; of its tokens it will take note if `usage`.
    pub(crate) fn new(usage: bool) -> Self {
        Self { usage: usage.then(Usage::default), ..Self::default() }
    }

    /// Whether all of it has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// The connection has ended. True if that is how this answer ends.
    pub(crate) fn ends_here(&mut self) -> bool {
        let ends = self.state == State::UntilClosed;
        if ends {
            self.state = State::Whole;
        }
        ends
    }

    /// Takes what was read, and shows `seen` each piece of the body.
    ///
    /// # Errors
    /// It is no HTTP, or there is more of it than one answer.
    pub(crate) fn feed(&mut self, mut data: &[u8], seen: &mut impl FnMut(&[u8])) -> Result<(), Malformed> {
        while !data.is_empty() {
            data = match self.state {
                State::Head => self.head(data)?,
                State::Length(left) => {
                    let (body, rest) = data.split_at(left.min(data.len()));
                    self.body(body, seen);
                    self.state = if body.len() == left { State::Whole } else { State::Length(left - body.len()) };
                    rest
                }
                State::UntilClosed => {
                    self.body(data, seen);
                    &[]
                }
                State::Size => self.size(data)?,
                State::Chunk(left) => {
                    let (chunk, rest) = data.split_at(left.min(data.len()));
                    self.body(&chunk[..chunk.len().min(left.saturating_sub(2))], seen);
                    self.state = if chunk.len() == left { State::Size } else { State::Chunk(left - chunk.len()) };
                    rest
                }
                State::Last => match self.line(data)? {
                    Some((text, rest)) => {
                        // Trailers pass; an empty line ends the answer.
                        self.state = if text.is_empty() { State::Whole } else { State::Last };
                        rest
                    }
                    None => &[],
                },
                State::Whole => return Err(Malformed),
            };
        }
        Ok(())
    }

    fn body(&mut self, data: &[u8], seen: &mut impl FnMut(&[u8])) {
        if self.is_stream {
            self.events.feed(data);
        }
        if let Some(usage) = &mut self.usage {
            usage.feed(data);
        }
        seen(data);
    }

    fn head<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.held.len();
        self.held.extend_from_slice(data);
        if !self.held.starts_with(&b"HTTP/1."[..self.held.len().min(7)]) || before > LONGEST_HEAD {
            return Err(Malformed);
        }
        let Some(end) = memmem::find(&self.held, b"\r\n\r\n") else { return Ok(&[]) };
        let head = std::str::from_utf8(&self.held[..end]).map_err(|_| Malformed)?.to_ascii_lowercase();
        self.status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(Malformed)?;
        let value = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)).map(str::trim);
        self.is_stream = value("content-type:").is_some_and(|value| value.starts_with("text/event-stream"));
        self.closes = value("connection:") == Some("close") || head.starts_with("http/1.0");
        self.state = match (self.status, value("content-length:"), value("transfer-encoding:")) {
            // What comes before the answer.
            (100..=199, ..) => State::Head,
            (204 | 304, ..) => State::Whole,
            (_, _, Some("chunked")) => State::Size,
            (_, Some(length), None) => match length.parse().map_err(|_| Malformed)? {
                0 => State::Whole,
                length => State::Length(length),
            },
            (_, None, None) => State::UntilClosed,
            _ => return Err(Malformed),
        };
        self.closes |= self.state == State::UntilClosed;
        self.held.clear();
        Ok(&data[end + 4 - before..])
    }

    fn size<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some((line, rest)) = self.line(data)? else { return Ok(&[]) };
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
        self.state = match usize::from_str_radix(digits, 16).map_err(|_| Malformed)? {
            0 => State::Last,
            size => State::Chunk(size.checked_add(2).ok_or(Malformed)?),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `answer` in pieces of `size` bytes.
    fn fed(answer: &[u8], size: usize) -> Answer {
        let mut seen = Answer::new(true);
        for piece in answer.chunks(size) {
            assert!(!seen.is_whole());
            seen.feed(piece, &mut |_| {}).unwrap();
        }
        seen
    }

    #[test]
    fn a_stream_is_counted_the_same_however_it_is_cut() {
        let stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n\
                       1a\r\ndata: 2\n\ndata: 3\n\ndata: [D\r\n6\r\nONE]\n\n\r\n0\r\n\r\n";
        for size in 1..=stream.len() {
            let seen = fed(stream, size);
            assert!(seen.is_whole() && seen.events.done, "{size}");
            assert_eq!((seen.events.count, seen.status), (4, 200), "{size}");
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
        assert!(fed(answer, 7).feed(b"x", &mut |_| {}).is_err());
    }

    #[test]
    fn an_answer_without_a_length_ends_with_its_connection_and_one_with_a_length_does_not() {
        let mut seen = fed(b"HTTP/1.0 200 OK\r\n\r\nabc", 5);
        assert!(!seen.is_whole() && seen.closes && seen.ends_here() && seen.is_whole());
        assert!(!fed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", 5).ends_here());
    }

    #[test]
    fn what_comes_before_an_answer_is_none() {
        let seen = fed(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", 9);
        assert!(seen.is_whole() && seen.status == 200);
    }

    #[test]
    fn what_is_no_http_is_told_at_its_first_byte() {
        assert!(Answer::default().feed(b"\x16\x03", &mut |_| {}).is_err());
        assert!(Answer::default().feed(b"HTTP/2 200\r\n", &mut |_| {}).is_err());
    }
}
