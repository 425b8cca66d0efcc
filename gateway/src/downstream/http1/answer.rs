//! Writing answers: the head is held until something follows it, so that both leave together; data is never copied.

use super::{Error, Http1, Result};
use crate::upstream::http1::body::Decoder;
use bytes::BytesMut;
use http::header::{self, HeaderMap};
use http::{StatusCode, Version};
use std::io::{self, IoSlice};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How an answer stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// No head has been written.
    Unsent,
    /// No body follows the head, whatever is written.
    Empty,
    /// So many bytes follow.
    Length(u64),
    /// Chunks follow, and then the last one.
    Chunked,
    /// Everything until the connection ends: the client is too old for chunks, or speaks another protocol.
    Raw,
    /// It is complete.
    Done,
    /// An unknown part of it has been sent.
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    /// Tells a client that waits for it to send its body.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn write_continue(&mut self) -> Result<()> {
        if self.outgoing != Outgoing::Unsent || self.incoming.is_done() {
            return Ok(());
        }
        self.write(&mut [IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n")], Outgoing::Unsent).await
    }

    /// Writes a head. The framing is ours to choose, by what the headers say and the client can read. It leaves with
    /// what follows it, or with [`Self::flush`].
    ///
    /// # Errors
    /// If there has been a head before, or this one cannot be written.
    pub(crate) fn write_head(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<()> {
        if self.outgoing != Outgoing::Unsent {
            return Err(Error::Gone);
        }
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        let empty = status.is_informational() || status == StatusCode::NO_CONTENT;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let outgoing = match length {
            _ if switching => Outgoing::Raw,
            _ if empty || self.to_head || status == StatusCode::NOT_MODIFIED => Outgoing::Empty,
            Some(length) => Outgoing::Length(length),
            None if self.version == Version::HTTP_11 => Outgoing::Chunked,
            None => Outgoing::Raw,
        };
        // An unread rest of the request would be taken for the next one.
        self.keeps_alive &= outgoing != Outgoing::Raw && self.incoming.is_done();
        if switching {
            self.incoming = Decoder::to_the_end();
        }
        let connection = match (switching, self.keeps_alive, self.version) {
            (true, ..) => "connection: upgrade\r\n",
            (_, false, _) => "connection: close\r\n",
            (_, true, Version::HTTP_10) => "connection: keep-alive\r\n",
            _ => "",
        };
        let out = &mut self.held;
        status_line(out, status, headers);
        for (name, value) in headers {
            match *name {
                header::CONNECTION | header::TRANSFER_ENCODING => {}
                header::CONTENT_LENGTH if empty => {}
                _ => field(out, name.as_str(), value.as_bytes()),
            }
        }
        if outgoing == Outgoing::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if !headers.contains_key(header::DATE) {
            field(out, "date", pingora::protocols::http::date::get_cached_date().as_bytes());
        }
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.outgoing = outgoing;
        // An answer may take long: what the request was read with is not kept for it.
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Whether trailers can follow the body.
    pub(crate) fn can_have_trailers(&self) -> bool {
        self.outgoing == Outgoing::Chunked
    }

    /// Writes a piece of the body.
    ///
    /// # Errors
    /// If the client has left or takes nothing, or this is more than was declared.
    pub(crate) async fn write_body(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let head = IoSlice::new(&held);
        match self.outgoing {
            Outgoing::Length(left) => {
                let left = left.checked_sub(data.len() as u64).ok_or(Error::Malformed)?;
                self.write(&mut [head, IoSlice::new(data)], Outgoing::Length(left)).await
            }
            Outgoing::Chunked => {
                let (mut space, size) = ([0; 18], data.len());
                let size = IoSlice::new(size_line(&mut space, size));
                self.write(&mut [head, size, IoSlice::new(data), IoSlice::new(b"\r\n")], Outgoing::Chunked).await
            }
            Outgoing::Raw => self.write(&mut [head, IoSlice::new(data)], Outgoing::Raw).await,
            Outgoing::Empty => self.write(&mut [head], Outgoing::Empty).await,
            Outgoing::Unsent | Outgoing::Done | Outgoing::Broken => Err(Error::Gone),
        }
    }

    /// Sends the head if it is still here.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let then = std::mem::replace(&mut self.outgoing, Outgoing::Broken);
        self.write(&mut [IoSlice::new(&held)], then).await
    }

    /// Ends the answer, with trailers where it can have them.
    ///
    /// # Errors
    /// If the client has left, or this is less than was declared.
    pub(crate) async fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<()> {
        match self.outgoing {
            Outgoing::Done => return Ok(()),
            Outgoing::Chunked => {
                let mut end = std::mem::take(&mut self.held);
                end.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    field(&mut end, name.as_str(), value.as_bytes());
                }
                end.extend_from_slice(b"\r\n");
                return self.write(&mut [IoSlice::new(&end)], Outgoing::Done).await;
            }
            Outgoing::Empty | Outgoing::Length(0) | Outgoing::Raw => self.flush().await?,
            Outgoing::Length(_) | Outgoing::Unsent | Outgoing::Broken => {
                self.shutdown().await;
                return Err(Error::Gone);
            }
        }
        self.outgoing = Outgoing::Done;
        Ok(())
    }

    /// Writes all of it, with as few system calls as the connection allows.
    async fn write(&mut self, mut pieces: &mut [IoSlice<'_>], then: Outgoing) -> Result<()> {
        // Should this not come to its end, nobody knows how much of it has been sent.
        self.outgoing = Outgoing::Broken;
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let write = async {
                let written = self.stream.write_vectored(pieces).await?;
                self.stream.flush().await?;
                io::Result::Ok(written)
            };
            match crate::patience::timeout(self.write_timeout, write).await {
                Ok(Ok(written @ 1..)) => IoSlice::advance_slices(&mut pieces, written),
                _ => return Err(Error::Gone),
            }
        }
        self.outgoing = then;
        Ok(())
    }
}

fn status_line(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    // Most headers are about this long; what is beyond grows.
    out.reserve(128 + 48 * headers.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `HeaderValue` promises that there is no line break in it.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A chunk's size in hexadecimal digits, and CRLF.
fn size_line(space: &mut [u8; 18], mut size: usize) -> &[u8] {
    let mut at = 16;
    space[16..].copy_from_slice(b"\r\n");
    while {
        at -= 1;
        space[at] = b"0123456789abcdef"[size & 15];
        size >>= 4;
        size > 0
    } {}
    &space[at..]
}
