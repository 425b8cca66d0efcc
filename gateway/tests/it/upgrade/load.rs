//! Reloads and upgrades under load: not one request fails, no stream is cut, and nothing leaks.
//!
//! A few of each run with the other tests; `make upgrades` does 1,000 reloads and 20 upgrades under 500 requests a second
//! and 100 streams, and prints what was seen. Half of the requests come on connections of their own, half on connections
//! that are kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::backend::{Backend, Script, chat, finish};
use crate::client::{Answer, Connection, End, Request};
use crate::gateway::{Gateway, pool_of};

/// Words of a stream, and the time between two.
const WORDS: usize = 20;
const PACE: Duration = Duration::from_millis(200);

/// How often a client asks that does not stream.
const EVERY: Duration = Duration::from_millis(100);

/// What clients do, and what is done to the gateway.
#[derive(Clone, Copy)]
struct Load {
    reloads: usize,
    upgrades: usize,
    /// Requests for whole answers, each second.
    rate: usize,
    /// Streams that are open.
    streams: usize,
    /// Between two upgrades.
    pause: Duration,
}

/// A little, or what is promised if `UPGRADES` says so.
fn load() -> Load {
    let number =
        |name: &str, otherwise| std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise);
    match number("UPGRADES", 0) {
        0 => Load { reloads: 5, upgrades: 2, rate: 40, streams: 10, pause: Duration::from_millis(200) },
        upgrades => Load {
            reloads: 1000,
            upgrades,
            rate: number("UPGRADES_RATE", 500),
            streams: number("UPGRADES_STREAMS", 100),
            pause: Duration::from_secs(3),
        },
    }
}

#[expect(clippy::print_stdout, reason = "`make upgrades` shows it")]
fn tell(row: &str) {
    println!("{row}");
}

#[derive(Default)]
struct Tally {
    whole: AtomicUsize,
    streams: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn judge(&self, answer: Option<&Answer>, is_stream: bool) {
        let is_whole = answer.is_some_and(|answer| {
            let complete = answer.status == 200 && answer.end == End::Whole;
            complete
                && if is_stream { answer.text().ends_with("data: [DONE]\n\n") } else { answer.text() == chat("all") }
        });
        match is_whole {
            true if is_stream => drop(self.streams.fetch_add(1, Relaxed)),
            true => drop(self.whole.fetch_add(1, Relaxed)),
            false => {
                let told = answer.map(|answer| format!("{}{}", String::from_utf8_lossy(&answer.head), answer.text()));
                self.wrong.lock().unwrap().push(told.unwrap_or_else(|| "no answer".to_owned()));
            }
        }
    }
}

/// Asks all the time, as a client does that keeps its connection, or that does not.
async fn client(address: SocketAddr, keeps: bool, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut kept = None;
    while !stop.load(Relaxed) {
        tick.tick().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::try_open(address).await {
                Ok(connection) => connection,
                Err(error) => return tally.wrong.lock().unwrap().push(format!("not connected: {error}")),
            },
        };
        let answer = connection.try_exchange(&Request::chat("m")).await;
        tally.judge(answer.as_ref(), false);
        let closes = answer.is_none_or(|answer| answer.header("connection") == Some("close"));
        if keeps && !closes {
            kept = Some(connection);
        }
    }
}

async fn streams(address: SocketAddr, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    while !stop.load(Relaxed) {
        match Connection::try_open(address).await {
            Ok(mut connection) => tally.judge(connection.try_exchange(&Request::stream("m")).await.as_ref(), true),
            Err(error) => return tally.wrong.lock().unwrap().push(format!("not connected: {error}")),
        }
    }
}

/// Memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn config(backend: &Backend, round: usize) -> String {
    // Something that a reload changes, and something that it builds anew.
    let limits = format!("limits: {{ head_timeout: 2s, body: {}MiB }}\n", 8 + round % 2);
    let budget = format!("filters:\n  - limits: [{{ per: global, requests: {}/s }}]\n", 1_000_000 + round);
    format!("{limits}storage: {{ path: $DIR/store.db }}\n{}{budget}", pool_of(&[backend]))
}

