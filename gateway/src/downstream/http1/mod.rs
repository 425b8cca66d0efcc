//! An HTTP/1 server on one connection: requests are read one after the other, and each is answered before the next.
//!
//! Written for a gateway: a head is read and judged in one pass, a body comes uncopied out of the read buffer or goes
//! straight into the caller's, an answer's head leaves with what follows it in one system call, and a connection that
//! waits holds no buffer. See docs/decisions/0007-own-http1-server.md for why this is not Pingora's.

mod answer;
mod head;
#[cfg(test)]
mod tests;

pub(crate) use head::Refused;

use super::{Error, Result};
use crate::upstream::http1::body::Decoder;
use answer::Outgoing;
use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Version};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;
use tidegate_config::Limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1 method begins like this.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read at once from a client that sends little at a time.
const FIRST_PIECE: usize = 8 << 10;

/// What is read at once from one that fills our buffer.
const LARGEST_PIECE: usize = 64 << 10;

/// Room that is made at once for a body, whatever length it declares: a lie costs the liar's bytes, not ours.
const FIRST_ROOM: usize = 256 << 10;

/// Bytes that are taken in while nobody asks for them. What a client sends beyond, it keeps.
const AHEAD: usize = 8 << 10;

/// Bytes listened to before hanging up: enough for what is under way.
const LINGER: usize = 4 << 20;

/// How long that may take, and saying goodbye too.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// One connection of a client. All reading is cancel-safe.
#[derive(Debug)]
pub(crate) struct Http1<S> {
    stream: S,
    client: Option<IpAddr>,
    buffer: BytesMut,
    /// How much of a body is asked for at once.
    piece: usize,
    /// How far the buffer has been searched for the end of a head.
    scanned: usize,
    /// The request's head, until it is taken.
    request: Option<Box<Parts>>,
    version: Version,
    to_head: bool,
    upgrade: bool,
    keeps_alive: bool,
    incoming: Decoder,
    outgoing: Outgoing,
    /// The head of an answer that has not left yet.
    held: Vec<u8>,
    write_timeout: Duration,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The connection has ended.
    Gone,
    /// It is not to be answered but with this.
    Refused(Refused),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    /// A connection that has just been made.
    pub(crate) fn new(stream: S, client: Option<IpAddr>) -> Self {
        Self {
            stream,
            client,
            buffer: BytesMut::new(),
            piece: FIRST_PIECE,
            scanned: 0,
            request: None,
            version: Version::HTTP_11,
            to_head: false,
            upgrade: false,
            keeps_alive: false,
            incoming: Decoder::empty(),
            outgoing: Outgoing::Unsent,
            held: Vec::new(),
            write_timeout: Duration::from_secs(60),
        }
    }

