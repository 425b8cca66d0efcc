//! What is kept of requests while two processes serve: the old one ends its streams, the new one answers, and both write
//! to the same places. Nothing is lost, nothing is there twice, and the chain holds over both.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, SOON, rest};
use crate::backend::{Backend, Gate, Script, finish, token};
use crate::client::{Connection, End, Request};
use crate::gateway::{Folder, Gateway, command, lives, pool_of};

/// Streams that are open while a process is replaced.
const STREAMS: usize = 4;

/// Files of a few records, so that both processes begin and close some.
const FILTERS: &str = "storage: { path: store.db }
filters:
- record: { to: { files: { path: records, size: 4KiB } }, name: audit, chain: {} }
- record: { to: { sqlite: { path: records.db } }, name: table, chain: {} }
";

/// Every record in the files there, those that are compressed included, the oldest first. The beginning of one that a kill
/// cut off is none.
pub(crate) fn in_files(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().contains(".jsonl"));
    files.sort();
    // Of one that was just compressed, what it was made of.
    files.dedup_by(|packed, plain| packed.to_string_lossy().strip_suffix(".zst") == Some(&*plain.to_string_lossy()));
    let read = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let is_packed = path.extension().is_some_and(|extension| extension == "zst");
        String::from_utf8(if is_packed { zstd::decode_all(&bytes[..]).unwrap() } else { bytes }).unwrap()
    };
    let text: String = files.iter().map(read).collect();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn in_table(path: &Path) -> Vec<Value> {
    let store = rusqlite::Connection::open(path).unwrap();
    let mut rows = store.prepare("SELECT line FROM records ORDER BY seq").unwrap();
    let lines = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

/// Waits until a request is in the table.
async fn recorded(gateway: &Gateway, id: &str) {
    let until = Instant::now() + PATIENCE;
    while !in_table(&gateway.folder.path().join("records.db")).iter().any(|record| record["request_id"] == id) {
        assert!(Instant::now() < until, "{id} is not recorded:\n{}", gateway.log.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks all the time; what was answered is in the list.
async fn client(
    number: usize,
    address: std::net::SocketAddr,
    answered: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
) {
    for n in 0.. {
        if stop.load(SeqCst) {
            return;
        }
        let id = format!("c{number}-{n}");
        let request = Request::chat("m").header("x-request-id", &id).header("Connection", "close");
        let answer = Connection::open(address).await.exchange(&request).await;
        assert_eq!((answer.status, answer.end), (200, End::Whole), "{id}");
        answered.lock().unwrap().push(id);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_keep_records_in_one_place_and_none_is_lost_or_there_twice() {
    let (backend, folder, gate) = (Backend::start().await, Folder::new(), Arc::new(AtomicUsize::new(0)));
    let gates: Vec<Gate> = (0..2 * STREAMS).map(|_| Gate::closed()).collect();
    let (theirs, next) = (gates.clone(), gate.clone());
    backend.handle(move |seen| match seen.json()["stream"] == true {
        true => {
            let gate = &theirs[next.fetch_add(1, SeqCst)];
            Script::stream().token("a").wait(gate).token("b").chunk(finish()).done().end()
        }
        false => Script::chat("x"),
    });
    std::fs::create_dir(folder.path().join("records")).unwrap();
    let mut gateway = Gateway::start_in(folder, &format!("{SOON}{}{FILTERS}", pool_of(&[&backend])), &[]).await;
    let (answered, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
    let begin = |number| tokio::spawn(client(number, gateway.address(), answered.clone(), stop.clone()));
    let clients: Vec<_> = (0..3).map(begin).collect();

    let mut over = Vec::new();
    for round in 0..2 {
        let (old, mut streams) = (gateway.pid(), Vec::new());
        for (n, gate) in gates.iter().enumerate().skip(round * STREAMS).take(STREAMS) {
            let mut stream = gateway.connect().await;
            let id = format!("s{n}");
            stream.send(Request::stream("m").header("x-request-id", &id).bytes()).await;
            assert_eq!(stream.piece_after_head().await, token("a"));
            streams.push((id, stream, gate));
        }
        assert_eq!(gateway.upgrade().await.status, 200);
        let until = Instant::now() + PATIENCE;
        for (n, (id, stream, gate)) in streams.into_iter().enumerate() {
            // In turns: one of the new process, which does not wait for the old one to end, and one of the old.
            let between = format!("between-{round}-{n}");
            let request = Request::chat("m").header("x-request-id", &between).header("Connection", "close");
            assert_eq!(gateway.send(&request).await.status, 200);
            recorded(&gateway, &between).await;
            assert!(lives(old), "streams are open there");
            gate.open();
            assert!(rest(stream).await.ends_with("data: [DONE]\n\n"));
            recorded(&gateway, &id).await;
            over.extend([between, id]);
        }
        while if round == 0 { !gateway.has_ended() } else { lives(old) } {
            assert!(Instant::now() < until, "{}", gateway.log.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    over.append(&mut answered.lock().unwrap());
    let until = Instant::now() + PATIENCE;
    while gateway.admin("/admin/usage").await.json()["total"]["requests"] != over.len() {
        assert!(Instant::now() < until, "{} requests:\n{}", over.len(), gateway.log.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.signal("TERM");
    while lives(gateway.pid()) {
        assert!(Instant::now() < until + PATIENCE, "{}", gateway.log.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (files, table) = (gateway.folder.path().join("records"), gateway.folder.path().join("records.db"));
    over.sort();
    for (records, path, name) in [(in_files(&files), &files, "audit"), (in_table(&table), &table, "table")] {
        let numbers: HashMap<&str, u64> =
            records.iter().map(|one| (one["request_id"].as_str().unwrap(), one["seq"].as_u64().unwrap())).collect();
        let mut ids: Vec<&str> = records.iter().map(|one| one["request_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, over, "{name}");
        assert!(numbers["between-0-0"] < numbers["s0"] && numbers["s0"] < numbers["between-0-1"], "{numbers:?}");
        let output = command(&["records", "verify", path.to_str().unwrap(), "--name", name]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && said.contains(&format!("{} records", over.len())), "{said}");
    }
    assert!(std::fs::read_dir(&files).unwrap().count() > 4, "some files were closed");
}
