//! An HTTP/1.1 client on one connection: one request, its answer, and then perhaps the next.
//!
//! Written for a gateway: a request whose body is known leaves with one system call, a body's pieces come uncopied out
//! of one read buffer, which is no larger than what has come, trailers are kept, and framing that can be read in two ways
//! is refused. See docs/decisions/0003-own-http1-client.md for why this is not Pingora's.

pub(crate) mod body;
mod head;
#[cfg(test)]
pub(crate) mod tests;

pub use head::RequestHead;

use super::error::{Error, Result};
use body::Decoder;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use head::Length;
use http::{HeaderMap, Method, StatusCode};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use tidegate_plugins::Head;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What is read at once from a backend that sends little at a time.
const FIRST_PIECE: usize = 8 << 10;

/// What is read at once from one that fills our buffer.
const LARGEST_PIECE: usize = 64 << 10;

/// The least that a buffer is made for: some events, so that not each of them takes memory of its own.
const LEAST_KEPT: usize = 1 << 10;

/// One connection to a backend. All reading is cancel-safe.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    buffer: BytesMut,
    /// How much is asked for at once.
    piece: usize,
    /// How far the buffer has been searched for the end of the head.
    scanned: usize,
    /// Whether anything of the answer has come.
    answered: bool,
    to_head: bool,
    outgoing: Outgoing,
    /// Writes so far: after more than one, an answer may have overtaken the request's end. 0 once that was looked for.
    writes: usize,
    /// Whether it did: a backend that does not wait for the end will hardly read the next request from where it begins.
    overtaken: bool,
    /// None until the head has been read.
    incoming: Option<Decoder>,
    keeps_alive: bool,
}

