//! What the two processes say to each other: a line of JSON each, and the sockets with the first.

use crate::listeners::Named;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Sockets in one message; the kernel takes 253.
pub(super) const MOST: usize = 250;

/// Bytes for them.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST));

/// What the old process hands over first.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Estate {
    /// The addresses of the sockets that come along.
    pub listeners: Vec<String>,
    /// How many upgrades there have been, this one included.
    pub upgrades: u64,
    /// How many were refused.
    pub refused: u64,
    /// Backends that an operator has drained: pool and name.
    #[serde(default)]
    pub drained: Vec<(String, String)>,
    /// How loud the log is, if an operator has set that.
    #[serde(default)]
    pub log_level: Option<String>,
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Say {
    /// It could serve now.
    Ready,
    /// It could not serve all there is to serve.
    Waiting {
        /// What is missing.
        reason: String,
        /// Whether only backends are: all has been read, and each backend was asked.
        backends: bool,
    },
    /// It ends.
    Refused {
        /// Why.
        reason: String,
    },
    /// It takes requests.
    Serving {
        /// Its version.
        version: String,
    },
}

/// What the old process says later.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Tell {
    /// Take requests.
    Serve,
    /// You are the service now.
    Lead,
}

/// Says one line.
pub(super) fn say(mut socket: &UnixStream, word: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// What a line says.
pub(super) fn heard<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    Ok(serde_json::from_str(line)?)
}

/// Hands over the estate, and the sockets with it.
pub(super) fn hand_over(mut socket: &UnixStream, estate: &Estate, sockets: &[Named]) -> io::Result<()> {
    if sockets.len() > MOST {
        return Err(io::Error::other(format!("more than {MOST} addresses are listened on")));
    }
    let mut line = serde_json::to_vec(estate)?;
    line.push(b'\n');
    let sockets: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("there is no room for the sockets"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&line[sent..])
}

/// Takes what [`hand_over`] gives.
pub(super) fn take_over(socket: &UnixStream) -> io::Result<(Estate, Vec<OwnedFd>)> {
    let (mut line, mut sockets) = (Vec::new(), Vec::new());
    while !line.ends_with(b"\n") {
        let mut piece = [0; 4096];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let came = recvmsg(socket, &mut [IoSliceMut::new(&mut piece)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        if came.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&piece[..came.bytes]);
    }
    let estate: Estate = serde_json::from_slice(&line)?;
    if estate.listeners.len() != sockets.len() {
        return Err(io::Error::other("not all sockets have come"));
    }
    Ok((estate, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_come_through_in_order_however_many() {
        let (here, there) = UnixStream::pair().unwrap();
        let all: Vec<_> = (0..100).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let name = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let named: Vec<Named> =
            all.iter().map(|listener| (name(listener), OwnedFd::from(listener.try_clone().unwrap()))).collect();
        let listeners: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
        let drained = vec![("main".to_owned(), "a".to_owned())];
        let estate = Estate { listeners: listeners.clone(), upgrades: 3, drained, ..Estate::default() };
        hand_over(&here, &estate, &named).unwrap();
        let (came, sockets) = take_over(&there).unwrap();
        assert_eq!(came, estate);
        let names: Vec<String> = sockets.into_iter().map(|socket| name(&TcpListener::from(socket))).collect();
        assert_eq!(names, listeners);
    }

    #[test]
    fn a_predecessor_that_is_gone_hands_nothing_over() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(take_over(&there).is_err());
    }
}
