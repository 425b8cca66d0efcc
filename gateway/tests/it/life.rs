//! A process's life: signals, drains, reloads, and a port that is taken.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script, finish, token};
use crate::client::{End, H2Connection, Request};
use crate::gateway::{Gateway, command, pool_of};

async fn refuses(gateway: &Gateway) -> bool {
    tokio::net::TcpStream::connect(gateway.address()).await.is_err()
}

/// Waits until `condition` holds, for at most a second.
async fn soon<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let until = Instant::now() + Duration::from_secs(1);
    while !condition().await {
        assert!(Instant::now() < until, "not within a second: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_stops_accepting_lets_streams_finish_and_ends_at_once_after_them() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&format!("{}drain: {{ time: 30s }}\n", pool_of(&[&backend]))).await;
    let gate = Gate::closed();
    backend.push(Script::stream().token("a").wait(&gate).token("b").chunk(finish()).done().end());
    let mut idle = gateway.connect().await;
    assert_eq!(idle.exchange(&Request::get("/v1/models")).await.status, 200);
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    assert_eq!(stream.piece_after_head().await, token("a"));
    gateway.signal("TERM");
    soon("readyz says 503", || async { gateway.admin("/readyz").await.status == 503 }).await;
    soon("new connections are refused", || refuses(&gateway)).await;
    assert!(idle.closes_within(Duration::from_secs(1)).await, "idle connections go");
    assert_eq!(gateway.admin("/livez").await.status, 200);
    assert_eq!(gateway.metrics().await.sum("tidegate_draining", &[]), 1.0);
    assert!(!gateway.has_ended());
    gate.open();
    let mut rest = Vec::new();
    while let Some(piece) = stream.piece().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8(rest).unwrap(), format!("{}{}data: [DONE]\n\n", token("b"), finish()));
    let status = gateway.ended(Duration::from_secs(1)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn without_open_requests_sigterm_ends_the_process_at_once() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&format!("{}drain: {{ time: 30s }}\n", pool_of(&[&backend]))).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway.signal("TERM");
    assert!(gateway.ended(Duration::from_secs(1)).await.success());
}

#[tokio::test]
async fn what_is_still_open_when_the_drain_time_is_over_ends_with_an_error() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&format!("{}drain: {{ time: 500ms }}\n", pool_of(&[&backend]))).await;
    backend.push(Script::stream().token("a").hang());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    let start = Instant::now();
    gateway.signal("TERM");
    let mut rest = String::new();
    while let Ok(Some(piece)) = stream.piece().await {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(rest.contains("\"error\"") && !rest.contains("[DONE]"), "{rest:?}");
    gateway.ended(Duration::from_secs(2)).await;
    let took = start.elapsed();
    assert!(took > Duration::from_millis(450) && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_drain_delay_keeps_accepting_while_not_ready() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&format!("{}drain: {{ delay: 600ms, time: 5s }}\n", pool_of(&[&backend]))).await;
    let start = Instant::now();
    gateway.signal("TERM");
    soon("readyz says 503", || async { gateway.admin("/readyz").await.status == 503 }).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200, "still serving before the load balancer knows");
    gateway.ended(Duration::from_secs(3)).await;
    assert!(start.elapsed() > Duration::from_millis(550));
}

#[tokio::test]
async fn an_http2_client_is_told_to_go_and_its_streams_finish() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&format!("{}drain: {{ time: 30s }}\n", pool_of(&[&backend]))).await;
    let gate = Gate::closed();
    backend.push(Script::stream().token("a").wait(&gate).chunk(finish()).done().end());
    let h2 = H2Connection::open(gateway.address()).await;
    let request = Request::stream("m");
    let opened = gate.clone();
    let (answer, ()) = tokio::join!(h2.exchange(&request), async {
        backend.seen(0).await;
        gateway.signal("TERM");
        tokio::time::sleep(Duration::from_millis(200)).await;
        opened.open();
    });
    assert_eq!(answer.end, End::Whole);
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert!(gateway.ended(Duration::from_secs(2)).await.success());
}

#[tokio::test]
async fn sighup_swaps_the_configuration_and_leaves_open_requests_alone() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::before(&old).await;
    let gate = Gate::closed();
    old.push(Script::stream().token("a").wait(&gate).chunk(finish()).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    gateway.rewrite(&pool_of(&[&new]));
    gateway.signal("HUP");
    let before = old.count();
    soon("requests go to the new backend", || async {
        gateway.send(&Request::chat("m")).await;
        new.count() > 0
    })
    .await;
    let after = old.count();
    assert!(after - before < 100);
    gateway.send(&Request::chat("m")).await;
    assert_eq!(old.count(), after);
    gate.open();
    let mut rest = String::new();
    while let Some(piece) = stream.piece().await.unwrap() {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(rest.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn sighup_with_a_bad_file_keeps_the_old_configuration_and_says_why() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    gateway.rewrite("pools: { main: { balnce: round_robin, backends: [http://127.0.0.1:1] } }\n");
    gateway.signal("HUP");
    gateway.log.line(|line| line.to_string().contains("balnce")).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(gateway.metrics().await.sum("tidegate_config_last_reload_successful", &[]), 0.0);
    gateway.rewrite(&pool_of(&[&backend]));
    gateway.signal("HUP");
    soon("a good file counts again", || async {
        gateway.metrics().await.sum("tidegate_config_last_reload_successful", &[]) == 1.0
    })
    .await;
}

#[tokio::test]
async fn reloads_under_load_lose_nothing() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let request = Request::chat("m");
    let load = async {
        let mut connection = gateway.connect().await;
        for _ in 0..300 {
            assert_eq!(connection.exchange(&request).await.status, 200);
        }
    };
    let reloads = async {
        for _ in 0..10 {
            gateway.rewrite(&pool_of(&[&backend]));
            gateway.signal("HUP");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(load, reloads);
    assert_eq!(backend.count(), 300);
}

#[tokio::test]
async fn a_second_start_on_the_same_port_says_so_in_one_line() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let file = gateway.folder.path().join("gateway.yaml");
    let output = command(&["run", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{said}");
    let ports = [gateway.port, gateway.admin_port].map(|port| format!(":{port}"));
    assert!(lines[0].contains("listen") && ports.iter().any(|port| lines[0].contains(port)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200, "the first one lives on");
}

#[tokio::test]
async fn a_bad_file_refuses_to_start_with_its_line() {
    let folder = crate::gateway::Folder::new();
    let file = folder.write(
        "bad.yaml",
        "listen: 127.0.0.1:0\npools:\n  main:\n    backends: [http://127.0.0.1:1]\n    balance: roundrobin\n",
    );
    let output = command(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bad.yaml:5") && said.contains("round_robin"), "{said}");
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_grants() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_with_files(512, 4096, &pool_of(&[&backend])).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4096", "4096"], "{files}");
}