/// What is left to send.
#[derive(Debug, PartialEq, Eq)]
enum Outgoing {
    /// This many bytes.
    Length(u64),
    /// Chunks, and then the last one.
    Chunked,
    /// After a 101: whatever comes.
    Raw,
    /// An unknown part of what should have been sent.
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on a connection that has nothing under way.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            piece: FIRST_PIECE,
            scanned: 0,
            answered: false,
            to_head: false,
            outgoing: Outgoing::Length(0),
            writes: 0,
            overtaken: false,
            incoming: None,
            keeps_alive: false,
        }
    }

    /// Sends the head with as much of the body as there is; [`Self::send_body`] sends the rest.
    ///
    /// # Errors
    /// If the connection breaks, or the request cannot be sent.
    pub async fn send(&mut self, head: &RequestHead, authority: &str, body: &[u8]) -> Result<()> {
        let (bytes, length) = head::encode(head, authority)?;
        self.to_head = head.method == Method::HEAD;
        match length {
            Length::Known(length) => {
                let left = Outgoing::Length(less(length, body)?);
                self.write(&mut [IoSlice::new(&bytes), IoSlice::new(body)], left).await
            }
            Length::Chunked => {
                self.write(&mut [IoSlice::new(&bytes)], Outgoing::Chunked).await?;
                self.send_body(body).await
            }
        }
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// If the connection breaks, or this is more than the head has declared.
    pub async fn send_body(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        match self.outgoing {
            Outgoing::Length(left) => {
                let left = Outgoing::Length(less(left, data)?);
                self.write(&mut [IoSlice::new(data)], left).await
            }
            Outgoing::Chunked => {
                let size = format!("{:x}\r\n", data.len());
                let chunk = &mut [IoSlice::new(size.as_bytes()), IoSlice::new(data), IoSlice::new(b"\r\n")];
                self.write(chunk, Outgoing::Chunked).await
            }
            Outgoing::Raw => self.write(&mut [IoSlice::new(data)], Outgoing::Raw).await,
            Outgoing::Broken => Err(BROKEN),
        }
    }

    /// Ends the request.
    ///
    /// # Errors
    /// If the connection breaks, or this is less than the head has declared.
    pub async fn send_end(&mut self) -> Result<()> {
        match self.outgoing {
            Outgoing::Length(0) | Outgoing::Raw => Ok(()),
            Outgoing::Length(_) => Err(Error::Unsendable("its body is shorter than declared")),
            Outgoing::Chunked => self.write(&mut [IoSlice::new(b"0\r\n\r\n")], Outgoing::Length(0)).await,
            Outgoing::Broken => Err(BROKEN),
        }
    }

    /// Writes all of it, with as few system calls as the connection allows.
    async fn write(&mut self, mut pieces: &mut [IoSlice<'_>], then: Outgoing) -> Result<()> {
        // Should this not come to its end, nobody knows how much of it has been sent.
        self.outgoing = Outgoing::Broken;
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let written = self.stream.write_vectored(pieces).await?;
            self.writes += 1;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            IoSlice::advance_slices(&mut pieces, written);
        }
        self.stream.flush().await?;
        self.outgoing = then;
        Ok(())
    }

    /// Reads a head. After one that only announces another (100, 103) the next call reads that.
    ///
    /// # Errors
    /// If the connection breaks, or what comes is not HTTP.
    pub async fn read_head(&mut self) -> Result<Head> {
        self.look_for_an_early_answer()?;
        loop {
            if !self.buffer.is_empty()
                && let Some(answer) = head::decode(&mut self.buffer, &mut self.scanned, self.to_head)?
            {
                self.incoming = Some(answer.body);
                // Who refuses a body for its length has hardly read it, and may end the connection (RFC 9110, 15.5.14).
                self.keeps_alive = answer.keeps_alive && answer.head.status != StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(answer.head);
            }
            if !self.fill().await? {
                return Err(Error::Disconnected { bytes_read: self.answered, cause: None });
            }
        }
    }

    /// What is there as soon as the request has been sent whole came before that.
    fn look_for_an_early_answer(&mut self) -> Result<()> {
        if std::mem::take(&mut self.writes) > 1 && !self.answered {
            // Unconstrained: a task that has used up its turn would find nothing.
            let early = tokio::task::unconstrained(self.fill()).now_or_never();
            self.overtaken = early.transpose()?.is_some_and(|came| came);
        }
        Ok(())
    }

    /// The next piece of the answer's body; none at its end.
    ///
    /// # Errors
    /// If the connection breaks before the answer's end, or the framing is not valid.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Ok(None) };
            let piece = incoming.next(&mut self.buffer)?;
            if piece.is_some() || incoming.is_done() {
                return Ok(piece);
            }
            if !self.fill().await? {
                return self.incoming.as_mut().map_or(Ok(()), Decoder::end).map(|()| None);
            }
        }
    }

    /// Whether the answer has been read to its end.
    pub fn is_done(&self) -> bool {
        self.incoming.as_ref().is_some_and(Decoder::is_done)
    }

    /// What followed the body. Once, and only after its end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.incoming.as_mut().and_then(Decoder::take_trailers)
    }

    /// After a 101: from now on bytes go both ways as they are.
    pub fn tunnel(&mut self) {
        self.outgoing = Outgoing::Raw;
    }

    /// The connection, if it can take another request: both messages are complete, the one before the other, the backend
    /// keeps it open, and has sent nothing beyond its answer.
    pub fn reuse(self) -> Option<S> {
        let fit = self.keeps_alive && self.is_done() && self.outgoing == Outgoing::Length(0) && self.buffer.is_empty();
        (fit && !self.overtaken).then_some(self.stream)
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads what has come into the buffer; false at the end of the connection.
    async fn fill(&mut self) -> Result<bool> {
        let read = match self.piece {
            FIRST_PIECE => self.fill_little().await,
            piece => {
                self.buffer.reserve(piece);
                self.stream.read_buf(&mut (&mut self.buffer).limit(piece)).await
            }
        };
        let read = read.map_err(|cause| Error::Disconnected { bytes_read: self.answered, cause: Some(cause) })?;
        self.answered |= read > 0;
        // A backend that fills what it is offered is offered more; one that trickles is not kept a large buffer for.
        if read == self.piece {
            self.piece = (self.piece * 2).min(LARGEST_PIECE);
        } else if read < self.piece / 4 {
            self.piece = FIRST_PIECE;
        }
        Ok(read > 0)
    }

    /// Reads a little. Over the stack, so that what is kept while nothing comes is as large as what has come.
    async fn fill_little(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() && self.buffer.capacity() > FIRST_PIECE {
            self.buffer = BytesMut::new();
        }
        std::future::poll_fn(|context| {
            let mut space = [const { MaybeUninit::uninit() }; FIRST_PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            let came = read.filled();
            if self.buffer.capacity() - self.buffer.len() < came.len() {
                self.buffer.reserve(came.len().max(LEAST_KEPT));
            }
            self.buffer.extend_from_slice(came);
            Ok(came.len()).into()
        })
        .await
    }
}

const BROKEN: Error = Error::Unsendable("an earlier part of it was not sent whole");

fn less(left: u64, data: &[u8]) -> Result<u64> {
    left.checked_sub(data.len() as u64).ok_or(Error::Unsendable("its body is longer than declared"))
}
