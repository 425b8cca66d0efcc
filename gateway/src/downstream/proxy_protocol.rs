//! The header that a proxy of connections sends before everything else, to say whose connection it is: the PROXY
//! protocol, version 1 (a line) and version 2 (binary).
//!
//! Whether it comes is a setting of the listener, never a guess: there it is due on every connection, from trusted
//! proxies, within the time for a head. What is not exactly such a header ends the connection.

use crate::core::Core;
use crate::networks::Networks;
use crate::telemetry::BadHead;
use async_trait::async_trait;
use pingora::listeners::PreTlsProcess;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest};
use pingora::{Error, ErrorType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is taken, with whatever the proxy says beside addresses.
const LONGEST: usize = 4 << 10;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The proxy speaks for itself (a health check), or does not know, or the client has no IP address.
    Nothing,
    /// The client is there.
    Client(SocketAddr),
}

/// A header and how many bytes it takes.
type Found = (Said, usize);

/// Bytes that are no header, and cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

/// Reads a header from the beginning of `bytes`; none if it is not all there yet.
fn parse(bytes: &[u8]) -> Result<Option<Found>, Malformed> {
    if begins(bytes, SIGNATURE) {
        return version_2(bytes);
    }
    if begins(bytes, WORD) { version_1(bytes) } else { Err(Malformed) }
}

/// Whether `bytes` begin as `with`, as far as there are any.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let both = bytes.len().min(with.len());
    bytes[..both] == with[..both]
}

fn version_1(bytes: &[u8]) -> Result<Option<Found>, Malformed> {
    let bounded = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = bounded.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed) };
    };
    let line = bounded[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()).ok_or(Malformed)?;
    let said = match line.split(' ').collect::<Vec<_>>()[..] {
        ["PROXY", "UNKNOWN", ..] => Said::Nothing,
        ["PROXY", "TCP4", from, to, port, to_port] => client::<Ipv4Addr>(from, to, port, to_port)?,
        ["PROXY", "TCP6", from, to, port, to_port] => client::<Ipv6Addr>(from, to, port, to_port)?,
        _ => return Err(Malformed),
    };
    Ok(Some((said, end + 1)))
}

fn client<A: FromStr + Into<IpAddr>>(from: &str, to: &str, port: &str, to_port: &str) -> Result<Said, Malformed> {
    let address = |text: &str| text.parse::<A>().map_err(|_| Malformed);
    let number = |text: &str| match text.as_bytes() {
        [b'0'..=b'9', ..] => text.parse::<u16>().map_err(|_| Malformed),
        _ => Err(Malformed),
    };
    let (from, _) = (address(from)?, address(to)?);
    let (port, _) = (number(port)?, number(to_port)?);
    Ok(Said::Client(SocketAddr::new(from.into().to_canonical(), port)))
}

fn version_2(bytes: &[u8]) -> Result<Option<Found>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else { return Ok(None) };
    let (command, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let (false, 0x20 | 0x21) = (head.len() + length > LONGEST, command) else { return Err(Malformed) };
    let Some(block) = rest.get(..length) else { return Ok(None) };
    // What follows the addresses (TLVs) is not for us.
    let said = match (command, family) {
        (0x20, _) | (_, 0x00) => Said::Nothing,
        (_, 0x11) => {
            let ([a, b, c, d, _, _, _, _, high, low, _, _], _) = block.split_first_chunk().ok_or(Malformed)?;
            Said::Client((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])).into())
        }
        (_, 0x21) => {
            let (addresses, _) = block.split_first_chunk::<36>().ok_or(Malformed)?;
            let (from, rest) = addresses.split_first_chunk::<16>().ok_or(Malformed)?;
            let port = u16::from_be_bytes([rest[16], rest[17]]);
            Said::Client((IpAddr::from(*from).to_canonical(), port).into())
        }
        // The client is on a Unix socket of the proxy's machine.
        (_, 0x31) if block.len() >= 216 => Said::Nothing,
        _ => return Err(Malformed),
    };
    Ok(Some((said, head.len() + length)))
}

/// Reads the header; what came behind it is given back.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(Said, Vec<u8>), Malformed>> {
    let mut bytes = Vec::with_capacity(LONGEST_LINE * 2);
    loop {
        match parse(&bytes) {
            Ok(Some((said, length))) => return Ok(Ok((said, bytes.split_off(length)))),
            Ok(None) => {}
            Err(malformed) => return Ok(Err(malformed)),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Takes the header from the beginning of a connection. From then on the connection's peer is whom it names.
///
/// # Errors
/// Why the connection is to be closed; none if the peer has left by itself.
pub(crate) async fn receive(
    stream: &mut Stream,
    trusted: &Networks,
    patience: Duration,
) -> Result<(), Option<BadHead>> {
    let peer = stream.get_socket_digest().and_then(|digest| digest.peer_addr()?.as_inet().copied());
    if !trusted.contain(peer.map(|peer| peer.ip())) {
        return Err(Some(BadHead::UntrustedProxy));
    }
    let (said, behind) = match crate::patience::timeout(patience, read(stream)).await {
        Ok(Ok(Ok(found))) => found,
        Ok(Ok(Err(Malformed))) => return Err(Some(BadHead::ProxyHeader)),
        Ok(Err(_)) => return Err(None),
        Err(_) => return Err(Some(BadHead::Timeout)),
    };
    stream.rewind(&behind);
    if let Said::Client(address) = said {
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Empty, since it is new.
        let _ = digest.peer_addr.set(Some(PeerAddr::Inet(address)));
        stream.set_socket_digest(digest);
    }
    Ok(())
}

/// The same before a TLS handshake, where Pingora leaves a place for it.
pub(crate) struct BeforeTls(pub(crate) Arc<Core>);

#[async_trait]
impl PreTlsProcess for BeforeTls {
    async fn process(&self, stream: &mut Stream) -> pingora::Result<()> {
        introduce(&self.0, stream).await.map_err(|()| Error::new(ErrorType::ConnectionClosed))
    }
}

/// Takes the header, or says what is wrong with it.
///
/// # Errors
/// If the connection is to be closed.
pub(crate) async fn introduce(core: &Core, stream: &mut Stream) -> Result<(), ()> {
    let snapshot = core.snapshot.load_full();
    let peer = stream.get_socket_digest();
    let refused = match receive(stream, &snapshot.trusted_proxies, snapshot.limits.head_timeout).await {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    if let Some(reason) = refused {
        core.metrics.bad_request(reason);
        // Each is counted; in a flood of them only some are written down.
        if core.nuisances.check().is_ok() {
            let peer = peer.and_then(|digest| Some(digest.peer_addr()?.as_inet()?.to_string()));
            tracing::info!(peer, reason = reason.label(), "connection closed: its PROXY header is not as it must be");
        }
    }
    Err(())
}

#[cfg(test)]
mod tests;
