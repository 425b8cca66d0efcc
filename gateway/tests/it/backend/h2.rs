//! A backend that speaks HTTP/2, in the clear (prior knowledge) or in TLS by ALPN.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::Seen;
use crate::certs::Certs;
use crate::client::send_all;
use crate::wire::Headers;

/// One part of an answer over HTTP/2.
#[derive(Clone)]
pub(crate) enum Part {
    Data(Bytes),
    Pause(Duration),
    Trailer(&'static str, &'static str),
    Reset(Reason),
    /// Nothing, until the peer resets the stream.
    Hang,
}

/// What to answer over HTTP/2: the status, a content type, and what follows.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) parts: Vec<Part>,
}

type Handler = Arc<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// A running HTTP/2 backend; it stops when dropped.
pub(crate) struct H2Backend {
    url: String,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl H2Backend {
    /// Answers as `handler` says, with the hash of the body where it says nothing.
    pub(crate) async fn start(
        certs: Option<&Certs>,
        handler: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = certs.map_or_else(|| format!("http://127.0.0.1:{port}"), |_| format!("https://localhost:{port}"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let tls = certs.map(|certs| certs.acceptor(&[b"h2"]));
        let served = Served { seen: seen.clone(), handler: Arc::new(handler) };
        let count = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (served, tls) = (served.clone(), tls.clone());
                count.fetch_add(1, SeqCst);
                tasks.spawn(async move {
                    match tls {
                        None => served.connection(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                served.connection(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, seen, connections, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Arc<Seen>> {
        self.seen.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Served {
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    handler: Handler,
}

impl Served {
    async fn connection(self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let mut builder = server::Builder::new();
        let Ok(mut connection) = builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake::<_, Bytes>(io)
            .await
        else {
            return;
        };
        let mut tasks = JoinSet::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tasks.spawn(self.clone().request(request, respond));
        }
    }

    async fn request(self, request: http::Request<RecvStream>, mut respond: server::SendResponse<Bytes>) -> Option<()> {
        let (parts, mut body) = request.into_parts();
        let line = format!("{} {} HTTP/2", parts.method, parts.uri.path_and_query()?);
        let mut headers = headers_of(&parts.headers);
        headers.0.push((":authority".to_owned(), parts.uri.authority().map(ToString::to_string).unwrap_or_default()));
        headers.0.push((":scheme".to_owned(), parts.uri.scheme_str().unwrap_or_default().to_owned()));
        let mut seen = Seen::new(&line, Bytes::new(), headers);
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.ok()?;
            body.flow_control().release_capacity(piece.len()).ok()?;
            bytes.extend_from_slice(&piece);
        }
        seen.body = bytes.freeze();
        seen.complete = true;
        let seen = Arc::new(seen);
        self.seen.lock().unwrap().push(seen.clone());
        let hash = || Part::Data(format!(r#"{{"hash":"{}","length":{}}}"#, seen.hash(), seen.body.len()).into());
        let reply = (self.handler)(&seen);
        let reply =
            reply.unwrap_or_else(|| Reply { status: 200, content_type: "application/json", parts: vec![hash()] });
        let head = Response::builder().status(reply.status).header("content-type", reply.content_type).body(()).ok()?;
        let mut stream = respond.send_response(head, false).ok()?;
        for part in reply.parts {
            match part {
                Part::Data(bytes) => send_all(&mut stream, bytes, false).await.ok()?,
                Part::Pause(time) => tokio::time::sleep(time).await,
                Part::Trailer(name, value) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert(name, HeaderValue::from_static(value));
                    return stream.send_trailers(trailers).ok();
                }
                Part::Reset(reason) => {
                    stream.send_reset(reason);
                    return None;
                }
                Part::Hang => {
                    until_reset(&mut stream).await;
                    seen.mark_gone();
                    return None;
                }
            }
        }
        stream.send_data(Bytes::new(), true).ok()
    }
}

async fn until_reset(stream: &mut SendStream<Bytes>) {
    drop(std::future::poll_fn(|context| stream.poll_reset(context)).await);
}

/// The fields of an HTTP/2 head.
pub(crate) fn headers_of(map: &HeaderMap) -> Headers {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Headers(map.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}
