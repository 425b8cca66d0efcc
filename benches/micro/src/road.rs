//! A whole exchange: a request from a client's connection through the gateway to a backend's, and the answer all the way
//! back. The connections are in memory, and all of it is one thread: what is counted is what the gateway does, and the little
//! that it takes to write and read the bytes at either end.

use crate::file;
use std::ops::Range;
use tidegate::in_memory::InMemory;
use tidegate_plugins::keys::KeyHasher;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};

/// What is on between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// Nothing that need not be.
    Bare,
    /// What a request usually meets: a key, three limits, a rule that may choose the model, a look into the cache, the log.
    Everything,
}

/// What the backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes at once.
    Whole(usize),
    /// So many tokens, each with an event and a write of its own.
    Tokens(usize),
}

/// The two ends, and what is between them.
pub struct Road {
    runtime: Runtime,
    client: End,
    backend: End,
    /// What the client sends, and where in it the number stands that makes it another each time.
    request: Vec<u8>,
    number: Range<usize>,
    made: u32,
    /// What the backend sends, write by write.
    answer: Vec<Vec<u8>>,
    /// How the answer ends, whatever frames it.
    last: Vec<u8>,
    _gateway: InMemory,
}

/// One end of a connection, with what was read there.
struct End {
    stream: DuplexStream,
    read: Vec<u8>,
}

/// As much as is on its way, or read, at a time.
const ROOM: usize = 4 << 20;

const KEY: &str = "sk-of-a-bench-0123456789abcdef";

const FILTERS: &str = r#"
filters:
  - api_key: { keys: [{ id: bench, hash: "$HASH", user: bench, org: bench }] }
  - limits:
      - { per: key, requests: 1M/s }
      - { per: org, tokens: 1000M/min }
      - { per: [user, model], in_flight: 100000 }
  - model_route:
      rules: [{ name: heavy, when: prompt_tokens > 900k or has_images, model: large }]
  - prompt_cache: { for: 10m, size: 64MiB }
"#;

const REST: &str = r#"
models: { large: { pool: main }, "*": { pool: main } }
pools: { main: { balance: least_busy, health: off, backends: ["http://127.0.0.1:1"] } }
"#;

impl Road {
    /// With a request whose body is about so many bytes. One exchange is over when this returns: what is made once has been
    /// made.
    ///
    /// # Panics
    /// If there is no way from one end to the other.
    pub fn new(features: Features, body: usize, answer: Answer) -> Self {
        let hash = KeyHasher::new(None).hash(KEY).to_string();
        let filters = if features == Features::Everything { FILTERS.replace("$HASH", &hash) } else { String::new() };
        let gateway = InMemory::new(&file::config(filters + REST)).unwrap_or_else(|faults| panic!("{faults}"));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (client, backend) = runtime.block_on(async {
            let backend = gateway.backend(ROOM).await.expect("the backend has an address");
            (End::new(gateway.client(ROOM)), End::new(backend))
        });
        let (request, number) = request(body, matches!(answer, Answer::Tokens(_)));
        let (answer, last) = answered(answer);
        let mut road = Self { runtime, client, backend, request, number, made: 0, answer, last, _gateway: gateway };
        road.pass();
        road
    }

    /// One exchange.
    ///
    /// # Panics
    /// If it ends otherwise than well.
    pub fn pass(&mut self) {
        self.made += 1;
        let mut number = self.made;
        for digit in self.request[self.number.clone()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.runtime.block_on(async {
            self.client.stream.write_all(&self.request).await.expect("the gateway listens");
            self.backend.until(ASKED).await;
            for piece in &self.answer {
                self.backend.stream.write_all(piece).await.expect("the gateway reads");
                // As if it came by itself.
                tokio::task::yield_now().await;
            }
            self.client.until(&self.last).await;
        });
        assert!(self.client.read.starts_with(b"HTTP/1.1 200 "), "{}", self.client.read.escape_ascii());
        self.client.read.clear();
        self.backend.read.clear();
    }
}

impl End {
    fn new(stream: DuplexStream) -> Self {
        Self { stream, read: Vec::with_capacity(ROOM) }
    }

    /// Reads until what was read ends so.
    async fn until(&mut self, end: &[u8]) {
        while !self.read.ends_with(end) {
            let count = self.stream.read_buf(&mut self.read).await.expect("the connection holds");
            assert!(count > 0, "the gateway has closed it: {}", self.read.escape_ascii());
        }
    }
}

/// How a request ends.
const ASKED: &[u8] = b" tide?\"}]}";

fn request(size: usize, stream: bool) -> (Vec<u8>, Range<usize>) {
    let options = if stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    let begin = format!(r#"{{"model":"m","temperature":0.7{options},"messages":[{{"role":"user","content":""#);
    let filling = "The tide comes in, and goes out. ".repeat(size.saturating_sub(begin.len()) / 33);
    let body = format!("{begin}0000000000 {filling}{}", String::from_utf8_lossy(ASKED));
    // As the SDK of OpenAI has it.
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\naccept: application/json\r\n\
         content-type: application/json\r\nuser-agent: OpenAI/Python 3.52.0\r\nx-stainless-lang: python\r\n\
         x-stainless-package-version: 3.52.0\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n\
         x-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.12.8\r\nx-stainless-async: false\r\n\
         x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nauthorization: Bearer {KEY}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let at = head.len() + begin.len();
    ((head + &body).into_bytes(), at..at + 10)
}

/// The backend's writes, and the last bytes of what a client gets.
fn answered(answer: Answer) -> (Vec<Vec<u8>>, Vec<u8>) {
    let event = |choice: &str, more: &str| {
        let data = format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
             \"model\":\"m\",\"choices\":[{choice}]{more}}}\n\n"
        );
        format!("{:x}\r\n{data}\r\n", data.len())
    };
    match answer {
        Answer::Whole(size) => {
            let text = "tide ".repeat(size / 5);
            let body = format!(
                "{{\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"m\",\
                 \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],\
                 \"usage\":{{\"prompt_tokens\":100,\"completion_tokens\":64,\"total_tokens\":164}}}}"
            );
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            (vec![(head + &body).into_bytes()], b"\"total_tokens\":164}}".to_vec())
        }
        Answer::Tokens(count) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            let token = event(r#"{"index":0,"delta":{"content":" tide"},"finish_reason":null}"#, ",\"usage\":null");
            let mut pieces = vec![format!("{head}{token}")];
            pieces.extend(std::iter::repeat_n(token, count.saturating_sub(1)));
            let end = event(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, ",\"usage\":null");
            let usage = r#","usage":{"prompt_tokens":100,"completion_tokens":64,"total_tokens":164}"#;
            let done = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
            pieces.push(end + &event("", usage) + done);
            (pieces.into_iter().map(String::into_bytes).collect(), b"\r\n0\r\n\r\n".to_vec())
        }
    }
}
