//! Clients' connections: HTTP/1 is ours, HTTP/2 is Pingora's. A [`Wire`] is one request on either of
//! them, a [`Session`] is what answers it.

pub(crate) mod forwarded;
pub(crate) mod http1;
pub(crate) mod proxy_protocol;
mod session;

pub(crate) use session::Session;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};
use http1::Http1;
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use std::net::IpAddr;
use std::time::Duration;

/// What goes wrong between a client and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// The client has left, or takes nothing.
    Gone,
    /// A message is not framed as it says.
    Malformed,
}

/// What reading and writing give.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl From<Box<pingora::Error>> for Error {
    fn from(error: Box<pingora::Error>) -> Self {
        use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError, WriteTimedout};
        match error.etype() {
            ConnectionClosed | ReadError | H2Error | WriteError | WriteTimedout => Self::Gone,
            _ => Self::Malformed,
        }
    }
}

/// A client's request, and the way back.
pub(crate) enum Wire {
    /// The one that is under way on its connection.
    Http1(Box<Http1<Stream>>),
    /// A stream among others.
    Http2(Box<ServerSession>),
}

impl Wire {
    /// The request's head. Once; later there is nothing in it.
    pub(crate) fn take_request(&mut self) -> Parts {
        match self {
            Self::Http1(session) => {
                session.take_request().map_or_else(|| http::Request::new(()).into_parts().0, |parts| *parts)
            }
            Self::Http2(session) => {
                let stub = stub(session.req_header());
                std::mem::replace(session.req_header_mut(), stub).into()
            }
        }
    }

    /// Where the client is.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        match self {
            Self::Http1(session) => session.client(),
            Self::Http2(session) => Some(session.client_addr()?.as_inet()?.ip().to_canonical()),
        }
    }

    /// Whether this is HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether the client asks for another protocol on this connection.
    pub(crate) fn is_upgrade(&self) -> bool {
        matches!(self, Self::Http1(session) if session.is_upgrade())
    }

    /// Whether the connection is to be used again.
    pub(crate) fn keeps_alive(&self) -> bool {
        matches!(self, Self::Http1(session) if session.keeps_alive())
    }

    /// The connection ends with this answer. Of HTTP/2, only the stream does.
    pub(crate) fn close_after(&mut self) {
        if let Self::Http1(session) = self {
            session.close_after();
        }
    }

    /// How long a client may take no byte of the answer.
    pub(crate) fn set_write_timeout(&mut self, patience: Duration) {
        match self {
            Self::Http1(session) => session.set_write_timeout(patience),
            Self::Http2(session) => session.set_write_timeout(Some(patience)),
        }
    }

    /// Whether the request has been read to its end.
    pub(crate) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Http1(session) => session.is_body_done(),
            Self::Http2(session) => session.is_body_done(),
        }
    }

    /// Tells a client that waits for it to send its body.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn write_continue(&mut self) -> Result<()> {
        match self {
            Self::Http1(session) => session.write_continue().await,
            Self::Http2(session) => Ok(session.write_continue_response().await?),
        }
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// If the client leaves before, or the framing is not valid.
    pub(crate) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(session) => session.read_body().await,
            Self::Http2(session) => Ok(session.read_request_body().await?),
        }
    }

    /// Adds the next piece of the body to `body`. False at the end.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn read_body_into(&mut self, body: &mut BytesMut) -> Result<bool> {
        match self {
            Self::Http1(session) => session.read_body_into(body).await,
            Self::Http2(session) => {
                let piece = session.read_request_body().await?;
                body.extend_from_slice(piece.as_deref().unwrap_or_default());
                Ok(piece.is_some())
            }
        }
    }

    /// Reads the rest of the body, for nobody.
    ///
    /// # Errors
    /// As [`Self::read_body`].
    pub(crate) async fn drain_body(&mut self) -> Result<()> {
        match self {
            Self::Http1(session) => session.drain_body().await,
            Self::Http2(session) => Ok(session.drain_request_body().await?),
        }
    }

    /// Returns when the client has left. Its side is watched, so that this is noticed while the backend is silent.
    pub(crate) async fn left(&mut self) {
        match self {
            Self::Http1(session) => session.left().await,
            Self::Http2(session) => {
                // While a body is still to come, reading here would take it: whoever reads that notices.
                if !session.is_body_done() {
                    std::future::pending().await
                }
                // Anything that this returns with, an error included, means that nobody waits for the answer.
                let _ = session.read_body_or_idle(true).await;
            }
        }
    }

    /// Writes the head of an answer. It may leave only with what follows it, or with [`Self::flush`].
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn write_head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<()> {
        match self {
            Self::Http1(session) => session.write_head(status, &headers),
            Self::Http2(session) => Ok(session.write_response_header(response(status, headers)).await?),
        }
    }

    /// Sends the head if it is still here.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Http1(session) => session.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// Writes a piece of an answer's body.
    ///
    /// # Errors
    /// If the client has left, or takes nothing.
    pub(crate) async fn write_body(&mut self, data: Bytes) -> Result<()> {
        match self {
            Self::Http1(session) => session.write_body(&data).await,
            Self::Http2(session) => Ok(session.write_response_body(data, false).await?),
        }
    }

    /// Whether trailers can follow the answer's body.
    pub(crate) fn can_have_trailers(&self) -> bool {
        match self {
            Self::Http1(session) => session.can_have_trailers(),
            Self::Http2(_) => true,
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<()> {
        match self {
            Self::Http1(session) => session.finish(trailers.as_ref()).await,
            Self::Http2(session) => {
                if let Some(trailers) = trailers {
                    session.write_response_trailers(trailers).await?;
                }
                Ok(session.finish_body().await?)
            }
        }
    }

    /// Cuts the answer where it is.
    pub(crate) async fn shutdown(&mut self) {
        match self {
            Self::Http1(session) => session.shutdown().await,
            Self::Http2(session) => session.shutdown().await,
        }
    }
}

/// Stands in for the head while the exchange has it. Pingora still asks for method and version when it answers.
fn stub(head: &RequestHeader) -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = head.method.clone();
    parts.version = head.version;
    parts.into()
}

/// A head as Pingora writes it.
fn response(status: StatusCode, headers: HeaderMap) -> Box<ResponseHeader> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers, parts.version) = (status, headers, Version::HTTP_11);
    Box::new(parts.into())
}
