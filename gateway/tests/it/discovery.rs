//! Backends that come and go: from a file, from a name, and without cutting anybody off.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script};
use crate::client::{End, Request};
use crate::gateway::{Folder, Gateway, command, free_port};
use crate::name_server::{NameServer, Record};

const POOL: &str = "pools:\n  main:\n    health: off\n    discover: { file: backends.yaml, every: 50ms }\n";

async fn from_file(list: &str) -> Gateway {
    let folder = Folder::new();
    folder.write("backends.yaml", list);
    Gateway::start_in(folder, POOL, &[]).await
}

/// Puts another list in place, at once and whole.
fn replace(gateway: &Gateway, list: &str) {
    let new = gateway.folder.write("backends.new", list);
    std::fs::rename(new, gateway.folder.path().join("backends.yaml")).unwrap();
}

async fn backends_are(gateway: &Gateway, wanted: &[(&Backend, &str)]) {
    let mut wanted: Vec<_> =
        wanted.iter().map(|(one, state)| (one.address().to_string(), (*state).to_owned())).collect();
    wanted.sort();
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        let known = gateway.admin("/admin/backends").await.json()["main"]["backends"].clone();
        let state = |one: &serde_json::Value| one["state"].as_str().unwrap_or_default().to_owned();
        let known: Vec<_> = known.as_object().unwrap().iter().map(|(name, one)| (name.clone(), state(one))).collect();
        if known == wanted {
            return;
        }
        assert!(Instant::now() < until, "{known:?} is not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn backends_come_with_the_file_and_go_with_it() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = from_file(&format!("- {}\n", a.url())).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    replace(&gateway, &format!("- {}\n- {{ url: {}, key: sk-b, weight: 2 }}\n", a.url(), b.url()));
    backends_are(&gateway, &[(&a, "up"), (&b, "up")]).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (3, 4));
    assert_eq!(b.seen(0).await.header("authorization"), Some("Bearer sk-b"));
    replace(&gateway, &format!("[\"{}\"]", b.url()));
    backends_are(&gateway, &[(&b, "up")]).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((a.count(), b.count()), (3, 5));
    let metrics = gateway.metrics().await;
    assert!(
        !metrics.text().contains(&format!("backend=\"{}\"", a.address())),
        "{}",
        metrics.with("tidegate_backend_up")
    );
}

#[tokio::test]
async fn one_that_is_gone_ends_the_streams_it_has() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = from_file(&format!("- {}\n", a.url())).await;
    let gate = Gate::closed();
    a.push(Script::stream().token("a").wait(&gate).token("b").chunk(crate::backend::finish()).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    let first = stream.piece_after_head().await;
    replace(&gateway, &format!("- {}\n", b.url()));
    backends_are(&gateway, &[(&a, "leaving"), (&b, "up")]).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((a.count(), b.count()), (1, 1));
    gate.open();
    let mut rest = Vec::new();
    while let Some(piece) = stream.piece().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    let text = [&first[..], &rest].concat();
    assert!(String::from_utf8_lossy(&text).ends_with("data: [DONE]\n\n"));
    backends_are(&gateway, &[(&b, "up")]).await;
}

#[tokio::test]
async fn a_list_that_is_no_list_changes_nothing() {
    let a = Backend::start().await;
    let gateway = from_file(&format!("- {}\n", a.url())).await;
    for bad in ["", "[]", "- nonsense\n", "{ a: b }\n", "- { url: http://127.0.0.1:1, weigth: 3 }\n"] {
        replace(&gateway, bad);
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200, "{bad:?}");
    }
    std::fs::remove_file(gateway.folder.path().join("backends.yaml")).unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert!(gateway.log.text().contains("backends cannot be discovered"), "{}", gateway.log.text());
}

#[tokio::test]
async fn the_addresses_of_a_name_are_backends_with_the_names_host() {
    let backend = Backend::start().await;
    let port = backend.address().port();
    let config = format!(
        "pools:\n  main:\n    health: off\n    retries: 3\n    discover:\n      dns: {{ url: \"http://localhost:{port}/base\", key: sk-x, max_in_flight: auto }}\n      every: 50ms\n"
    );
    let gateway = Gateway::start(&config).await;
    let until = Instant::now() + Duration::from_secs(3);
    while gateway.admin("/readyz").await.status != 200 {
        assert!(Instant::now() < until, "nothing was found");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!((answer.status, answer.end), (200, End::Whole));
    let seen = backend.only().await;
    assert_eq!(seen.target, "/base/v1/chat/completions");
    assert_eq!(seen.header("host"), Some(&*format!("localhost:{port}")));
    assert_eq!(seen.header("authorization"), Some("Bearer sk-x"));
    let name = format!("127.0.0.1:{port}");
    let about = gateway.admin("/admin/backends").await.json()["main"]["backends"][&name].clone();
    assert_eq!(about["max_in_flight"], 16, "{about}");
}

const HERE: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;
const SERVICE: &str = "_llm._tcp.engines.test";

fn srv(ttl: u32, priority: u16, weight: u16, backend: &Backend) -> Record {
    Record::Srv(ttl, priority, weight, backend.address().port(), "host.test")
}

async fn with_service(server: &NameServer, more: &str) -> Gateway {
    let found = format!("{{ srv: \"http://{SERVICE}/base\", server: \"{}\", every: 50ms }}", server.address());
    Gateway::start(&format!("pools:\n  main:\n    retries: 3\n    discover: {found}\n{more}")).await
}

#[tokio::test]
async fn the_records_of_a_service_say_where_its_servers_are_and_how_much_each_takes() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let server = NameServer::start().await;
    server.says("host.test", &[Record::A(0, HERE)]);
    server.says(SERVICE, &[srv(0, 10, 3, &a), srv(0, 10, 1, &b)]);
    let gateway = with_service(&server, "    health: off\n").await;
    backends_are(&gateway, &[(&a, "up"), (&b, "up")]).await;
    for _ in 0..8 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (6, 2), "by weight");
    let seen = a.seen(0).await;
    assert_eq!(seen.target, "/base/v1/chat/completions");
    assert_eq!(seen.header("host"), Some(&*format!("host.test:{}", a.address().port())));
    server.says(SERVICE, &[srv(0, 10, 0, &b)]);
    backends_are(&gateway, &[(&b, "up")]).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((a.count(), b.count()), (6, 3));
}

