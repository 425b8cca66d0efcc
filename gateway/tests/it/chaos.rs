//! Three backends, two of them killed and restarted at random, under requests and open streams: no error reaches a client
//! that has seen no byte.
//!
//! Runs some seconds with the other tests, and for a minute, at 200 requests a second and 200 open streams, with
//! `make chaos`, which also prints what was seen. Words are numbered, so that one that is lost or comes twice shows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::backend::{Backend, Script, Seen, chat, finish};
use crate::client::{Answer, Connection, End, Request};
use crate::gateway::{Gateway, free_port};

/// Words of a stream, and the time between two.
const WORDS: usize = 12;
const PACE: Duration = Duration::from_millis(150);

/// How a whole answer is cut in pieces: its head, and its two halves.
const PART: Duration = Duration::from_millis(15);

/// What clients do, and for how long.
#[derive(Clone, Copy)]
struct Load {
    time: Duration,
    /// Requests for whole answers, each second.
    rate: u32,
    /// Streams that are open.
    streams: usize,
}

/// A few seconds of a quarter of the load, or what `CHAOS` says of all of it.
fn load() -> Load {
    let seconds = std::env::var("CHAOS").ok().and_then(|seconds| seconds.parse().ok());
    match seconds.map(Duration::from_secs_f64) {
        Some(time) => Load { time, rate: 200, streams: 200 },
        None => Load { time: Duration::from_secs(4), rate: 50, streams: 50 },
    }
}

#[expect(clippy::print_stdout, reason = "`make chaos` shows it")]
fn tell(row: &str) {
    println!("{row}");
}

/// Numbers that look random, the same each time.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn word(n: usize) -> String {
    format!("w{n} ")
}

/// What a stream says: all words, or those that are missing where it is asked to go on.
fn stream(seen: &Seen) -> Script {
    let messages = seen.json()["messages"].clone();
    let last = messages.as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default();
    let said = match last["role"].as_str() {
        Some("assistant") => last["content"].as_str().unwrap_or_default().split_whitespace().count(),
        _ => 0,
    };
    let begun = Script::stream().pause(PART);
    let words = (said..WORDS).fold(begun, |script, n| script.token(&word(n)).pause(PACE));
    words.chunk(finish()).done().end()
}

/// A whole answer, in pieces with time to be killed between them.
fn whole() -> Script {
    let body = chat("all of it");
    let (one, other) = body.split_at(body.len() / 2);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    Script::new().pause(PART).send(head).pause(PART).send(one.to_owned()).pause(PART).send(other.to_owned())
}

/// A backend at this port. Half of them end as a process does that is killed, the others as a machine that is reset.
async fn start(port: u16, resets: bool) -> Backend {
    let until = Instant::now() + Duration::from_secs(10);
    let listener = loop {
        // The one before is gone a moment after it is dropped.
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let backend = Backend::on(listener);
    if resets {
        backend.resets();
    }
    backend.handle(|seen| if seen.json()["stream"] == true { stream(seen) } else { whole() });
    backend
}

/// What the clients saw.
#[derive(Default)]
struct Tally {
    whole: usize,
    streams: usize,
    /// Streams that ended in an honest error after the client had seen some of them.
    broken: usize,
    /// Errors that reached a client that had seen nothing, and streams that lied.
    wrong: Vec<String>,
}

/// How a stream came.
enum Came {
    Whole,
    Broken,
    Wrong,
}

/// Judges a stream: words in order, each once; complete, or with an error event after some of them.
fn judge(answer: &Answer) -> Came {
    let events = answer.text().split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let (mut words, mut failed, mut done) = (0, false, false);
    for event in events {
        if event == "[DONE]" {
            done = true;
            continue;
        }
        let Ok(event) = serde_json::from_str::<Value>(event) else { return Came::Wrong };
        failed |= event["error"].is_object();
        match event["choices"][0]["delta"]["content"].as_str() {
            Some(content) if content == word(words) => words += 1,
            Some("") | None => {}
            Some(_) => return Came::Wrong,
        }
    }
    match (answer.status, words) {
        (200, WORDS) if done && !failed && answer.end == End::Whole => Came::Whole,
        (200, 1..) if failed && !done => Came::Broken,
        _ => Came::Wrong,
    }
}

async fn ask(address: SocketAddr, request: &Request, tally: &Mutex<Tally>) {
    let answer = Connection::open(address).await.exchange(request).await;
    let mut tally = tally.lock().unwrap();
    let is_stream = request.content().windows(6).any(|piece| piece == b"stream");
    let came = match is_stream {
        true => judge(&answer),
        false if answer.status == 200 && answer.end == End::Whole && answer.text() == chat("all of it") => Came::Whole,
        false => Came::Wrong,
    };
    match came {
        Came::Whole if is_stream => tally.streams += 1,
        Came::Whole => tally.whole += 1,
        Came::Broken => tally.broken += 1,
        Came::Wrong => {
            let head = String::from_utf8_lossy(&answer.head).into_owned();
            tally.wrong.push(format!("{head}{}", answer.text()));
        }
    }
}

/// Asks at this rate, each on a connection of its own, and keeps so many streams open.
async fn clients(address: SocketAddr, load: Load, tally: &Arc<Mutex<Tally>>) {
    let until = Instant::now() + load.time;
    let mut all = JoinSet::new();
    for _ in 0..load.streams {
        let tally = tally.clone();
        all.spawn(async move {
            while Instant::now() < until {
                ask(address, &Request::stream("m"), &tally).await;
            }
        });
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1) / load.rate);
    while Instant::now() < until {
        tick.tick().await;
        let tally = tally.clone();
        all.spawn(async move { ask(address, &Request::chat("m"), &tally).await });
        while all.try_join_next().transpose().unwrap().is_some() {}
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

/// Kills and restarts the backends at `ports` until told to stop, and leaves all of them running; how many kills.
async fn havoc(ports: [u16; 2], stop: &AtomicBool) -> (usize, Vec<Backend>) {
    let (mut random, mut kills) = (Random(u64::from(std::process::id())), 0);
    let mut backends = [Some(start(ports[0], false).await), Some(start(ports[1], true).await)];
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(50 + random.below(500))).await;
        let one = random.below(2) as usize;
        kills += usize::from(backends[one].is_some());
        backends[one] = match backends[one].take() {
            Some(_) => None,
            None => Some(start(ports[one], random.below(2) == 0).await),
        };
    }
    let mut left = Vec::new();
    for (backend, port) in backends.into_iter().zip(ports) {
        left.push(match backend {
            Some(backend) => backend,
            None => start(port, false).await,
        });
    }
    (kills, left)
}

