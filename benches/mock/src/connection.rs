//! One client connection: requests in, answers out, until the client has had enough.

use crate::answer::{Answer, Answers, Silence, response};
use crate::pace::{self, Pacer};
use crate::request::{self, Found};
use memchr::memmem;
use std::io::Result;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for a request at first, and what a connection keeps: thousands of them are open at once.
const ROOM: usize = 4 << 10;

/// Answers everything that comes on `socket`.
pub(crate) async fn answer(socket: TcpStream, answers: Rc<Answers>, pacer: Pacer) {
    let mut buffer = Vec::with_capacity(ROOM);
    let mut open = Some(socket);
    while let Some(mut socket) = open.take() {
        let Ok(Some(length)) = read(&mut socket, &mut buffer).await else { return };
        let reply = choose(&buffer[..length.whole], length.body, &answers);
        buffer.drain(..length.whole);
        if buffer.is_empty() && buffer.capacity() > 16 * ROOM {
            buffer = Vec::with_capacity(ROOM);
        }
        open = send(socket, &reply, &pacer).await;
    }
}

/// Where a request and its body stand.
struct Length {
    whole: usize,
    /// Where its body begins.
    body: usize,
}

/// Reads one whole request; none when the client has closed.
async fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Length>> {
    let mut needed = 1;
    loop {
        if buffer.len() >= needed {
            match request::find(buffer) {
                Found::Whole(found) => return Ok(Some(Length { whole: found.length, body: found.body.start })),
                Found::Part(whole) => {
                    needed = whole.unwrap_or(0);
                    buffer.reserve(needed.saturating_sub(buffer.len()).max(ROOM));
                }
            }
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn choose(request: &[u8], body: usize, answers: &Answers) -> Rc<Answer> {
    let (head, body) = request.split_at(body);
    if head.starts_with(b"GET ") {
        let models = memmem::find(&head[..head.len().min(64)], b"/models").is_some();
        let text = if models {
            r#"{"object":"list","data":[{"id":"mock","object":"model","created":1760000000,"owned_by":"mock"}]}"#
        } else {
            "{}"
        };
        return Rc::new(Answer::Whole { bytes: response("200 OK", text), delay: std::time::Duration::ZERO });
    }
    let model = request::model(body).unwrap_or(b"mock-whole-504");
    // Only streams tell their usage at the end, and looking for the wish takes a whole body's reading.
    answers.of(model, model.starts_with(b"mock-stream") && request::wants_usage(body))
}

/// Sends an answer, and gives the socket back if the connection stays open.
async fn send(mut socket: TcpStream, answer: &Rc<Answer>, pacer: &Pacer) -> Option<TcpStream> {
    match &**answer {
        Answer::None(silence) => silent(socket, *silence).await,
        Answer::Whole { bytes, delay } => {
            if !delay.is_zero() {
                tokio::time::sleep(*delay).await;
            }
            socket.write_all(bytes).await.ok()?;
            Some(socket)
        }
        Answer::Stream(stream) => {
            socket.write_all(&stream.first).await.ok()?;
            if let Some(silence) = stream.breaks {
                pace::flat_out(&mut socket, stream).await.ok()?;
                return silent(socket, silence).await;
            }
            if stream.pace.is_zero() {
                pace::flat_out(&mut socket, stream).await.ok()?;
                return Some(socket);
            }
            pacer.send(socket, answer, stream).await
        }
    }
}

/// Says nothing more. The connection does not come back from that.
async fn silent(mut socket: TcpStream, silence: Silence) -> Option<TcpStream> {
    match silence {
        Silence::Close => {}
        // With nothing left to wait for, closing is a reset.
        Silence::Reset => socket.set_zero_linger().ok()?,
        Silence::Stall => while socket.read(&mut [0; 64]).await.ok()? > 0 {},
    }
    None
}
