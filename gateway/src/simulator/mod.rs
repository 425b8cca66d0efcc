//! A built-in stand-in for a model server: it speaks the OpenAI and Anthropic protocols over plain HTTP/1.1,
//! says openly that it is a simulator, and streams words at a human pace. `tidegate demo` puts the gateway in
//! front of it, so that everything has life on a machine without a model. It is for people and tests, not for
//! load.
//!
//! A handler is a plain function from what was asked to a [`plan::Plan`] (what to say, and when); only
//! `perform` in [`plan`] waits and writes. A client that leaves drops the body, and with it the rest of the plan.

mod asked;
mod chat;
mod completions;
mod messages;
mod plan;
mod responses;
mod routes;
mod speech;
mod status;
mod tools;
mod vectors;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the simulator serves, and how fast it speaks.
#[derive(Clone, Debug)]
pub struct Simulator {
    /// The models it lists and answers for; any other is a 404 `model_not_found`.
    pub models: Vec<String>,
    /// The wait between two words.
    pub pace: Duration,
    /// The wait before the first word.
    pub first_token: Duration,
    /// The key every request but `/health` must carry, as Bearer or `x-api-key`; none: anyone may ask.
    pub key: Option<String>,
}

impl Default for Simulator {
    /// One model named `simulator`, at the pace of someone reading aloud, open to anyone.
    fn default() -> Self {
        Self {
            models: vec!["simulator".to_owned()],
            pace: Duration::from_millis(40),
            first_token: Duration::from_millis(200),
            key: None,
        }
    }
}

/// Serves until the listener fails; dropping the future closes every connection.
///
/// # Errors
/// What `accept` said, unless it concerned a single connection only.
pub async fn serve(listener: TcpListener, settings: Simulator) -> io::Result<()> {
    let server = Arc::new(Server::new(settings));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&server)));
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, server: Arc<Server>) {
    // Without it a peer's delayed acknowledgement holds every second word back for 40 ms.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(routes::answer(&server, request).await) }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "simulator: connection ended");
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// The settings and what has been counted so far, shared by all connections.
struct Server {
    settings: Simulator,
    started: u64,
    requests: AtomicU64,
    processing: AtomicI64,
    prompt_tokens: AtomicU64,
    spoken_tokens: AtomicU64,
}

impl Server {
    fn new(settings: Simulator) -> Self {
        Self {
            settings,
            started: now(),
            requests: AtomicU64::new(0),
            processing: AtomicI64::new(0),
            prompt_tokens: AtomicU64::new(0),
            spoken_tokens: AtomicU64::new(0),
        }
    }

    /// An id no other answer of this process has, such as `chatcmpl-sim-00000007`.
    fn id(&self, prefix: &str) -> String {
        format!("{prefix}sim-{:08x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    fn serves(&self, model: &str) -> bool {
        self.settings.models.iter().any(|served| served == model)
    }
}

/// Seconds since 1970, as `created` fields want it.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
