//! What can go wrong with a request, by kinds that can be counted.

use std::io::{Error, ErrorKind};

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// This process may have no more open files.
    NoFiles,
    /// All local ports for this address are taken.
    NoPorts,
    /// Any other reason that there is no connection.
    Connect,
    /// There is a connection, but no TLS on it.
    Tls,
    /// The request did not get through.
    Write,
    /// The answer could not be read.
    Read,
    /// The server cut the connection.
    Reset,
    /// The server ended the connection before its answer was whole.
    Closed,
    /// The answer took longer than it may.
    Timeout,
    /// The answer is no HTTP.
    Malformed,
    /// A stream's last event was none that says so.
    NoEnd,
    /// The answer says that the request is wrong, or too many.
    Client,
    /// The answer says that the server failed.
    Server,
    /// The answer has a status that is neither of these nor good.
    Status,
}

impl Fault {
    /// What it is called wherever it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "connect: refused",
            Self::NoFiles => "connect: no file descriptors",
            Self::NoPorts => "connect: no local ports",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Write => "write",
            Self::Read => "read",
            Self::Reset => "reset",
            Self::Closed => "closed early",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::NoEnd => "stream without its end",
            Self::Client => "4xx",
            Self::Server => "5xx",
            Self::Status => "other status",
        }
    }

    /// Why there is no connection.
    pub(crate) fn connecting(error: &Error) -> Self {
        /// EMFILE and ENFILE, which have no kind of their own.
        const FILES: [i32; 2] = [24, 23];
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::AddrNotAvailable => Self::NoPorts,
            _ if error.raw_os_error().is_some_and(|code| FILES.contains(&code)) => Self::NoFiles,
            _ => Self::Connect,
        }
    }

    /// Why nothing could be read or written; `other` if the connection has not been cut.
    pub(crate) fn exchanging(error: &Error, other: Self) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Self::Reset,
            // TLS that ends without saying so.
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => other,
        }
    }

    /// What an answer's status says, if it is no good one.
    pub(crate) fn of_status(status: u16) -> Option<Self> {
        match status {
            200..=299 => None,
            400..=499 => Some(Self::Client),
            500..=599 => Some(Self::Server),
            _ => Some(Self::Status),
        }
    }
}