#[tokio::test]
async fn a_name_server_that_fails_or_names_nobody_takes_nothing_away() {
    let a = Backend::start().await;
    let server = NameServer::start().await;
    server.says("host.test", &[Record::A(0, HERE)]);
    server.says(SERVICE, &[srv(0, 0, 0, &a)]);
    let gateway = with_service(&server, "    health: off\n").await;
    backends_are(&gateway, &[(&a, "up")]).await;
    for trouble in ["fails", "names nobody", "does not know the host"] {
        server.fails(trouble == "fails");
        server.says(SERVICE, if trouble == "names nobody" { &[] } else { &[Record::Srv(0, 0, 0, 1, "other.test")] });
        gateway.log.line(|line| line["message"] == "backends cannot be discovered; those that are known stay").await;
        let asked = server.asked_for_service(SERVICE);
        let until = Instant::now() + Duration::from_secs(10);
        while server.asked_for_service(SERVICE) < asked + 2 {
            assert!(Instant::now() < until, "{trouble}: it is not asked again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        backends_are(&gateway, &[(&a, "up")]).await;
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200, "{trouble}");
    }
    let b = Backend::start().await;
    server.says(SERVICE, &[srv(0, 0, 0, &b)]);
    backends_are(&gateway, &[(&b, "up")]).await;
    gateway.log.line(|line| line["message"] == "backends are discovered again").await;
}

#[tokio::test]
async fn an_answer_is_asked_for_again_when_it_is_not_good_any_more() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let server = NameServer::start().await;
    server.says("host.test", &[Record::A(60, HERE)]);
    server.says(SERVICE, &[srv(2, 0, 0, &a)]);
    let began = Instant::now();
    let gateway = with_service(&server, "    health: off\n").await;
    backends_are(&gateway, &[(&a, "up")]).await;
    server.says(SERVICE, &[srv(2, 0, 0, &b)]);
    backends_are(&gateway, &[(&b, "up")]).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}: it was good for two seconds");
    let asked = server.asked_for_service(SERVICE) as u64;
    assert!(asked <= 1 + took.as_secs() / 2, "asked {asked} times within {took:?}");
}

#[tokio::test]
async fn those_of_a_higher_priority_number_are_for_when_the_others_are_down() {
    let (port, spare) = (free_port(), Backend::start().await);
    let server = NameServer::start().await;
    server.says("host.test", &[Record::A(60, HERE)]);
    server.says(SERVICE, &[Record::Srv(60, 1, 0, port, "host.test"), srv(60, 2, 0, &spare)]);
    let health = "    health: { every: 50ms, down_after: 1 }\n    breaker: { slow_start: 0s }\n";
    let gateway = with_service(&server, health).await;
    let until = Instant::now() + Duration::from_secs(10);
    // Nobody listens there: the next are taken in, and answer.
    while gateway.send(&Request::chat("m")).await.status != 200 {
        assert!(Instant::now() < until, "the others are not asked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(spare.count() > 0);
    let main = Backend::on(tokio::net::TcpListener::bind((HERE, port)).await.unwrap());
    backends_are(&gateway, &[(&main, "up")]).await;
    let before = spare.count();
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((main.count(), spare.count()), (1, before));
}

#[test]
fn a_bad_list_is_refused_at_the_start_with_its_place() {
    let folder = Folder::new();
    folder.write("backends.yaml", "- http://127.0.0.1:1\n- { url: http://127.0.0.1:2, weigth: 3 }\n");
    let file = folder.write("gateway.yaml", POOL).display().to_string();
    let output = command(&["check", "--format", "json", &file]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"path\": \"pools.main.discover.file\"") && said.contains("weigth"), "{said}");
    assert!(said.contains("backends.yaml:2"), "the line in the list: {said}");
    std::fs::remove_file(folder.path().join("backends.yaml")).unwrap();
    let said = command(&["check", "--format", "json", &file]).stdout;
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    let faults = said["errors"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "told once: {said}");
    assert!(faults[0]["message"].as_str().unwrap().starts_with("cannot read"), "{said}");
}
