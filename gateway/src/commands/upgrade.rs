//! `tidegate upgrade FILE`: the running gateway is asked to leave the service to the program that is there now.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tidegate_config::{Address, Admin};
use tokio::net::TcpStream;

use super::say::{in_words, say};
use super::{Failure, file};

/// An answer is small.
const LARGEST: usize = 1 << 20;

/// Leave the service to the program that is installed now, without a client noticing.
///
/// The gateway that runs with this file starts the program it was started from once more, hands it the sockets it
/// listens on, and ends when its last connection has. Should the new one not be ready in time, the old one goes on; then
/// this ends with 1 and says why. SIGQUIT does the same.
#[derive(Args)]
pub(super) struct Upgrade {
    /// The configuration file.
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The file, as other commands take it
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
}

impl Upgrade {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (loaded, _) = file::load_quietly(&self.file.or(self.config).unwrap_or_default())?;
        let admin = &loaded.config.admin;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(ask(admin)));
        let (status, answer) = asked.map_err(|error: Failed| {
            let error = in_words(error.as_ref());
            Failure::could_not(format!("the gateway does not answer at {} ({error})", admin.listen))
        })?;
        if status != StatusCode::OK {
            let reason = answer["detail"].as_str().unwrap_or("no reason given");
            return Err(Failure::could_not(format!("not upgraded: {reason}")));
        }
        let version = answer["version"].as_str().unwrap_or("unknown");
        say(&format!(
            "process {} serves now, of version {version}; the one before finishes what is open",
            answer["pid"]
        ));
        Ok(())
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn ask(admin: &Admin) -> Result<(StatusCode, Value), Failed> {
    let stream = match &admin.listen {
        Address::Ip(address) => TcpStream::connect(reachable(*address)).await?,
        Address::Name { host, port } => TcpStream::connect((host.as_str(), *port)).await?,
        // Refused when the file was read.
        Address::Unix(_) => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    };
    let mut request = Request::post("/admin/upgrade").header(HOST, stream.peer_addr()?.to_string());
    if let Some(token) = &admin.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Owns the sender, so that the connection ends with the answer.
    let asked = async move {
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?.to_bytes();
        Ok::<_, Failed>((status, serde_json::from_slice(&body).unwrap_or_default()))
    };
    let (answer, ()) = futures_util::future::join(asked, async { drop(connection.await) }).await;
    answer
}

/// Who listens on all addresses is found on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
