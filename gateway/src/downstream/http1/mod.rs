//! An HTTP/1 server on one connection: requests are read one after the other, and each is answered before the next.
//!
//! Written for a gateway: a head is read and judged in one pass, a body comes uncopied out of the read buffer or goes
//! straight into the caller's, an answer's head leaves with what follows it in one system call, and a connection that
//! waits holds no buffer. See docs/decisions/0007-own-http1-server.md for why this is not Pingora's.

mod answer;
mod head;
mod names;
mod reading;
#[cfg(test)]
mod tests;

pub(crate) use head::Refused;

use super::{Error, Result};
use crate::upstream::http1::body::Decoder;
use answer::Outgoing;
use bytes::BytesMut;
use http::request::Parts;
use http::{Method, Version};
use reading::FIRST_PIECE;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tidegate_config::Limits;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1 method begins like this.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
            let _ = crate::patience::timeout(LINGER_TIME, discard).await;
        }
    }

    /// Says that no more is to come, whatever has been said.
    pub(crate) async fn shutdown(&mut self) {
        self.hang_up().await;
        self.outgoing = Outgoing::Broken;
    }

    async fn hang_up(&mut self) {
        let _ = crate::patience::timeout(LINGER_TIME, self.stream.shutdown()).await;
    }
}
