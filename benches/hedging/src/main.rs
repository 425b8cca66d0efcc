//! What hedging does to the slowest first tokens, and what it costs: two backends of which 2 % of the first tokens come
//! after 2 s instead of 100 ms, and a gateway before them, with hedging and without.
//!
//! `cargo run -p tidegate-bench-hedging -- target/debug/tidegate`

use std::error::Error;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Streams in one run, and how many of them at once.
const STREAMS: usize = 3000;
const AT_ONCE: usize = 24;

/// One in so many first tokens is slow.
const SLOW_ONE_IN: usize = 50;
const QUICK: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_secs(2);

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
const REST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let gateway = std::env::args().nth(1).unwrap_or_else(|| "target/debug/tidegate".to_owned());
    let mut out = std::io::stdout();
    for (name, hedge) in
        [("without", ""), ("with hedge: { after: p95, budget: 4% }", "    hedge: { after: p95, budget: 4% }\n")]
    {
        let asked = Arc::new(AtomicUsize::new(0));
        let urls = [backend(asked.clone()).await?, backend(asked.clone()).await?];
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let running = start(&gateway, port, &urls, hedge).await?;
        let mut times = run(port).await?;
        drop(running);
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100 - usize::from(percent == 100)].as_millis();
        let extra = (asked.load(Relaxed) as f64 / STREAMS as f64 - 1.0) * 100.0;
        writeln!(
            out,
            "{name}: p50 {} ms, p98 {} ms, p99 {} ms, most {} ms; {extra:.1} % more requests",
            at(50),
            at(98),
            at(99),
            at(100)
        )?;
    }
    Ok(())
}

/// A backend on a port of its own; all count in `asked`, so that together they are slow as often as they should be.
async fn backend(asked: Arc<AtomicUsize>) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, asked.clone()));
        }
    });
    Ok(url)
}

async fn serve(mut stream: TcpStream, asked: Arc<AtomicUsize>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while request(&mut stream).await? {
        let wait = if asked.fetch_add(1, Relaxed) % SLOW_ONE_IN == SLOW_ONE_IN - 1 { SLOW } else { QUICK };
        stream.write_all(HEAD.as_bytes()).await?;
        tokio::time::sleep(wait).await;
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        stream.write_all(format!("{}{}0\r\n\r\n", chunk(TOKEN), chunk(REST)).as_bytes()).await?;
    }
    Ok(())
}

/// Reads a request with a length; false at the end of the connection.
async fn request(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(false);
        }
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let length = text[..end].lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if read.len() >= end + 4 + length.unwrap_or(0_usize) {
            return Ok(true);
        }
    }
}

/// A gateway that ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn start(gateway: &str, port: u16, urls: &[String], hedge: &str) -> Outcome<Running> {
    let admin = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let file = std::env::temp_dir().join(format!("tidegate-bench-hedging-{port}.yaml"));
    let config = format!(
        "listen: 127.0.0.1:{port}\nadmin: {{ listen: 127.0.0.1:{admin} }}\nlog: {{ level: error }}\npools:\n  main:\n    health: off\n    backends: [{}]\n{hedge}",
        urls.join(", ")
    );
    std::fs::write(&file, config)?;
    let child = Command::new(gateway).args(["run", "--config"]).arg(&file).stdout(Stdio::null()).spawn()?;
    let running = Running(child);
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            std::fs::remove_file(&file)?;
            return Ok(running);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the gateway did not start".into())
}

/// The times to the first token.
async fn run(port: u16) -> Outcome<Vec<Duration>> {
    let left = Arc::new(AtomicUsize::new(STREAMS));
    let clients: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(client(port, left.clone()))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    Ok(times)
}

async fn client(port: u16, left: Arc<AtomicUsize>) -> Outcome<Vec<Duration>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut times = Vec::new();
    while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let (mut read, mut first) = (Vec::new(), None);
        loop {
            if stream.read_buf(&mut read).await? == 0 {
                return Err("a stream was cut".into());
            }
            if first.is_none() && find(&read, b"\"content\"") {
                first = Some(began.elapsed());
            }
            if read.ends_with(b"0\r\n\r\n") {
                break;
            }
        }
        times.push(first.ok_or("a stream without a token")?);
    }
    Ok(times)
}

fn find(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}
