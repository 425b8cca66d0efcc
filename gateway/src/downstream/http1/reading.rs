//! Reading: what waits holds no buffer, what is small comes over the stack, what is large goes straight where it is wanted.

use super::{Error, Http1, Result};
use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What is read at once from a client that sends little at a time.
pub(super) const FIRST_PIECE: usize = 8 << 10;

/// What is read at once from one that fills our buffer.
const LARGEST_PIECE: usize = 64 << 10;

/// Room that is made at once for a body, whatever length it declares: a lie costs the liar's bytes, not ours.
pub(super) const FIRST_ROOM: usize = 256 << 10;

/// Bytes that are taken in while nobody asks for them. What a client sends beyond, it keeps.
pub(super) const AHEAD: usize = 8 << 10;

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
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
            // Who has sent much is believed more, so that little of it is moved.
            body.reserve(left.min(FIRST_ROOM.max(3 * body.len())));
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

    /// Reads a little. Over the stack, so that nothing is held while nothing comes.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
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
