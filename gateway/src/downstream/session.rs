//! One request and its answer, whoever wants it.
//!
//! Mostly that is its client alone: then this is the client's [`Wire`] and nothing more. Where others want the answer
//! too (an [`Audience`]: requests that follow it, a cache that it fills), the client is one of many. If it leaves, what
//! is written goes nowhere, and the answer goes on until nobody is left. If it is slow, what it has not taken yet waits
//! here, written on whenever the backend is waited for, and holds nobody up.

use super::{Error, Result, Wire};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidegate_plugins::filter::{Always, Audience};

/// The most that may wait for a slow client while others get the answer as it comes. The bytes are shared with theirs.
const BACKLOG: usize = 4 << 20;

/// A client's request, its answer, and who wants it.
pub(crate) struct Session {
    state: State,
    http2: bool,
    audience: Vec<Arc<dyn Audience>>,
    backlog: VecDeque<Bytes>,
    waiting: usize,
}

type Writing = Pin<Box<dyn Future<Output = (Wire, Result<()>)> + Send>>;

enum State {
    /// Nothing is being written.
    Idle(Wire),
    /// Something is, and the client does not take it at once.
    Writing(Writing),
    /// The client has left. The wire is kept for who wants to close it.
    Gone(Option<Wire>),
}

impl Session {
    /// The request whose head `wire` has read.
    pub(crate) fn new(wire: Wire) -> Self {
        let http2 = wire.is_http2();
        Self { state: State::Idle(wire), http2, audience: Vec::new(), backlog: VecDeque::new(), waiting: 0 }
    }

    /// A request that nobody waits for.
    pub(crate) fn nobody() -> Self {
        let audience: Vec<Arc<dyn Audience>> = vec![Arc::new(Always)];
        Self { state: State::Gone(None), http2: false, audience, backlog: VecDeque::new(), waiting: 0 }
    }

    /// The wire, if it is still of use.
    pub(crate) fn into_wire(self) -> Option<Wire> {
        match self.state {
            State::Idle(wire) => Some(wire),
            State::Writing(_) => None,
            State::Gone(wire) => wire,
        }
    }

    /// From now on `audience` wants the answer too.
    pub(crate) fn share(&mut self, audience: Arc<dyn Audience>) {
        self.audience.push(audience);
    }

    /// Whether others want the answer too, or may.
    pub(crate) fn is_shared(&self) -> bool {
        !self.audience.is_empty()
    }

