//! The cache's file: what is in it survives, what is half in it is not there, and it is forgotten when told to.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Script};
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Folder, Gateway, command, pool_of};
use serde_json::Value;

fn config(backend: &Backend, file: &Path, more: &str) -> String {
    let filter = format!("  - prompt_cache: {{ scope: global, file: {{ path: {}{more} }} }}\n", file.display());
    format!("filters:\n{filter}{}", pool_of(&[backend]))
}

fn hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.contains("; hit"))
}

fn request(n: usize, stream: bool) -> Request {
    let stream = if stream { r#","stream":true"# } else { "" };
    Request::post(
        "/v1/chat/completions",
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{n}"}}]{stream}}}"#),
    )
}

async fn admin(gateway: &Gateway, request: Request) -> Answer {
    Connection::open(gateway.admin_address()).await.exchange(&request.header("Connection", "close")).await
}

/// How many answers the file has, as the gateway says.
async fn kept(gateway: &Gateway) -> u64 {
    let said: Value = gateway.admin("/admin/cache").await.json();
    said["files"][0]["answers"].as_u64().unwrap()
}

async fn written(gateway: &Gateway, count: u64) {
    let until = Instant::now() + Duration::from_secs(5);
    while kept(gateway).await != count {
        assert!(Instant::now() < until, "{} in the file, not {count}", kept(gateway).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn answers_survive_a_restart_in_both_forms() {
    let backend = Backend::start().await;
    backend.push(Script::chat("kept")).push(Script::words(&["a", "b"], Duration::ZERO));
    let folder = Folder::new();
    let file = folder.path().join("cache.db");
    let gateway = Gateway::start(&config(&backend, &file, "")).await;
    let whole = gateway.send(&request(1, false)).await;
    gateway.send(&request(2, true)).await;
    written(&gateway, 2).await;
    drop(gateway);
    let gateway = Gateway::start(&config(&backend, &file, "")).await;
    let again = gateway.send(&request(1, false)).await;
    assert!(hit(&again), "{:?}", again.head);
    assert_eq!(again.json()["choices"], whole.json()["choices"]);
    let streamed = gateway.send(&request(1, true)).await;
    assert!(hit(&streamed) && streamed.text().ends_with("data: [DONE]\n\n"));
    let streamed = gateway.send(&request(2, true)).await;
    assert!(hit(&streamed) && streamed.text().contains("\"b\"") && streamed.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(backend.count(), 2);
}

#[test]
fn a_file_that_is_no_store_of_ours_is_a_fault_that_a_check_finds() {
    let folder = Folder::new();
    let check = |file: &str| {
        let filter = format!("filters:\n  - prompt_cache: {{ scope: global, file: {{ path: {file} }} }}\n");
        let config =
            folder.write("gateway.yaml", &format!("pools: {{ a: {{ backends: ['http://127.0.0.1:1'] }} }}\n{filter}"));
        let output = command(&["check", &config.display().to_string(), "--format", "json"]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (fine, said) = check("new.db");
    assert!(fine && !folder.path().join("new.db").exists(), "{said}");
    folder.write("notes.txt", &"this is no database, however often it is read\n".repeat(50));
    for wrong in ["notes.txt", "nowhere/answers.db"] {
        let (fine, said) = check(wrong);
        assert!(!fine && said.contains("file.path"), "{wrong}: {said}");
    }
}

#[tokio::test]
async fn killed_in_the_middle_of_filling_nothing_half_is_ever_served() {
    let backend = Backend::start().await;
    let long = "x".repeat(300_000);
    backend.handle(move |seen| {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        let n = body["messages"][0]["content"].as_str().unwrap().to_owned();
        Script::chat(&format!("{n}:{long}:{n}"))
    });
    let folder = Folder::new();
    let file = folder.path().join("cache.db");
    let (mut hits, mut checked) = (0, 0);
    for round in 0..6 {
        let gateway = Gateway::start(&config(&backend, &file, "")).await;
        // What is there from before is whole.
        for n in 0..round * 20 {
            let answer = gateway.send(&request(n, false)).await;
            let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
            assert!(said.starts_with(&format!("{n}:")) && said.ends_with(&format!(":{n}")) && said.len() > 300_000);
            hits += usize::from(hit(&answer));
            checked += 1;
        }
        let mut filling = Vec::new();
        for n in round * 20..(round + 1) * 20 {
            let mut connection = gateway.connect().await;
            connection.send(request(n, false).bytes()).await;
            filling.push(connection);
        }
        tokio::time::sleep(Duration::from_millis(7 * (1 + round as u64 * 3))).await;
        gateway.signal("KILL");
        drop(filling);
    }
    assert!(hits > 0, "none of {checked} answers came from the file");
}

#[tokio::test]
async fn a_row_that_is_not_what_was_written_is_no_answer() {
    let backend = Backend::start().await;
    backend.always(Script::chat("right"));
    let folder = Folder::new();
    let file = folder.path().join("cache.db");
    let gateway = Gateway::start(&config(&backend, &file, "")).await;
    gateway.send(&request(1, false)).await;
    written(&gateway, 1).await;
    drop(gateway);
    {
        let connection = rusqlite::Connection::open(&file).unwrap();
        let bytes: Vec<u8> = connection.query_row("SELECT bytes FROM answers", [], |row| row.get(0)).unwrap();
        let mut wrong = bytes.clone();
        let at = wrong.windows(5).position(|window| window == b"right").unwrap();
        wrong[at..at + 5].copy_from_slice(b"wrong");
        connection.execute("UPDATE answers SET bytes = ?1", [wrong]).unwrap();
    }
    let gateway = Gateway::start(&config(&backend, &file, "")).await;
    let answer = gateway.send(&request(1, false)).await;
    assert!(!hit(&answer) && answer.text().contains("right"));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn the_file_stays_within_its_size_and_is_forgotten_by_tenant_model_age_and_key() {
    let backend = Backend::start().await;
    backend.always(Script::chat(&"x".repeat(60_000)));
    let folder = Folder::new();
    let file = folder.path().join("cache.db");
    let small = config(&backend, &file, ", size: 4MiB");
    let gateway = Gateway::start(&small).await;
    for n in 0..160 {
        gateway.send(&request(n, false)).await;
    }
    let until = Instant::now() + Duration::from_secs(5);
    let mut bytes = u64::MAX;
    while Instant::now() < until && bytes > 4 << 20 {
        bytes = gateway.admin("/admin/cache").await.json()["files"][0]["bytes"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bytes <= 4 << 20, "{bytes}");
    assert!(std::fs::metadata(&file).unwrap().len() < 12 << 20);
    let purge = |body: &str| admin(&gateway, Request::post("/admin/cache/purge", body.to_owned()));
    for nothing in [
        r#"{"tenant":"org/x"}"#,
        r#"{"model":"other"}"#,
        r#"{"older_than":"1h"}"#,
        &format!(r#"{{"key":"{}"}}"#, "0".repeat(64)),
    ] {
        let answer = purge(nothing).await;
        assert_eq!(
            (answer.status, &answer.json()["memory"], &answer.json()["files"]),
            (200, &0.into(), &0.into()),
            "{nothing}"
        );
    }
    for bad in ["", "{}", r#"{"key":"x"}"#, r#"{"older_than":"soon"}"#, r#"{"everything":true}"#] {
        let answer = purge(bad).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")), "{bad}");
    }
    assert!(hit(&gateway.send(&request(159, false)).await));
    let answer = purge(r#"{"tenant":"everybody","model":"*"}"#).await;
    assert!(
        answer.json()["memory"].as_u64() > Some(100) && answer.json()["files"].as_u64() > Some(10),
        "{}",
        answer.text()
    );
    assert!(!hit(&gateway.send(&request(159, false)).await));
    let all = admin(&gateway, Request::new("DELETE", "/admin/cache")).await;
    assert_eq!((all.status, all.json()["memory"].as_u64()), (200, Some(1)));
    assert!(!hit(&gateway.send(&request(159, false)).await));
}