    /// Whether the client speaks HTTP/2 instead. Reads as much as it takes to know.
    ///
    /// # Errors
    /// If the connection ends before.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        loop {
            let begun = self.buffer.len().min(PREFACE.len());
            if self.buffer[..begun] != PREFACE[..begun] {
                return Ok(false);
            }
            if begun == PREFACE.len() {
                return Ok(true);
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The connection, and what has been read from it.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.buffer)
    }

    /// Waits for the first byte of the next request. False if the client leaves instead.
    pub(crate) async fn await_request(&mut self) -> bool {
        loop {
            head::skip_empty_lines(&mut self.buffer);
            if !self.buffer.is_empty() {
                return true;
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return false;
            }
        }
    }

    /// Reads the next request's head.
    ///
    /// # Errors
    /// Why there is none. After a refusal it can be answered, but nothing more be read.
    pub(crate) async fn read_head(&mut self, limits: &Limits) -> std::result::Result<(), Unreadable> {
        loop {
            match head::decode(&mut self.buffer, &mut self.scanned, limits) {
                Ok(Some(request)) => {
                    self.begin(request);
                    return Ok(());
                }
                Ok(None) => {}
                Err(refused) => {
                    // What follows cannot be told apart from it.
                    (self.incoming, self.outgoing) = (Decoder::to_the_end(), Outgoing::Unsent);
                    (self.to_head, self.keeps_alive, self.version) = (false, false, Version::HTTP_11);
                    return Err(Unreadable::Refused(refused));
                }
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return Err(Unreadable::Gone);
            }
        }
    }

    fn begin(&mut self, request: head::Request) {
        self.version = request.parts.version;
        self.to_head = request.parts.method == Method::HEAD;
        self.upgrade = request.upgrade;
        self.keeps_alive = request.keeps_alive;
        self.incoming = request.body;
        self.outgoing = Outgoing::Unsent;
        self.held.clear();
        self.request = Some(Box::new(request.parts));
    }

    /// The request's head. Once.
    pub(crate) fn take_request(&mut self) -> Option<Box<Parts>> {
        self.request.take()
    }

    /// Where the client is.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Whether the client asks for another protocol.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Whether the connection is to be used again.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// The connection ends with this answer.
    pub(crate) fn close_after(&mut self) {
        self.keeps_alive = false;
    }

    /// How long a client may take no byte of an answer.
    pub(crate) fn set_write_timeout(&mut self, patience: Duration) {
        self.write_timeout = patience;
    }

    /// Whether the request has been read to its end.
    pub(crate) fn is_body_done(&self) -> bool {
        self.incoming.is_done()
    }

    /// The next piece of the request's body, or of what comes after a 101; none at its end.
    ///
    /// # Errors
    /// If the client leaves before, or the framing is not valid.
    pub(crate) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            let piece = self.incoming.next(&mut self.buffer).map_err(|_| Error::Malformed)?;
            if piece.is_some() || self.incoming.is_done() {
                return Ok(piece);
            }
            if self.fill_piece().await? == 0 {
                return self.incoming.end().map(|()| None).map_err(|_| Error::Gone);
            }
        }
    }

    /// Adds the next piece of the request's body to `body`, read straight into it where its length is declared. False
    /// at the end.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn read_body_into(&mut self, body: &mut BytesMut) -> Result<bool> {
        let Some(left) = self.incoming.declared().filter(|_| self.buffer.is_empty()) else {
            let piece = self.read_body().await?;
            if let Some(piece) = &piece {
                let declared = self.incoming.declared().and_then(|left| usize::try_from(left).ok());
                body.reserve(piece.len() + declared.unwrap_or(0).min(FIRST_ROOM));
                body.extend_from_slice(piece);
            }
            return Ok(piece.is_some());
        };
        // Not kept for the while that the answer takes.
        self.buffer = BytesMut::new();
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if body.capacity() == body.len() {
            body.reserve(left.min(FIRST_ROOM));
        }
        let read = self.stream.read_buf(&mut (&mut *body).limit(left)).await.map_err(|_| Error::Gone)?;
        self.incoming.passed(read);
        if read == 0 { Err(Error::Gone) } else { Ok(true) }
    }

    /// Reads the rest of the request's body, for nobody.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn drain_body(&mut self) -> Result<()> {
        while self.read_body().await?.is_some() {}
        Ok(())
    }

    /// Returns when the client has left. What it sends meanwhile is kept for whoever asks next.
    pub(crate) async fn left(&mut self) {
        loop {
            if self.buffer.len() >= AHEAD {
                std::future::pending().await
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return;
            }
        }
    }

    /// Whether the connection can take the next request, now that this one is over.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keeps_alive && self.outgoing == Outgoing::Done && self.incoming.is_done()
    }

    /// Ends the connection. Closing a socket with unread bytes resets it, and the reset can overtake the answer: so a
    /// client that may still be sending is listened to for a moment, without keeping what it says.
    pub(crate) async fn close(mut self) {
        if self.outgoing == Outgoing::Broken {
            return;
        }
        self.hang_up().await;
        if !self.incoming.is_done() {
            self.buffer.clear();
            let discard = async {
                let mut left = LINGER;
                while let Ok(read @ 1..) = self.fill().await {
                    self.buffer.clear();
                    left = left.saturating_sub(read);
                    if left == 0 {
                        return;
                    }
                }
            };
            let _ = pingora::time::timeout(LINGER_TIME, discard).await;
        }
    }

    /// Says that no more is to come, whatever has been said.
    pub(crate) async fn shutdown(&mut self) {
        self.hang_up().await;
        self.outgoing = Outgoing::Broken;
    }

    async fn hang_up(&mut self) {
        let _ = pingora::time::timeout(LINGER_TIME, self.stream.shutdown()).await;
    }

    /// Reads a little. Over the stack, so that nothing is held while nothing comes.
    async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut space = [const { MaybeUninit::uninit() }; FIRST_PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            self.buffer.extend_from_slice(read.filled());
            Ok(read.filled().len()).into()
        })
        .await
    }

    /// Reads a piece of a body, as large as the client is fast.
    async fn fill_piece(&mut self) -> Result<usize> {
        if self.piece == FIRST_PIECE {
            let read = self.fill().await.map_err(|_| Error::Gone)?;
            if read == FIRST_PIECE {
                self.piece = LARGEST_PIECE;
            }
            return Ok(read);
        }
        self.buffer.reserve(LARGEST_PIECE);
        let read = self.stream.read_buf(&mut self.buffer).await.map_err(|_| Error::Gone)?;
        if read < FIRST_PIECE {
            self.piece = FIRST_PIECE;
        }
        Ok(read)
    }
}
