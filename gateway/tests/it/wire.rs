//! HTTP/1.1 as it lies on the wire, read plainly and kept raw: shared by the scripted backend and the client.
//!
//! Nothing here is forgiving or clever, so that a test can say "these bytes came" and mean it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A connection of any kind; `reset` makes its close a TCP RST where there is such a thing.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    fn reset(&self) {}
}

impl Io for TcpStream {
    fn reset(&self) {
        self.set_zero_linger().unwrap();
    }
}
impl Io for UnixStream {}
impl Io for tokio_rustls::server::TlsStream<TcpStream> {}
impl Io for tokio_rustls::client::TlsStream<TcpStream> {}

/// Header fields in the order and case they came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// The first line of a head and its fields.
pub(crate) fn parse_head(head: &[u8]) -> (String, Headers) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        (name.to_owned(), value.trim().to_owned())
    });
    (first, Headers(fields.collect()))
}

/// A connection with what has been read of it and not yet used.
pub(crate) struct Wire {
    io: Box<dyn Io>,
    buffer: BytesMut,
}

impl Wire {
    pub(crate) fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: BytesMut::new() }
    }

    /// Reads once more; 0 is the end. Safe to drop half-way.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(64 * 1024);
        self.io.read_buf(&mut self.buffer).await
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn through(&mut self, end: &[u8]) -> io::Result<Bytes> {
        let mut from = 0;
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[from..], end) {
                return Ok(self.buffer.split_to(from + at + end.len()).freeze());
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            self.more().await?;
        }
    }

    /// A head up to and including its blank line; `None` when the peer closed before its first byte.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Bytes>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        self.through(b"\r\n\r\n").await.map(Some)
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Whatever is there, at most `limit` bytes; empty at the end.
    pub(crate) async fn some(&mut self, limit: usize) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let length = self.buffer.len().min(limit);
        Ok(self.buffer.split_to(length).freeze())
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Says "no more from me" and keeps reading.
    pub(crate) async fn half_close(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// Closes with a TCP RST instead of a FIN.
    pub(crate) fn reset(self) {
        self.io.reset();
    }

    /// Bytes that came and that nobody has asked for.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer
    }
}

/// How a body says where it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Framing {
    Empty,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    /// By the message's own header fields; `otherwise` where they say nothing.
    pub(crate) fn of(headers: &Headers, otherwise: Self) -> Self {
        if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Self::Chunked;
        }
        match headers.get("content-length") {
            Some(length) => length.parse().map_or(Self::Empty, Self::Length),
            None => otherwise,
        }
    }
}

/// A body being read: one chunk at a time where it is chunked, as it comes where it is not.
pub(crate) struct BodyReader {
    framing: Framing,
    pub(crate) trailers: Headers,
}

impl BodyReader {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing, trailers: Headers::default() }
    }

    /// The next piece; `None` at the proper end, an error at any other.
    pub(crate) async fn next(&mut self, wire: &mut Wire) -> io::Result<Option<Bytes>> {
        match self.framing {
            Framing::Empty | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let piece = wire.some(left).await?;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.framing = Framing::Length(left - piece.len());
                Ok(Some(piece))
            }
            Framing::UntilClose => {
                let piece = wire.some(usize::MAX).await?;
                Ok((!piece.is_empty()).then_some(piece))
            }
            Framing::Chunked => self.next_chunk(wire).await,
        }
    }

    async fn next_chunk(&mut self, wire: &mut Wire) -> io::Result<Option<Bytes>> {
        let line = wire.through(b"\r\n").await?;
        let text = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(text.trim_end().split(';').next().unwrap_or_default(), 16)
            .map_err(|_| io::Error::other(format!("not a chunk size: {text:?}")))?;
        if size > 0 {
            let mut chunk = wire.exactly(size + 2).await?;
            if !chunk.ends_with(b"\r\n") {
                return Err(io::Error::other("a chunk that does not end where it said"));
            }
            chunk.truncate(size);
            return Ok(Some(chunk));
        }
        self.framing = Framing::Empty;
        loop {
            let mut line = wire.through(b"\r\n").await?;
            if line.len() == 2 {
                return Ok(None);
            }
            line.truncate(line.len() - 2);
            let (name, value) = std::str::from_utf8(&line).unwrap_or_default().split_once(':').unwrap_or_default();
            self.trailers.0.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

/// `bytes` as one HTTP/1.1 chunk.
pub(crate) fn chunk(bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::from(format!("{:x}\r\n", bytes.len()).as_bytes());
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed.copy_to_bytes(framed.len())
}
