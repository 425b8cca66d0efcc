//! How fast the readers on the request path are, by the eye: `cargo run --release -p tidegate-plugins --example speed`.

#![expect(clippy::print_stdout, reason = "printing is all it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::events::{EventCutter, StreamWatch};
use tidegate_plugins::multipart::ModelFinder;
use tidegate_plugins::splice::{ModelRenamer, set_model};

const MEBIBYTE: usize = 1 << 20;

fn main() {
    for (what, body) in [
        ("1 KiB of chat", chat(1, 1 << 10)),
        ("32 KiB of chat, 100 messages", chat(100, 300)),
        ("32 MiB in one message", chat(1, 32 * MEBIBYTE)),
        ("32 MiB in short messages", chat(600_000, 8)),
        ("32 MiB of base 64 and escapes", chat_of(1, &"aGVsbG8gd29ybGQ\\n".repeat(2 * MEBIBYTE))),
        ("32 MiB of token numbers", format!("{{\"model\":\"m\",\"prompt\":[{}0]}}", "12345,".repeat(5 * MEBIBYTE))),
    ] {
        let call = Call::read(body.as_bytes(), Endpoint::Chat).expect("it is a call");
        let bytes = Bytes::from(body);
        timed(&format!("read   {what}"), bytes.len(), || Call::read(&bytes, Endpoint::Chat));
        timed(&format!("splice {what}"), bytes.len(), || set_model(&call, &bytes, "another"));
    }
    let event = format!(
        "data: {}\n\n",
        r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1730000000,"model":"served","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null}"#
    );
    let event = Bytes::from(event);
    let mut cutter = EventCutter::new(MEBIBYTE);
    timed("cut    one event", event.len(), || cutter.push(event.clone()));
    let mut watch = StreamWatch::new(Endpoint::Chat);
    timed("watch  one event", event.len(), || watch.see(&event));
    let renamer = ModelRenamer::new("asked");
    timed("rename one event", event.len(), || renamer.rename_in_events(&event));
    let upload = [b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n".to_vec(), noise(32 * MEBIBYTE)].concat();
    timed("search 32 MiB of upload", upload.len(), || ModelFinder::new("XX").feed(&upload));
}

fn chat(messages: usize, length: usize) -> String {
    chat_of(messages, &"x".repeat(length))
}

fn chat_of(messages: usize, text: &str) -> String {
    let message = format!("{{\"role\":\"user\",\"content\":\"{text}\"}}");
    format!("{{\"model\":\"m\",\"messages\":[{}],\"stream\":true}}", vec![message; messages].join(","))
}

/// Bytes of every value, without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn timed<T>(what: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let (began, mut runs) = (Instant::now(), 0_u32);
    while began.elapsed() < Duration::from_millis(300) {
        black_box(work());
        runs += 1;
    }
    let each = began.elapsed() / runs;
    println!("{what:45} {each:>12.2?}  {:>8.0} MB/s", bytes as f64 / each.as_secs_f64() / 1e6);
}
