//! Requests of all kinds, each by a user of its own, and what their clients were told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, Script, token};
use crate::client::Request;
use crate::gateway::pool_of;

/// What a request is about to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Streamed,
    /// Asked by several: mostly an answer that is kept.
    Cached,
    /// Where a limit refuses all but the first.
    Limited,
    Failed,
    /// A stream that breaks after one token.
    Broken,
    /// A stream that its client leaves after one token.
    Cancelled,
}

pub(super) const KINDS: [Kind; 7] =
    [Kind::Whole, Kind::Streamed, Kind::Cached, Kind::Limited, Kind::Failed, Kind::Broken, Kind::Cancelled];

/// How many answers are kept.
const KEPT: usize = 20;

impl Kind {
    pub(super) fn of(number: usize) -> Self {
        KINDS[number % KINDS.len()]
    }

    fn model(self) -> &'static str {
        match self {
            Self::Cached => "kept",
            Self::Limited => "limited",
            _ => "m",
        }
    }
}

/// What a client was told of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// 0: nothing came.
    pub(super) status: u16,
    /// Whether the answer was there to its end.
    pub(super) whole: bool,
    /// The tokens, if they were told.
    pub(super) tokens: Option<(u64, u64)>,
    /// Whether it was told that its answer was made for another.
    pub(super) again: bool,
}

/// The file: prices, a cache for one model, a limit for another, and users whom a proxy names.
pub(super) fn config(backend: &Backend) -> String {
    format!(
        "{}    breaker: off
models: {{ m: {{ pool: main }}, kept: {{ pool: main }}, limited: {{ pool: main }} }}
trusted_proxies: [127.0.0.1]
storage: {{ path: store.db }}
prices: {{ currency: EUR, models: {{ \"*\": {{ prompt: 3, completion: 7, request: 0.001 }} }} }}
filters:
  - trusted_headers: {{ user: x-user, org: x-org, team: null }}
  - limits: [{{ per: global, requests: 1/week, models: [limited], name: one }}, {{ per: global, tokens: 100G/week, name: all }}]
  - prompt_cache: {{ scope: global, for: 1h, models: {{ m: 0, limited: 0 }} }}
",
        pool_of(&[backend])
    )
}

/// Answers as the request wants it.
pub(super) fn answering() -> impl Fn(&crate::backend::Seen) -> Script + Send + Sync {
    |seen| {
        let body: Value = seen.json();
        let text = body["messages"][0]["content"].as_str().unwrap_or_default();
        let (kind, number) = text.split_once(' ').unwrap_or_default();
        let (prompt, completion) = tokens(number.parse().unwrap());
        let usage =
            json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
        match kind {
            "Failed" => Script::status("500 Internal Server Error", "{}"),
            "Broken" => Script::stream().token("a").fin(),
            "Cancelled" => Script::stream().token("a").hang(),
            "Streamed" => {
                let usage = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
                let begun = (0..completion).fold(Script::stream(), |script, _| script.token("a"));
                begun.chunk(crate::backend::finish()).chunk(usage).done().end()
            }
            _ => {
                let message = json!({ "role": "assistant", "content": "x" });
                let choices = json!([{ "index": 0, "message": message, "finish_reason": "stop" }]);
                Script::json(
                    json!({ "object": "chat.completion", "model": "m", "choices": choices, "usage": usage })
                        .to_string(),
                )
            }
        }
    }
}

/// Of the prompt and the answer of a request.
fn tokens(number: usize) -> (u64, u64) {
    (10 + number as u64 % 37, 1 + number as u64 % 5)
}

pub(super) fn user(number: usize) -> String {
    format!("u{number}")
}

/// The request: its id is its user's name.
pub(super) fn request(number: usize) -> Request {
    let kind = Kind::of(number);
    let stream = matches!(kind, Kind::Streamed | Kind::Broken | Kind::Cancelled);
    let asks = if kind == Kind::Cached { number % KEPT } else { number };
    let mut body = json!({ "model": kind.model(), "max_tokens": 10, "stream": stream, "messages": [{ "role": "user", "content": format!("{kind:?} {asks}") }] });
    if stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    let request = Request::post("/v1/chat/completions", body.to_string()).header("x-request-id", &user(number));
    request.header("x-user", &user(number)).header("x-org", &format!("o{}", number % 3)).header("connection", "close")
}

/// Sends it, and says what its client was told. A process that is killed meanwhile is no fault of the client's.
pub(super) async fn send(address: std::net::SocketAddr, number: usize) -> Told {
    let leaves = Kind::of(number) == Kind::Cancelled;
    let mut read = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        let all = async {
            stream.write_all(&request(number).bytes()).await?;
            while stream.read_buf(&mut read).await? > 0 {
                // Then it leaves.
                if leaves && memchr::memmem::find(&read, token("a").as_bytes()).is_some() {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        drop(tokio::time::timeout(Duration::from_secs(60), all).await.expect("an answer hangs"));
    }
    told(&read)
}

fn told(read: &[u8]) -> Told {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Told::default() };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let number = |name: &str| {
        let rest = body.split_once(&format!("\"{name}\":"))?.1;
        rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse::<u64>().ok()
    };
    Told {
        status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        whole: length.map_or_else(|| body.ends_with("0\r\n\r\n"), |length| body.len() == length),
        tokens: number("prompt_tokens").zip(number("completion_tokens")),
        again: head.contains("cache-status: tidegate; hit"),
    }
}

/// The cause of a request whose client was told all of this.
pub(super) fn cause(kind: Kind, told: &Told) -> &'static str {
    match (kind, told.status) {
        (Kind::Cancelled, _) => "client_gone",
        (Kind::Broken, 200) => "upstream_error",
        (_, 200) => "none",
        (_, 429) => "limit",
        (_, 500..) => "upstream_error",
        (_, status) => panic!("{kind:?} {status}"),
    }
}
