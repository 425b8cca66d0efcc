//! Against a connection in memory, whose bytes come in the pieces that a test says.

mod reading;
mod reusing;
mod writing;

use super::{Client, FIRST_PIECE, RequestHead};
use crate::upstream::Fields;
use crate::upstream::error::{self, Error};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, header};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that gives `pieces`, one a read, and remembers what is written.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) pieces: VecDeque<Vec<u8>>,
    /// What comes after them: nothing yet, or the end.
    pub(crate) open: bool,
    pub(crate) reads: usize,
    pub(crate) written: Vec<u8>,
    pub(crate) writes: usize,
    /// What a write takes at most; none: all of it.
    pub(crate) takes: Option<usize>,
}

impl Wire {
    pub(crate) fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { pieces: pieces.into_iter().map(<[u8]>::to_vec).collect(), ..Self::default() }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.reads += 1;
        let Some(piece) = self.pieces.front_mut() else {
            return if self.open { Poll::Pending } else { Poll::Ready(Ok(())) };
        };
        let taken = piece.len().min(into.remaining());
        into.put_slice(&piece[..taken]);
        piece.drain(..taken);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        let before = self.written.len();
        data.iter().for_each(|data| self.written.extend_from_slice(data));
        let end = self.takes.map_or(self.written.len(), |most| self.written.len().min(before + most));
        self.written.truncate(end);
        Poll::Ready(Ok(end - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what never has to wait on such a connection.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing to wait for")
}

/// A client that has asked for something.
fn asked(method: Method, wire: Wire) -> Client<Wire> {
    let mut client = Client::new(wire);
    let head = RequestHead { method, target: "/".into(), headers: Fields::default() };
    now(client.send(&head, "backend", b"")).unwrap();
    client
}

fn headers(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

/// All of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// What an answer is not.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Malformed,
    Disconnected { bytes_read: bool },
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Read, Fault> {
    let mut client = asked(Method::GET, Wire::of(pieces));
    now(read_all(&mut client)).map_err(|error| match error {
        Error::Malformed(_) => Fault::Malformed,
        Error::Disconnected { bytes_read, .. } => Fault::Disconnected { bytes_read },
        other => panic!("{other}"),
    })
}

async fn read_all(client: &mut Client<Wire>) -> error::Result<Read> {
    let head = client.read_head().await?;
    let mut body = Vec::new();
    while let Some(piece) = client.read_body().await? {
        assert!(!piece.is_empty(), "a piece of nothing");
        body.extend_from_slice(&piece);
    }
    assert!(client.is_done());
    Ok(Read { status: head.status.as_u16(), headers: head.headers, body, trailers: client.take_trailers() })
}
