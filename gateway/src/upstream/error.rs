//! What goes wrong between the gateway and a backend.

use pingora::RetryType;
use std::io;

/// Why there is no connection, or no whole answer on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("connecting: {0}")]
    Connect(Box<pingora::Error>),
    /// The connection ended, or broke, before the answer was complete.
    #[error("the connection ended {}{}", if *.bytes_read { "within the answer" } else { "before the answer" }, because(.cause.as_ref()))]
    Disconnected {
        /// Whether anything of the answer had come.
        bytes_read: bool,
        /// What the system says, if the backend did not simply close.
        cause: Option<io::Error>,
    },
    /// What came is not HTTP, or could be read in more than one way.
    #[error("not valid HTTP: {0}")]
    Malformed(&'static str),
    /// The request could not be sent whole.
    #[error("sending: {0}")]
    Send(#[from] io::Error),
    /// The request is not one that can be sent. The gateway's own fault.
    #[error("a request that cannot be sent: {0}")]
    Unsendable(&'static str),
    /// HTTP/2 says so.
    #[error("{0}")]
    Http2(#[from] Box<pingora::Error>),
}

fn because(cause: Option<&io::Error>) -> String {
    cause.map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl Error {
    /// Whether the connection ended, rather than carried nonsense.
    pub fn is_disconnect(&self) -> bool {
        use pingora::ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError};
        match self {
            Self::Connect(_) | Self::Disconnected { .. } | Self::Send(_) => true,
            Self::Http2(error) => matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H2Error),
            Self::Malformed(_) | Self::Unsendable(_) => false,
        }
    }

    /// Whether this alone says that the request was not run, whatever connection it was sent on.
    pub fn is_refused(&self) -> bool {
        // An answer that is no HTTP/2 is one that was given.
        let is_said = |error: &pingora::Error| *error.etype() != pingora::ErrorType::InvalidH2;
        matches!(self, Self::Http2(error) if matches!(error.retry, RetryType::Decided(true)) && is_said(error))
    }

    /// Whether nothing of an answer came: a connection that was used before may have been closed before the backend saw the
    /// request.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Disconnected { bytes_read, .. } => !bytes_read,
            Self::Malformed(_) | Self::Unsendable(_) => false,
            Self::Connect(_) | Self::Send(_) => true,
            // GOAWAY and REFUSED_STREAM say so; any other reset may be of a stream that was worked on.
            Self::Http2(error) => matches!(error.retry, RetryType::Decided(true) | RetryType::ReusedOnly),
        }
    }
}

/// What an upstream call returns.
pub type Result<T> = std::result::Result<T, Error>;