async fn reload(gateway: &Gateway) {
    let request = Request::post("/admin/reload", "").header("Connection", "close");
    let answer = Connection::open(gateway.admin_address()).await.exchange(&request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Memory after the tenth of what is done to it, and after the last.
type Grown = Option<(u64, u64)>;

fn held(what: &str, grown: Grown) {
    if let Some((tenth, last)) = grown {
        tell(&format!("memory after the tenth {what}: {} MiB, after the last: {} MiB", tenth >> 10, last >> 10));
        assert!(last <= tenth + tenth / 10, "{what}: from {tenth} KiB to {last} KiB");
    }
}

async fn reloads(gateway: &Gateway, backend: &Backend, load: Load) -> Grown {
    let mut tenth = None;
    for round in 1..=load.reloads {
        gateway.rewrite(&config(backend, round));
        reload(gateway).await;
        if round == 10 {
            tenth = Some(memory(gateway.pid()));
        }
    }
    gateway.metric_is("tidegate_config_last_reload_successful", &[], 1.0).await;
    tenth.map(|tenth| (tenth, memory(gateway.pid())))
}

async fn upgrades(gateway: &mut Gateway, load: Load) -> Grown {
    let mut tenth = None;
    for round in 1..=load.upgrades {
        let begun = Instant::now();
        let answer = gateway.upgrade().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let took = begun.elapsed();
        tokio::time::sleep(load.pause).await;
        let now = memory(gateway.pid());
        tell(&format!("upgrade {round} took {} ms; the new process has {} MiB", took.as_millis(), now >> 10));
        if round == 10 {
            tenth = Some(now);
        }
    }
    tenth.map(|tenth| (tenth, memory(gateway.pid())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_stream_is_cut_by_reloads_and_upgrades() {
    let (load, backend) = (load(), Backend::start().await);
    backend.handle(|seen| match seen.json()["stream"] == true {
        true => {
            (0..WORDS).fold(Script::stream(), |script, _| script.token("w ").pause(PACE)).chunk(finish()).done().end()
        }
        false => Script::answer("200 OK", &[("content-type", "application/json")], chat("all")),
    });
    let mut gateway = Gateway::start(&config(&backend, 0)).await;
    let (tally, stop) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let mut clients = JoinSet::new();
    for at in 0..load.rate * EVERY.as_millis() as usize / 1000 {
        clients.spawn(client(gateway.address(), at % 2 == 0, tally.clone(), stop.clone()));
    }
    for _ in 0..load.streams {
        clients.spawn(streams(gateway.address(), tally.clone(), stop.clone()));
    }
    let begun = Instant::now();
    let by_reloads = reloads(&gateway, &backend, load).await;
    tell(&format!("{} reloads after {:?}", load.reloads, begun.elapsed()));
    let by_upgrades = upgrades(&mut gateway, load).await;
    let took = begun.elapsed();
    stop.store(true, Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let (whole, streams, wrong) =
        (tally.whole.load(Relaxed), tally.streams.load(Relaxed), std::mem::take(&mut *tally.wrong.lock().unwrap()));
    tell(&format!(
        "{took:?}: {whole} whole answers ({:.0} a second), {streams} streams, {} failed",
        whole as f64 / took.as_secs_f64(),
        wrong.len()
    ));
    assert!(whole > 0 && streams > 0, "nothing came through");
    assert!(wrong.is_empty(), "{} of them; the first:\n{}", wrong.len(), wrong[0]);
    gateway.metric_is("tidegate_upgrades_total", &[("outcome", "done")], load.upgrades as f64).await;
    held("reload", by_reloads);
    held("upgrade", by_upgrades);
}
