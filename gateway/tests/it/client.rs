//! A client that sends what it is told, byte for byte, and says what came back and when.

mod h2;
mod request;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::wire::{BodyReader, Framing, Headers, Io, Wire, parse_head};

pub(crate) use h2::{H2Connection, send_all, whole};
pub(crate) use request::{Request, chat_body};

/// Longer than anything a test waits for: a hang fails here and says so.
const PATIENCE: Duration = Duration::from_secs(20);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// As its framing says.
    Whole,
    /// Before that.
    Cut,
}

/// An answer, and when each piece of it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Bytes,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    /// Each chunk of a chunked body, or each read of another, with the time of its arrival.
    pub(crate) pieces: Vec<(Instant, Bytes)>,
    pub(crate) trailers: Headers,
    pub(crate) end: End,
    /// Statuses of the 1xx heads that came before.
    pub(crate) interim: Vec<u16>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.body))
    }

    /// An error in OpenAI's shape, complete and not to be stored: its `error` object.
    pub(crate) fn openai_error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"), "{:?}", self.head);
        assert_eq!(self.header("cache-control"), Some("no-store"), "{:?}", self.head);
        assert_eq!(self.end, End::Whole);
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{:?}", self.body);
        assert!(error["type"].is_string(), "{:?}", self.body);
        for field in ["param", "code"] {
            assert!(
                error.get(field).is_some_and(|value| value.is_string() || value.is_null()),
                "{field}: {:?}",
                self.body
            );
        }
        error
    }

    /// An error in Anthropic's shape: its `error` object.
    pub(crate) fn anthropic_error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"), "{:?}", self.head);
        let json = self.json();
        assert_eq!(json["type"], "error", "{:?}", self.body);
        assert!(json["request_id"].is_string(), "{:?}", self.body);
        let error = json["error"].clone();
        assert!(error["type"].is_string() && error["message"].is_string(), "{:?}", self.body);
        error
    }
}

/// One connection of a client.
pub(crate) struct Connection {
    wire: Wire,
    body: BodyReader,
}

impl Connection {
    pub(crate) fn over(io: impl Io + 'static) -> Self {
        Self { wire: Wire::new(io), body: BodyReader::new(Framing::Empty) }
    }

    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.unwrap()
    }

    /// Where being refused is for the test to judge.
    pub(crate) async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    pub(crate) async fn open_tls(address: SocketAddr, certs: &crate::certs::Certs) -> Self {
        Self::try_open_tls(address, certs).await.expect("the certificate should be good")
    }

    /// None if the server's certificate is not one of these.
    pub(crate) async fn try_open_tls(address: SocketAddr, certs: &crate::certs::Certs) -> Option<Self> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        Some(Self::over(certs.connector(&[b"http/1.1"]).connect(name, stream).await.ok()?))
    }

    pub(crate) async fn open_unix(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).await.unwrap())
    }

    /// Sends bytes as they are; a peer that has closed is not an error here, its answer is read next.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.wire.send(bytes.as_ref()).await);
    }

    /// Sends one byte at a time until all are gone or the peer has closed; whether all went.
    pub(crate) async fn drip(&mut self, bytes: &[u8], pace: Duration) -> bool {
        for byte in bytes {
            if self.wire.send(&[*byte]).await.is_err() {
                return false;
            }
            tokio::time::sleep(pace).await;
        }
        true
    }

    pub(crate) async fn half_close(&mut self) {
        self.wire.half_close().await.unwrap();
    }

    pub(crate) fn reset(self) {
        self.wire.reset();
    }

    /// One request and its whole answer.
    pub(crate) async fn exchange(&mut self, request: &Request) -> Answer {
        self.send(request.bytes()).await;
        self.answer_to(request.method()).await
    }

    /// The same where no answer is for the test to judge.
    pub(crate) async fn try_exchange(&mut self, request: &Request) -> Option<Answer> {
        self.send(request.bytes()).await;
        let answer = self.try_head(request.method()).await?;
        Some(self.whole(answer).await)
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("POST").await
    }

    /// The whole answer to a request of this method.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        let answer = self.head_for(method).await;
        self.whole(answer).await
    }

    async fn whole(&mut self, mut answer: Answer) -> Answer {
        let mut body = BytesMut::new();
        loop {
            match timeout(PATIENCE, self.body.next(&mut self.wire)).await.expect("the answer's body hangs") {
                Ok(Some(piece)) => {
                    body.extend_from_slice(&piece);
                    answer.pieces.push((Instant::now(), piece));
                }
                Ok(None) => break,
                Err(_) => {
                    answer.end = End::Cut;
                    break;
                }
            }
        }
        answer.body = body.freeze();
        answer.trailers = std::mem::take(&mut self.body.trailers);
        answer
    }

    /// The head of the answer to a POST; its body follows piece by piece from [`Self::piece`].
    pub(crate) async fn head(&mut self) -> Answer {
        self.head_for("POST").await
    }

    async fn head_for(&mut self, method: &str) -> Answer {
        let answer = self.try_head(method).await;
        answer.expect("an answer should have come, not the end of the connection")
    }

    async fn try_head(&mut self, method: &str) -> Option<Answer> {
        let mut interim = Vec::new();
        loop {
            let read = timeout(PATIENCE, self.wire.head()).await.expect("the answer's head hangs");
            let head = read.ok().flatten()?;
            let (first, headers) = parse_head(&head);
            let status: u16 = first.split(' ').nth(1).and_then(|word| word.parse().ok())?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
            let framing = if bodiless { Framing::Empty } else { Framing::of(&headers, Framing::UntilClose) };
            self.body = BodyReader::new(framing);
            let (body, pieces, trailers) = (Bytes::new(), Vec::new(), Headers::default());
            return Some(Answer { status, head, headers, body, pieces, trailers, end: End::Whole, interim });
        }
    }

    /// The next chunk of the body; `None` at its proper end.
    pub(crate) async fn piece(&mut self) -> std::io::Result<Option<Bytes>> {
        timeout(PATIENCE, self.body.next(&mut self.wire)).await.expect("the next piece of the body hangs")
    }

    /// Reads the head of an answer and the first piece of its body.
    pub(crate) async fn piece_after_head(&mut self) -> Bytes {
        assert_eq!(self.head().await.status, 200);
        self.piece().await.unwrap().expect("the body ended before it began")
    }

    /// Raw bytes, for what comes after a 101.
    pub(crate) async fn raw(&mut self) -> Bytes {
        timeout(PATIENCE, self.wire.some(usize::MAX)).await.expect("no bytes came").unwrap_or_default()
    }

    /// Waits for the peer to close without another byte; whether it did within `time`.
    pub(crate) async fn closes_within(&mut self, time: Duration) -> bool {
        assert!(self.wire.unread().is_empty(), "unread: {:?}", Bytes::copy_from_slice(self.wire.unread()));
        match timeout(time, self.wire.fill()).await {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(_)) => panic!("bytes came instead: {:?}", Bytes::copy_from_slice(self.wire.unread())),
            Err(_) => false,
        }
    }
}