/// Runs the load before three backends with these further lines for their pool; what was seen.
async fn chaos(lines: &str) -> Tally {
    let (load, ports) = (load(), [free_port(), free_port()]);
    let alive = start(free_port(), false).await;
    let urls: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let gateway = Gateway::start(&format!(
        "pools:\n  main:\n    backends: [{}, {}]\n{EAGER}{lines}",
        alive.url(),
        urls.join(", ")
    ))
    .await;
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
    let kills = tokio::spawn({
        let stop = stop.clone();
        async move { havoc(ports, &stop).await }
    });
    clients(gateway.address(), load, &tally).await;
    stop.store(true, Relaxed);
    let (kills, _left) = kills.await.unwrap();
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
    let tally = std::mem::take(&mut *tally.lock().unwrap());
    let metrics = gateway.metrics().await;
    let [retries, refused] =
        ["tidegate_retries_total", "tidegate_retries_refused_total"].map(|name| metrics.sum(name, &[]));
    tell(&format!(
        "{:?}: {} whole answers, {} streams; {kills} kills; {} streams broken after a first word, {} wrong; {retries} retries, {refused} refused",
        load.time,
        tally.whole,
        tally.streams,
        tally.broken,
        tally.wrong.len()
    ));
    for row in metrics.with("tidegate_resumes_total").lines().filter(|row| !row.ends_with(" 0")) {
        tell(row);
    }
    for wrong in tally.wrong.iter().take(10) {
        tell(&format!("--- wrong:\n{wrong}"));
    }
    assert!(kills > 0, "nobody was killed");
    assert!(tally.whole > 0 && tally.streams > 0, "nothing came through");
    tally
}

/// Who comes back is used at once, so that there is much to break.
const EAGER: &str = "    health: { every: 100ms, path: /health }\n    breaker: { pause: 100ms, slow_start: 0s }\n";

/// Two of three backends may go at once, with two thirds of all that is under way: that is more than a fifth.
const RULES: &str = "    hold: content
    retries: { most: 4, on: [connect, lost, 429, 503, 529, error_event], budget: 100%, always: 100 }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_reaches_a_client_that_has_seen_nothing() {
    let tally = chaos(RULES).await;
    assert!(tally.wrong.is_empty(), "{} of them; the first:\n{}", tally.wrong.len(), tally.wrong[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_resume_no_error_reaches_any_client() {
    let tally = chaos(&format!("{RULES}    resume: {{ attempts: 10 }}\n")).await;
    assert!(tally.wrong.is_empty(), "{} of them; the first:\n{}", tally.wrong.len(), tally.wrong[0]);
    assert_eq!(tally.broken, 0, "streams that ended in an error after a first word");
}
