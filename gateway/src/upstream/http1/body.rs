//! The body of a message, taken off the front of the read buffer: no byte is copied, and none is looked at that is not
//! framing. Answers of backends are read by it, and requests of clients.

use super::head::{MOST_FIELDS, block_end, header_map};
use crate::upstream::error::{Error, Result};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

/// The longest line that gives a chunk's size, extensions included. Nobody uses those; they are skipped.
const LONGEST_SIZE_LINE: usize = 256;

/// Bytes of chunk extensions in one answer: a backend cannot keep us busy with what is nothing.
const MOST_EXTENSIONS: usize = 16 << 10;

/// The largest block of trailers.
const LARGEST_TRAILERS: usize = 16 << 10;

/// Where a body stands.
#[derive(Debug)]
enum State {
    /// This many bytes are to come.
    Length(u64),
    /// The line with the next chunk's size is to come.
    Size,
    /// This many bytes of a chunk are to come; never 0.
    Chunk(u64),
    /// The line break after a chunk is to come.
    ChunkEnd,
    /// Trailers are to come, at least their empty line.
    Trailers,
    /// Everything until the connection ends.
    Rest,
    /// It is complete.
    Done,
    /// It cannot be read on.
    Failed(&'static str),
}

/// Reads a body by its framing.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    extensions: usize,
    trailers: Option<Box<HeaderMap>>,
}

impl Decoder {
    fn new(state: State) -> Self {
        Self { state, extensions: 0, trailers: None }
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self::new(State::Done)
    }

    /// A body of so many bytes.
    pub(crate) fn of_length(length: u64) -> Self {
        Self::new(if length == 0 { State::Done } else { State::Length(length) })
    }

    /// A body in chunks.
    pub(crate) fn chunked() -> Self {
        Self::new(State::Size)
    }

    /// A body that ends with its connection.
    pub(crate) fn to_the_end() -> Self {
        Self::new(State::Rest)
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How much is to come, where the head has said it.
    pub(crate) fn declared(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// So many bytes of a declared length have been read past this decoder.
    pub(crate) fn passed(&mut self, bytes: usize) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.state = State::Done;
            }
        }
    }

    /// The trailers, if there were any. Once.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    /// Takes the next piece of the body off `buffer`; none if that takes more bytes, or the body is complete. After a
    /// piece it has also seen as much of the framing behind it as has come, so that [`Self::is_done`] is not late.
    ///
    /// # Errors
    /// What is wrong with the framing.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>> {
        self.skip_framing(buffer);
        let left = match &mut self.state {
            State::Length(left) | State::Chunk(left) => left,
            State::Rest if !buffer.is_empty() => return Ok(Some(buffer.split().freeze())),
            State::Failed(why) => return Err(Error::Malformed(why)),
            _ => return Ok(None),
        };
        if buffer.is_empty() {
            return Ok(None);
        }
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        *left -= here as u64;
        let piece = buffer.split_to(here).freeze();
        match self.state {
            State::Length(0) => self.state = State::Done,
            State::Chunk(0) => self.state = State::ChunkEnd,
            _ => {}
        }
        // What is wrong here is told by the next call: the piece was right.
        self.skip_framing(buffer);
        Ok(Some(piece))
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// If the body had not.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.state {
            State::Rest | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(why) => Err(Error::Malformed(why)),
            _ => Err(Error::Disconnected { bytes_read: true, cause: None }),
        }
    }

    /// Reads what is not body, as far as it has come.
    fn skip_framing(&mut self, buffer: &mut BytesMut) {
        loop {
            let next = match self.state {
                State::Size => self.size(buffer),
                State::ChunkEnd => line_break(buffer),
                State::Trailers => self.trailers(buffer),
                _ => return,
            };
            match next {
                Ok(Some(state)) => self.state = state,
                Ok(None) => return,
                Err(Error::Malformed(why)) => self.state = State::Failed(why),
                Err(_) => self.state = State::Failed("the framing is not valid"),
            }
        }
    }

    /// A chunk's size: hexadecimal digits, then perhaps extensions, then CRLF (RFC 9112 section 7.1).
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<State>> {
        let look = &buffer[..buffer.len().min(LONGEST_SIZE_LINE)];
        let Some(end) = memchr(b'\n', look) else {
            return if look.len() < LONGEST_SIZE_LINE {
                Ok(None)
            } else {
                Err(Error::Malformed("an endless chunk size"))
            };
        };
        let line =
            look[..end].strip_suffix(b"\r").ok_or(Error::Malformed("a chunk's size ends with a bare line feed"))?;
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, extensions) = line.split_at(digits);
        let size = match digits {
            [] => return Err(Error::Malformed("a chunk's size is none")),
            _ if digits.len() > 16 => return Err(Error::Malformed("a chunk's size is too large")),
            _ => digits.iter().fold(0, |size, &digit| size << 4 | u64::from(hex(digit))),
        };
        if !extensions.is_empty() {
            self.extensions += extensions.len();
            let valid = extensions.trim_ascii_start().first() == Some(&b';');
            let clean = extensions.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
            if !valid || !clean || self.extensions > MOST_EXTENSIONS {
                return Err(Error::Malformed("what follows a chunk's size is no extension"));
            }
        }
        buffer.advance(end + 1);
        Ok(Some(if size == 0 { State::Trailers } else { State::Chunk(size) }))
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Option<State>> {
        let Some(end) = block_end(buffer, &mut 0, LARGEST_TRAILERS)? else { return Ok(None) };
        if end > b"\r\n".len() {
            let raw = Bytes::copy_from_slice(&buffer[..end]);
            let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
            match httparse::parse_headers(&raw, &mut fields) {
                Ok(httparse::Status::Complete((length, fields))) if length == end => {
                    self.trailers = Some(Box::new(header_map(&raw, fields)?));
                }
                _ => return Err(Error::Malformed("the trailers are none")),
            }
        }
        buffer.advance(end);
        Ok(Some(State::Done))
    }
}

fn line_break(buffer: &mut BytesMut) -> Result<Option<State>> {
    match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            Ok(Some(State::Size))
        }
        [] | [b'\r'] => Ok(None),
        _ => Err(Error::Malformed("a chunk is longer than its size")),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
