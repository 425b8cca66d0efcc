//! A client that speaks HTTP/2, in the clear (prior knowledge) or in TLS by ALPN.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Answer, End, PATIENCE, Request};
use crate::backend::headers_of;
use crate::certs::Certs;
use crate::wire::Headers;

/// One HTTP/2 connection, for any number of requests side by side; it closes when dropped.
pub(crate) struct H2Connection {
    send: SendRequest<Bytes>,
    driving: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
}

impl Drop for H2Connection {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

impl H2Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, "http").await
    }

    pub(crate) async fn open_tls(address: SocketAddr, certs: &Certs) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = certs.connector(&[b"h2", b"http/1.1"]).connect("localhost".try_into().unwrap(), stream).await;
        let stream = stream.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "ALPN should have chosen h2");
        Self::over(stream, "https").await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, scheme: &'static str) -> Self {
        let mut builder = client::Builder::new();
        let (send, connection) =
            builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20).handshake(io).await.unwrap();
        Self { send, driving: tokio::spawn(connection), scheme }
    }

    /// Sends a request with its whole body; the answer is still to come.
    pub(crate) async fn begin(&self, request: &Request) -> Result<client::ResponseFuture, h2::Error> {
        let (answer, mut stream) = self.begin_head(request).await?;
        send_all(&mut stream, request.content(), true).await?;
        Ok(answer)
    }

    /// Sends a head whose body follows.
    pub(crate) async fn begin_head(
        &self,
        request: &Request,
    ) -> Result<(client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let uri = format!("{}://localhost{}", self.scheme, request.target());
        let mut head = http::Request::builder().method(request.method()).uri(uri);
        for (name, value) in request.headers().iter().filter(|(name, _)| name != "Host") {
            head = head.header(name.to_ascii_lowercase(), value);
        }
        let mut send = timeout(PATIENCE, self.send.clone().ready()).await.expect("no stream may be opened")?;
        send.send_request(head.body(()).unwrap(), false)
    }

    pub(crate) async fn exchange(&self, request: &Request) -> Answer {
        self.try_exchange(request).await.unwrap()
    }

    /// One request and its answer; an error is a refused or reset stream before the head.
    pub(crate) async fn try_exchange(&self, request: &Request) -> Result<Answer, h2::Error> {
        let answer = self.begin(request).await?;
        let answer = timeout(PATIENCE, answer).await.expect("the answer's head hangs")?;
        Ok(timeout(PATIENCE, whole(answer)).await.expect("the answer's body hangs"))
    }
}

/// The rest of an answer whose head has come.
pub(crate) async fn whole(answer: http::Response<RecvStream>) -> Answer {
    let (parts, mut body) = answer.into_parts();
    let (mut bytes, mut pieces, mut end) = (BytesMut::new(), Vec::new(), End::Whole);
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else {
            end = End::Cut;
            break;
        };
        drop(body.flow_control().release_capacity(piece.len()));
        bytes.extend_from_slice(&piece);
        pieces.push((Instant::now(), piece));
    }
    let trailers = match end {
        End::Whole => body.trailers().await.ok().flatten().map(|map| headers_of(&map)).unwrap_or_default(),
        End::Cut => Headers::default(),
    };
    Answer {
        status: parts.status.as_u16(),
        head: Bytes::new(),
        headers: headers_of(&parts.headers),
        body: bytes.freeze(),
        pieces,
        trailers,
        end,
        interim: Vec::new(),
    }
}

/// Sends all of `bytes` as the peer's window allows.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, last: bool) -> Result<(), h2::Error> {
    if bytes.is_empty() && last {
        return stream.send_data(bytes, true);
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(room) = poll_fn(|context| stream.poll_capacity(context)).await else {
            return Err(h2::Reason::CANCEL.into());
        };
        let piece = bytes.split_to(room?.min(bytes.len()));
        stream.send_data(piece, last && bytes.is_empty())?;
    }
    Ok(())
}
