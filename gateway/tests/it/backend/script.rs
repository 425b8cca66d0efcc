//! What a backend is told to do with one request: a list of plain steps, and names for the common lists.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::Seen;
use crate::wire;

/// A door that a test opens once: a script waits before it.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    pub(super) async fn pass(&self) {
        // A closed semaphore is an open door.
        drop(self.0.acquire().await);
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Send(Bytes),
    Pause(Duration),
    Wait(Gate),
    /// One byte at a time.
    Drip(Bytes, Duration),
    /// The same bytes until the peer leaves.
    Repeat(Bytes, Duration),
    /// Nothing, until the peer leaves.
    Hang,
    Fin,
    Reset,
    /// Give back every byte that comes, until the peer says "no more".
    Echo,
}

/// Steps in order; after the last the connection serves the next request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(super) steps: Vec<Step>,
    /// Begin when the head is read, without reading the body.
    pub(super) at_head: bool,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(crate) fn send(self, bytes: impl Into<Bytes>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    pub(crate) fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub(crate) fn drip(self, bytes: impl Into<Bytes>, pace: Duration) -> Self {
        self.then(Step::Drip(bytes.into(), pace))
    }

    pub(crate) fn repeat(self, bytes: impl Into<Bytes>, pace: Duration) -> Self {
        self.then(Step::Repeat(bytes.into(), pace))
    }

    pub(crate) fn hang(self) -> Self {
        self.then(Step::Hang)
    }

    pub(crate) fn fin(self) -> Self {
        self.then(Step::Fin)
    }

    pub(crate) fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    /// Answers without reading the body.
    pub(crate) fn at_head(mut self) -> Self {
        self.at_head = true;
        self
    }

    /// A whole answer of any status and type.
    pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Self::new().send([head.as_bytes(), body].concat())
    }

    /// 200 with a JSON document.
    pub(crate) fn json(body: impl AsRef<[u8]>) -> Self {
        Self::answer("200 OK", &[("content-type", "application/json")], body)
    }

    /// A JSON document with a status of its own.
    pub(crate) fn status(status: &str, body: impl AsRef<[u8]>) -> Self {
        Self::answer(status, &[("content-type", "application/json")], body)
    }

    /// The head of a chunked event stream.
    pub(crate) fn stream() -> Self {
        Self::new().send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
        )
    }

    /// One chunk with these bytes.
    pub(crate) fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        self.send(wire::chunk(bytes.as_ref()))
    }

    /// One event of a chat stream with this text, in a chunk of its own.
    pub(crate) fn token(self, text: &str) -> Self {
        self.chunk(token(text))
    }

    /// `data: [DONE]`, in a chunk of its own.
    pub(crate) fn done(self) -> Self {
        self.chunk("data: [DONE]\n\n")
    }

    /// The last chunk.
    pub(crate) fn end(self) -> Self {
        self.send("0\r\n\r\n")
    }

    /// A chat stream: these words at this pace, a finish reason, `[DONE]`, and the end.
    pub(crate) fn words(words: &[&str], pace: Duration) -> Self {
        let script = words.iter().fold(Self::stream(), |script, word| script.token(word).pause(pace));
        script.chunk(finish()).done().end()
    }

    /// A whole chat answer that says `text`.
    pub(crate) fn chat(text: &str) -> Self {
        Self::json(chat(text))
    }

    /// Takes a WebSocket handshake and gives back every byte after it.
    pub(crate) fn websocket_echo(accept: &str, protocol: Option<&str>) -> Self {
        let protocol = protocol.map(|name| format!("sec-websocket-protocol: {name}\r\n")).unwrap_or_default();
        Self::new()
            .send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n{protocol}\r\n"
            ))
            .then(Step::Echo)
    }

    /// The hash and the length of what came.
    pub(super) fn hash_of(seen: &Seen) -> Self {
        Self::json(format!(r#"{{"hash":"{}","length":{}}}"#, seen.hash(), seen.body.len()))
    }

    /// A healthy backend that serves one model.
    pub(super) fn probe(seen: &Seen) -> Self {
        match seen.target.ends_with("/health") {
            true => Self::json(r#"{"status":"ok"}"#),
            false => Self::models(&["tiny-random"]),
        }
    }

    /// A model list.
    pub(crate) fn models(names: &[&str]) -> Self {
        let entries: Vec<String> = names
            .iter()
            .map(|name| format!(r#"{{"id":"{name}","object":"model","created":1700000000,"owned_by":"tests"}}"#))
            .collect();
        Self::json(format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(",")))
    }
}

/// One event of a chat stream.
pub(crate) fn token(text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"tiny-random\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// The event that says why a chat stream ends.
pub(crate) fn finish() -> String {
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"tiny-random\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".to_owned()
}

/// A whole chat answer.
pub(crate) fn chat(text: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"tiny-random","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}}}"#
    )
}
