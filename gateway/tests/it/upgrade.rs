//! Another binary takes the place of the running one: nobody is refused, no stream is cut, and one that cannot serve
//! changes nothing.

pub(crate) mod kept;
mod load;
mod service_manager;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script, finish, token};
use crate::certs::Certs;
use crate::client::{Connection, End, H2Connection, Request};
use crate::gateway::{BINARY, Folder, Gateway, command, free_port, lives, pool_of, refused};

/// Longer than a process takes to end on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that say nothing are waited for no longer than this.
const SOON: &str = "limits: { head_timeout: 1s }\n";

/// A stream that has begun; its end waits for the gate.
async fn begun(gateway: &Gateway, backend: &Backend, gate: &Gate) -> Connection {
    backend.push(Script::stream().token("a").wait(gate).token("b").chunk(finish()).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    assert_eq!(stream.piece_after_head().await, token("a"));
    stream
}

async fn rest(mut stream: Connection) -> String {
    let mut rest = Vec::new();
    while let Some(piece) = stream.piece().await.expect("a stream that is cut") {
        rest.extend_from_slice(&piece);
    }
    String::from_utf8(rest).unwrap()
}

fn whole() -> String {
    format!("{}{}data: [DONE]\n\n", token("b"), finish())
}

#[tokio::test]
async fn the_new_process_answers_from_now_on_and_the_old_one_ends_with_its_last_stream() {
    let backend = Backend::start().await;
    let listen = "listen: [127.0.0.1:$PORT, \"unix:$DIR/in.sock\"]\n";
    let mut gateway = Gateway::start(&format!("{listen}{SOON}{}", pool_of(&[&backend]))).await;
    let (old, gate) = (gateway.pid(), Gate::closed());
    let stream = begun(&gateway, &backend, &gate).await;
    let mut idle = gateway.connect().await;
    assert_eq!(idle.exchange(&Request::get("/v1/models")).await.header("connection"), None);

    let upgraded = gateway.upgrade().await;
    assert_eq!(upgraded.status, 200, "{upgraded:?}");
    assert_eq!(upgraded.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_ne!(gateway.pid(), old);
    gateway.metric_is("tidegate_upgrades_total", &[("outcome", "done")], 1.0).await;
    gateway.metric_is("tidegate_draining", &[], 0.0).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let mut local = Connection::open_unix(&gateway.folder.path().join("in.sock")).await;
    assert_eq!(local.exchange(&Request::chat("m")).await.status, 200);

    let last = idle.exchange(&Request::chat("m")).await;
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close")),
        "an idle connection is answered once more"
    );
    assert!(lives(old), "a stream is open there");
    gate.open();
    assert_eq!(rest(stream).await, whole());
    assert!(gateway.ended(PATIENCE).await.success());
    assert!(lives(gateway.pid()));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway.log.line(|line| line["message"] == "the process before this one is gone").await;
}

#[tokio::test]
async fn sigquit_upgrades_too_and_tls_and_http2_clients_do_not_notice() {
    let (backend, certs, folder) = (Backend::start().await, Certs::new(), Folder::new());
    certs.write_to(folder.path());
    let secure = free_port();
    let listen = format!(
        "listen:\n  - 127.0.0.1:$PORT\n  - {{ address: 127.0.0.1:{secure}, tls: {{ cert: $DIR/cert.pem, key: $DIR/key.pem }} }}\n"
    );
    let mut gateway = Gateway::start_in(folder, &format!("{listen}{SOON}{}", pool_of(&[&backend])), &[]).await;
    let (h2, gate) = (H2Connection::open(gateway.address()).await, Gate::closed());
    backend.push(Script::stream().token("a").wait(&gate).chunk(finish()).done().end());
    let request = Request::stream("m");
    let (answer, line) = tokio::join!(h2.exchange(&request), async {
        backend.seen(0).await;
        gateway.signal("QUIT");
        let until = Instant::now() + PATIENCE;
        let line = loop {
            let said =
                |line: &&serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains("finishes"));
            if let Some(line) = gateway.log.json().iter().find(said) {
                break line.clone();
            }
            assert!(Instant::now() < until, "{}", gateway.log.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        gate.open();
        line
    });
    gateway.succeeded_by(line["successor"].as_u64().unwrap() as u32);
    assert_eq!(answer.end, End::Whole);
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    let mut tls = Connection::open_tls(std::net::SocketAddr::from(([127, 0, 0, 1], secure)), &certs).await;
    assert_eq!(tls.exchange(&Request::chat("m")).await.status, 200);
    assert!(gateway.ended(PATIENCE).await.success());
}

/// A name for the binary, where another program can be put.
fn installed(folder: &Folder) -> PathBuf {
    let program = folder.path().join("tidegate");
    drop(std::fs::remove_file(&program));
    std::os::unix::fs::symlink(BINARY, &program).unwrap();
    program
}

#[tokio::test]
async fn one_that_cannot_serve_changes_nothing_and_is_told_why() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    let program = installed(&folder);
    let config = format!("upgrade: {{ ready_within: 4s }}\n{SOON}{}", pool_of(&[&backend]));
    let mut gateway = Gateway::start_program(&program, folder, &config, &[]).await;
    let (old, gate) = (gateway.pid(), Gate::closed());
    let stream = begun(&gateway, &backend, &gate).await;
    let script = |text: &str| {
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let mut refusals = 0.0;
    for (what, reasons) in [
        ("#!/bin/sh\nexit 3\n", ["has ended", "exit status: 3"]),
        ("#!/bin/sh\necho hello >&0\nsleep 60\n", ["what is no answer", "another program"]),
        ("#!/no/such/interpreter\n", ["cannot be started", "No such file"]),
        ("#!/bin/sh\nexec sleep 60\n", ["not ready within 4s", "it has said nothing"]),
    ] {
        script(what);
        let answer = gateway.upgrade().await;
        assert_eq!(answer.status, 409, "{what}: {answer:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(reasons.iter().all(|reason| detail.contains(reason)), "{what}: {detail}");
        refusals += 1.0;
        gateway.metric_is("tidegate_upgrades_total", &[("outcome", "refused")], refusals).await;
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    installed(&gateway.folder);
    for (file, reason) in [
        ("pools: { main: { balnce: round_robin, backends: [http://127.0.0.1:1] } }\n".to_owned(), "has 1 error"),
        (
            config.replace(backend.url(), &refused()).replace("health: off", "health: { every: 1s }"),
            "no pool has a backend that is up: main",
        ),
        (format!("listen: 127.0.0.1:{}\n{}", backend.address().port(), pool_of(&[&backend])), "already"),
    ] {
        gateway.rewrite(&file);
        let answer = gateway.upgrade().await;
        assert_eq!(answer.status, 409, "{file}: {answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(reason), "{reason}: {}", answer.text());
    }
    assert_eq!(gateway.pid(), old);
    gate.open();
    assert_eq!(rest(stream).await, whole());
    gateway.rewrite(&config);
    assert_eq!(gateway.upgrade().await.status, 200);
    gateway.metric_is("tidegate_upgrades_total", &[("outcome", "refused")], 7.0).await;
}

#[tokio::test]
async fn an_upgrade_brings_what_otherwise_waits_for_a_restart() {
    let backend = Backend::start().await;
    let config = format!("{SOON}{}", pool_of(&[&backend]));
    let mut gateway = Gateway::start(&config).await;
    let another = free_port();
    gateway.rewrite(&format!("listen: [127.0.0.1:$PORT, 127.0.0.1:{another}]\n{config}"));
    assert_eq!(gateway.upgrade().await.status, 200);
    let there = std::net::SocketAddr::from(([127, 0, 0, 1], another));
    assert_eq!(Connection::open(there).await.exchange(&Request::chat("m")).await.status, 200);
    gateway.rewrite(&config);
    assert!(gateway.ended(PATIENCE).await.success());
    assert_eq!(gateway.upgrade().await.status, 200);
    let until = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(there).await.is_ok() {
        assert!(Instant::now() < until, "nobody wants to listen there any more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn what_the_old_process_still_spends_is_known_to_the_new_one() {
    let backend = Backend::start().await;
    let limits = "filters:\n  - limits: [{ per: global, tokens: 1k/day }]\n";
    let config = format!("{SOON}storage: {{ path: $DIR/spent.db }}\n{}{limits}", pool_of(&[&backend]));
    let mut gateway = Gateway::start(&config).await;
    let gate = Gate::closed();
    let used = |total: u32| {
        format!(
            r#"data: {{"choices":[],"usage":{{"prompt_tokens":0,"completion_tokens":{total},"total_tokens":{total}}}}}"#
        ) + "\n\n"
    };
    backend.push(Script::stream().token("a").wait(&gate).chunk(finish()).chunk(used(700)).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    assert_eq!(gateway.upgrade().await.status, 200);
    backend.push(Script::stream().token("a").chunk(finish()).chunk(used(100)).done().end());
    assert_eq!(gateway.send(&Request::stream("m")).await.end, End::Whole);
    gate.open();
    assert!(rest(stream).await.ends_with("data: [DONE]\n\n"));
    let spent = async |gateway: &Gateway| {
        let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
        (bucket["left"] == 200).then_some(()).ok_or(bucket)
    };
    let until = Instant::now() + PATIENCE;
    while let Err(bucket) = spent(&gateway).await {
        assert!(Instant::now() < until, "{bucket}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gateway.ended(PATIENCE).await.success());
    // Counted once, also in what the next process reads.
    assert_eq!(gateway.upgrade().await.status, 200);
    assert_eq!(spent(&gateway).await, Ok(()));
}

#[tokio::test]
async fn what_operators_have_set_by_hand_stays_set() {
    let (first, second) = (Backend::start().await, Backend::start().await);
    let mut gateway = Gateway::start(&format!("{SOON}{}", pool_of(&[&first, &second]))).await;
    let name = first.url().strip_prefix("http://").unwrap();
    let ask = async |gateway: &Gateway, request: Request| {
        let request = request.header("Connection", "close");
        Connection::open(gateway.admin_address()).await.exchange(&request).await
    };
    assert_eq!(ask(&gateway, Request::post(&format!("/admin/backends/main/{name}/drain"), "")).await.status, 200);
    let louder = Request::new("PUT", "/admin/log").body(r#"{"level":"debug"}"#);
    assert_eq!(ask(&gateway, louder).await.status, 200);
    assert_eq!(gateway.upgrade().await.status, 200);
    for _ in 0..4 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((first.count(), second.count()), (0, 4));
    assert!(gateway.ended(PATIENCE).await.success());
    assert_eq!(gateway.admin("/admin/log").await.json()["level"], "debug");
}

#[tokio::test]
async fn sigterm_ends_an_old_process_that_only_waits() {
    let backend = Backend::start().await;
    let config = format!("limits: {{ head_timeout: 60s, keep_alive: 10m }}\n{}", pool_of(&[&backend]));
    let mut gateway = Gateway::start(&config).await;
    let old = gateway.pid();
    let mut idle = gateway.connect().await;
    assert_eq!(idle.exchange(&Request::get("/v1/models")).await.status, 200);
    assert_eq!(gateway.upgrade().await.status, 200);
    assert!(!gateway.has_ended());
    let sent = std::process::Command::new("kill").arg("-TERM").arg(old.to_string()).status().unwrap();
    assert!(sent.success());
    assert!(idle.closes_within(PATIENCE).await);
    assert!(gateway.ended(PATIENCE).await.success());
    assert!(lives(gateway.pid()));
}

#[tokio::test]
async fn the_command_upgrades_and_says_which_process_serves() {
    let backend = Backend::start().await;
    let config = format!("admin: {{ listen: 127.0.0.1:$ADMIN, token: secret-token }}\n{SOON}{}", pool_of(&[&backend]));
    let mut gateway = Gateway::start(&config).await;
    let file = gateway.folder.path().join("gateway.yaml").display().to_string();
    let ran = tokio::task::spawn_blocking({
        let file = file.clone();
        move || command(&["upgrade", "--config", &file])
    });
    let ran = ran.await.unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let pid = said.strip_prefix("process ").and_then(|said| said.split(' ').next()).unwrap().parse().unwrap();
    gateway.succeeded_by(pid);
    assert!(lives(pid));
    gateway.signal("TERM");
    let until = Instant::now() + PATIENCE;
    while lives(pid) {
        assert!(Instant::now() < until, "{}", gateway.log.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ran = tokio::task::spawn_blocking(move || command(&["upgrade", &file])).await.unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("does not answer"));
}

#[tokio::test]
async fn the_file_of_a_socket_goes_with_the_process() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    let path = folder.path().join("in.sock");
    // Left by one that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = "listen: [127.0.0.1:$PORT, \"unix:$DIR/in.sock\"]\n";
    let mut gateway = Gateway::start_in(folder, &format!("{listen}{}", pool_of(&[&backend])), &[]).await;
    assert_eq!(Connection::open_unix(&path).await.exchange(&Request::chat("m")).await.status, 200);
    gateway.signal("TERM");
    assert!(gateway.ended(PATIENCE).await.success());
    assert!(!path.exists());
}