    /// Whether the client has left while others wanted the answer.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone(_))
    }

    fn wire(&self) -> Option<&Wire> {
        match &self.state {
            State::Idle(wire) => Some(wire),
            State::Writing(_) => None,
            State::Gone(wire) => wire.as_ref(),
        }
    }

    fn wire_mut(&mut self) -> Option<&mut Wire> {
        match &mut self.state {
            State::Idle(wire) => Some(wire),
            State::Writing(_) => None,
            State::Gone(wire) => wire.as_mut(),
        }
    }

    /// The wire, to read from or to write to.
    fn here(&mut self) -> Result<&mut Wire> {
        match &mut self.state {
            State::Idle(wire) => Ok(wire),
            State::Writing(_) | State::Gone(_) => Err(Error::Gone),
        }
    }

    /// The request's head. Once; later there is nothing in it.
    pub(crate) fn take_request(&mut self) -> Parts {
        self.wire_mut().map_or_else(|| http::Request::new(()).into_parts().0, Wire::take_request)
    }

    /// Where the client is.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.wire().and_then(Wire::client)
    }

    /// Whether this is HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// Whether the client asks for another protocol on this connection.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.wire().is_some_and(Wire::is_upgrade)
    }

    /// Whether the connection is to be used again.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.wire().is_some_and(Wire::keeps_alive)
    }

    /// The connection ends with this answer. Of HTTP/2, only the stream does.
    pub(crate) fn close_after(&mut self) {
        if let Some(wire) = self.wire_mut() {
            wire.close_after();
        }
    }

    /// How long a client may take no byte of the answer.
    pub(crate) fn set_write_timeout(&mut self, patience: Duration) {
        if let Some(wire) = self.wire_mut() {
            wire.set_write_timeout(patience);
        }
    }

    /// Whether the request has been read to its end.
    pub(crate) fn is_body_done(&mut self) -> bool {
        self.wire_mut().is_none_or(Wire::is_body_done)
    }

    /// Tells a client that waits for it to send its body.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn write_continue(&mut self) -> Result<()> {
        self.here()?.write_continue().await
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// If the client leaves before, or the framing is not valid.
    pub(crate) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.here()?.read_body().await
    }

    /// Adds the next piece of the body to `body`. False at the end.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn read_body_into(&mut self, body: &mut BytesMut) -> Result<bool> {
        self.here()?.read_body_into(body).await
    }

    /// Reads the rest of the body, for nobody.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn drain_body(&mut self) -> Result<()> {
        self.here()?.drain_body().await
    }

    /// Returns when nobody wants the answer any more. The client's side is watched, so that its leaving is noticed while
    /// the backend is silent.
    pub(crate) async fn left(&mut self) {
        loop {
            self.settle().await;
            match &mut self.state {
                State::Idle(wire) => {
                    wire.left().await;
                    self.lose();
                }
                State::Writing(_) => {}
                State::Gone(_) => return std::future::poll_fn(|context| self.poll_left(context)).await,
            }
        }
    }

    /// Writes the head of an answer. It may leave only with what follows it, or with [`Self::flush`].
    ///
    /// # Errors
    /// If nobody wants it any more.
    pub(crate) async fn write_head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<()> {
        let State::Idle(wire) = &mut self.state else { return self.unless_left().await };
        let written = wire.write_head(status, headers).await;
        self.written(written).await
    }

    /// Sends the head if it is still here.
    ///
    /// # Errors
    /// If nobody wants it any more.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        let State::Idle(wire) = &mut self.state else { return self.unless_left().await };
        let written = wire.flush().await;
        self.written(written).await
    }

    /// Writes a piece of an answer's body.
    ///
    /// # Errors
    /// If the client has left or takes nothing, and nobody else wants it.
    pub(crate) async fn write_body(&mut self, data: Bytes) -> Result<()> {
        if !self.is_shared() {
            return self.here()?.write_body(data).await;
        }
        if !self.is_gone() {
            self.waiting += data.len();
            self.backlog.push_back(data);
            std::future::poll_fn(|context| {
                let _ = self.poll_settle(context);
                Poll::Ready(())
            })
            .await;
            if self.waiting > BACKLOG {
                self.lose();
            }
        }
        self.unless_left().await
    }

    /// Whether trailers can follow the answer's body.
    pub(crate) fn can_have_trailers(&self) -> bool {
        self.wire().is_some_and(Wire::can_have_trailers)
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// If nobody wants it any more.
    pub(crate) async fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<()> {
        self.settle().await;
        let State::Idle(wire) = &mut self.state else { return self.unless_left().await };
        let written = wire.finish(trailers).await;
        self.written(written).await
    }

    /// Cuts the answer where it is.
    pub(crate) async fn shutdown(&mut self) {
        if let Some(wire) = self.wire_mut() {
            wire.shutdown().await;
        }
    }

    /// What became of a write, for those who want the answer.
    async fn written(&mut self, written: Result<()>) -> Result<()> {
        match written {
            Err(error) if self.is_shared() => {
                self.lose();
                self.unless_left().await.map_err(|_| error)
            }
            written => written,
        }
    }

    /// The client has left.
    fn lose(&mut self) {
        self.backlog.clear();
        self.waiting = 0;
        self.state = match std::mem::replace(&mut self.state, State::Gone(None)) {
            State::Idle(wire) => State::Gone(Some(wire)),
            State::Writing(_) => State::Gone(None),
            gone @ State::Gone(_) => gone,
        };
    }

    /// Fails if the client has left and nobody else wants the answer at this moment.
    async fn unless_left(&mut self) -> Result<()> {
        std::future::poll_fn(|context| {
            Poll::Ready(match self.is_gone() && self.poll_left(context).is_ready() {
                true => Err(Error::Gone),
                false => Ok(()),
            })
        })
        .await
    }

    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for audience in &self.audience {
            ready!(audience.poll_left(context));
        }
        Poll::Ready(())
    }

    /// Writes what waits for the client.
    async fn settle(&mut self) {
        std::future::poll_fn(|context| self.poll_settle(context)).await;
    }

    fn poll_settle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let State::Writing(writing) = &mut self.state {
                let (wire, written) = ready!(writing.as_mut().poll(context));
                self.state = State::Idle(wire);
                if written.is_err() {
                    self.lose();
                }
            }
            let Some(data) = self.backlog.pop_front() else { return Poll::Ready(()) };
            self.waiting -= data.len();
            self.state = match std::mem::replace(&mut self.state, State::Gone(None)) {
                State::Idle(mut wire) => State::Writing(Box::pin(async move {
                    let written = wire.write_body(data).await;
                    (wire, written)
                })),
                other => other,
            };
        }
    }
}
