//! Processes that are killed: what any client was told is kept, once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::mixed::{self, Kind, Told, send};
use crate::backend::Backend;
use crate::gateway::{Folder, Gateway, command};

const REQUESTS: usize = 10_000;

/// Requests after which the process is killed, while others are under way.
const KILLS: [usize; 3] = [2500, 5000, 7500];

/// Sends requests, eight at a time, to whichever process there is. What it was told, and in which life of the gateway.
async fn worker(
    next: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    mut address: watch::Receiver<(usize, SocketAddr)>,
) -> Vec<(usize, usize, Told)> {
    let mut all = Vec::new();
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= REQUESTS {
            return all;
        }
        let (life, to) = *address.borrow_and_update();
        let told = send(to, number).await;
        all.push((number, life, told));
        done.fetch_add(1, Relaxed);
        // Nobody is there: until somebody is, nothing more is asked.
        if told.status == 0 && life < KILLS.len() {
            address.wait_for(|(now, _)| *now > life).await.unwrap();
        }
    }
}

/// By user and cause, as the command line has it.
fn usage(gateway: &Gateway) -> (HashMap<String, Vec<Value>>, Value) {
    let file = gateway.folder.path().join("gateway.yaml");
    let output = command(&["usage", "--config", &file.display().to_string(), "--by", "user,cause", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut rows: HashMap<String, Vec<Value>> = HashMap::new();
    for row in answer["usage"].as_array().unwrap() {
        rows.entry(row["user"].as_str().unwrap().to_owned()).or_default().push(row.clone());
    }
    (rows, answer["total"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_what_ten_thousand_clients_were_told_although_the_process_is_killed_again_and_again() {
    let backend = Backend::start().await;
    backend.handle(mixed::answering());
    let config = mixed::config(&backend);
    let mut gateway = Gateway::start(&config).await;
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (tell, address) = watch::channel((0, gateway.address()));
    let work = || tokio::spawn(worker(next.clone(), done.clone(), address.clone()));
    let workers: Vec<_> = (0..8).map(|_| work()).collect();
    for (life, kill) in KILLS.into_iter().enumerate() {
        while done.load(Relaxed) < kill {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gateway.signal("KILL");
        gateway.ended(Duration::from_secs(10)).await;
        let folder = std::mem::replace(&mut gateway.folder, Folder::new());
        gateway = Gateway::start_in(folder, &config, &[]).await;
        tell.send((life + 1, gateway.address())).unwrap();
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    // The last life ends so, too: what it has in its journal is told without it.
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    gateway.signal("KILL");
    gateway.ended(Duration::from_secs(10)).await;
    let (rows, total) = usage(&gateway);
    judge(&all, &rows, &total);

    // And when all of it has come into the store, it is the same.
    let folder = std::mem::replace(&mut gateway.folder, Folder::new());
    let mut gateway = Gateway::start_in(folder, &config, &[]).await;
    gateway.signal("TERM");
    gateway.ended(Duration::from_secs(30)).await;
    assert_eq!(usage(&gateway), (rows, total));
    let left = gateway.folder.journals();
    assert!(left.iter().all(|store| std::fs::read_dir(store).unwrap().count() <= 1), "{left:?}");
}

/// Holds each request against what is kept of it.
fn judge(all: &[(usize, usize, Told)], rows: &HashMap<String, Vec<Value>>, total: &Value) {
    assert_eq!(all.len(), REQUESTS);
    let (mut unknown, mut kept, mut sums) = (0, 0, [0; 2]);
    for (number, life, told) in all {
        let (kind, row) = (Kind::of(*number), rows.get(&mixed::user(*number)).map_or(&[][..], Vec::as_slice));
        let about = format!("{number} {kind:?} {told:?} {row:?}");
        assert!(row.len() <= 1 && row.iter().all(|row| row["requests"] == 1), "counted twice: {about}");
        kept += row.len();
        let count = |name: &str| row.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
        if let Some(tokens) = told.tokens {
            let (of, saved) =
                (["prompt_tokens", "completion_tokens"], ["saved_prompt_tokens", "saved_completion_tokens"]);
            let of = if told.again { saved } else { of };
            assert_eq!((count(of[0]), count(of[1])), tokens, "{about}");
            sums = [sums[0] + tokens.0, sums[1] + tokens.1];
        }
        // Who left early was told nothing of the end; the last life has noticed all of them.
        let knows = told.whole || kind == Kind::Cancelled && *life == KILLS.len() && told.status == 200;
        if knows {
            assert_eq!(row.len(), 1, "{about}");
            assert_eq!(row[0]["cause"], mixed::cause(kind, told), "{about}");
        } else if kind != Kind::Cancelled {
            unknown += 1;
        }
    }
    // No more than were under way when the process was killed, and what each asked next, of nobody.
    assert!(unknown <= 2 * 8 * KILLS.len(), "{unknown}");
    assert_eq!(rows.values().map(Vec::len).sum::<usize>(), kept);
    assert_eq!(total["requests"], kept);
    let told = total["prompt_tokens"].as_u64().unwrap() + total["saved_prompt_tokens"].as_u64().unwrap();
    assert!(told >= sums[0], "{told} {sums:?}");
}

/// As our systemd unit has it: the file says nothing of a journal, and where it is outlives the process.
#[tokio::test]
async fn the_journal_is_where_whoever_starts_the_gateway_wants_it() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    backend.handle(mixed::answering());
    let base = std::path::PathBuf::from("/dev/shm").join(folder.path().file_name().unwrap());
    std::fs::create_dir(&base).unwrap();
    let variable = [("TIDEGATE_JOURNAL", base.to_str().unwrap())];
    let mut gateway = Gateway::start_in(folder, &mixed::config(&backend), &variable).await;
    // One journal is brought into the store each second: of so many some are not in it yet.
    for number in 0..7 {
        send(gateway.address(), number).await;
    }
    gateway.metric_is("tidegate_requests_total", &[], 7.0).await;
    let journals = || std::fs::read_dir(&base).unwrap().count();
    assert_eq!(journals(), 1);
    gateway.signal("KILL");
    gateway.ended(Duration::from_secs(20)).await;
    assert_eq!(journals(), 1);
    let file = gateway.folder.path().join("gateway.yaml").display().to_string();
    let output = crate::gateway::command_with(&["usage", "--config", &file, "--format", "json"], &variable);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["total"]["requests"], 7, "{told}");
    drop(std::fs::remove_dir_all(base));
}
