//! What systemd, or whatever started the process and waits to hear of it, is told: sd_notify(3), in a datagram.

use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket that it listens on, if there is one.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Requests are taken from now on.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// The configuration is being read again; [`ready`] says when that is over.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The process is on its way out.
pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=finishing the last requests");
}

/// What goes on, for people.
pub(crate) fn status(status: &str) {
    tell(&format!("STATUS={status}"));
}

/// Another process is the service from now on.
pub(crate) fn succeeded_by(pid: u32) {
    tell(&format!("MAINPID={pid}"));
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, message) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}
