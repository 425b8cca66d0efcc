//! Requests for the same thing at the same time: one of them asks the backend, all of them get the answer.

mod failing;
mod outlive;
mod paces;
mod settle;

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script, finish, token};
use crate::client::{Answer, Connection, End, Request};
use crate::gateway::{Gateway, Key, pool_of};

/// With the filter, for everybody.
async fn sharing(backend: &Backend, settings: &str) -> Gateway {
    let filter = format!("filters:\n  - shared_flight: {{ scope: global{settings} }}\n");
    // What a backend says is told as it is: retries have tests of their own.
    let pool = pool_of(&[backend]).replace("health: off", "health: off\n    retries: 0");
    Gateway::start(&(filter + &pool)).await
}

/// The end of a stream whose client asked for its usage: the reason, the usage, the mark.
fn last(script: Script) -> Script {
    let usage = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
                 \"model\":\"tiny-random\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n";
    script.chunk(finish()).chunk(usage).done().end()
}

fn with_usage(request: Request) -> Request {
    request.body(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}"#)
}

fn plain(stream: bool) -> Request {
    let stream = if stream { r#","stream":true"# } else { "" };
    Request::post(
        "/v1/chat/completions",
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{stream}}}"#),
    )
}

/// Waits until so many requests, those that lead included, are where they share an answer.
async fn joined(gateway: &Gateway, count: usize) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = gateway.metrics().await;
        let of = |outcome| metrics.sum("tidegate_flight_requests_total", &[("outcome", outcome)]);
        let there = of("led") + of("followed") + metrics.sum("tidegate_flight_waiting", &[]);
        if there >= count as f64 {
            return;
        }
        assert!(Instant::now() < until, "not all requests have come: {there} of {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(gateway: &Gateway, request: &Request) -> tokio::task::JoinHandle<Answer> {
    let mut connection = gateway.connect().await;
    connection.send(request.bytes()).await;
    tokio::spawn(async move { connection.answer().await })
}

/// Bytes of memory that a process holds.
pub(crate) fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_in_all_forms_are_one_call_and_one_answer() {
    let backend = Backend::start().await;
    // A copy of the answer for each would be a quarter of a gigabyte.
    let word = "tide".repeat(500);
    let (first, rest) = (Gate::closed(), Gate::closed());
    let mut script = Script::stream().wait(&first).token("a").wait(&rest);
    for _ in 0..128 {
        script = script.token(&word);
    }
    backend.push(last(script));
    let gateway = sharing(&backend, "").await;
    let mut asked = vec![ask(&gateway, &plain(true)).await];
    backend.seen(0).await;
    for n in 1..1000 {
        let request = match n % 3 {
            0 => plain(false),
            1 => plain(true),
            _ => with_usage(plain(true)),
        };
        asked.push(ask(&gateway, &request).await);
    }
    joined(&gateway, 1000).await;
    first.open();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = resident(gateway.pid());
    rest.open();
    let mut most = 0;
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
        most = most.max(resident(gateway.pid()));
    }
    assert_eq!(backend.count(), 1, "one call");
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.end),
            (200, End::Whole),
            "{n}: {}",
            String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)])
        );
        let same = &answers[match n % 3 {
            0 if n > 0 => 3,
            0 => 1,
            rest => rest,
        }];
        assert!(answer.body == same.body, "{n} differs");
    }
    assert_eq!(answers[3].json()["choices"][0]["message"]["content"].as_str().unwrap().len(), 1 + 128 * word.len());
    assert_eq!(answers[3].json()["usage"]["completion_tokens"], 2);
    assert!(
        answers[2].text().contains("\"usage\":{\"prompt_tokens\":3") && !answers[1].text().contains("prompt_tokens")
    );
    let grown = most.saturating_sub(before) >> 20;
    // Sockets have buffers of their own and whole answers are put together for each that wants one.
    let length = answers[1].body.len() >> 10;
    assert!(grown < 64, "{length} KiB for 1000 clients: {} MiB before, {grown} MiB more", before >> 20);
    gateway.metric_is("tidegate_flight_requests_total", &[("outcome", "followed")], 999.0).await;
    gateway.metric_is("tidegate_flight_requests_total", &[("outcome", "led")], 1.0).await;
}

#[tokio::test]
async fn whole_and_streamed_make_each_other() {
    for leads_streamed in [false, true] {
        let backend = Backend::start().await;
        let gate = Gate::closed();
        backend.push(match leads_streamed {
            true => last(Script::stream().token("one ").wait(&gate).token("two")),
            false => Script::new().wait(&gate).send(whole_bytes("one two")),
        });
        let gateway = sharing(&backend, "").await;
        let leader = ask(&gateway, &plain(leads_streamed)).await;
        backend.seen(0).await;
        let other = ask(&gateway, &plain(!leads_streamed).header("x-request-id", "other")).await;
        joined(&gateway, 2).await;
        gate.open();
        let (leader, other) = (leader.await.unwrap(), other.await.unwrap());
        assert_eq!((leader.status, other.status, backend.count()), (200, 200, 1));
        let (streamed, whole) = if leads_streamed { (leader, other) } else { (other, leader) };
        assert_eq!(whole.json()["choices"][0]["message"]["content"], "one two");
        assert_eq!(
            (streamed.header("content-type"), whole.header("content-type")),
            (Some("text/event-stream"), Some("application/json"))
        );
        let said: String = streamed
            .text()
            .split("\n\n")
            .filter_map(|event| serde_json::from_str::<serde_json::Value>(event.strip_prefix("data: ")?).ok())
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(said, "one two");
        assert!(streamed.text().ends_with("data: [DONE]\n\n"));
        let line = gateway.log.request("other").await;
        assert_eq!(
            (line["served_by"].as_str(), line["attempts"].as_u64(), line.get("backend")),
            (Some("flight"), Some(0), None),
            "{line}"
        );
        assert_eq!((line["cause"].as_str(), line["pool"].as_str()), (Some("none"), Some("main")), "{line}");
    }
}

fn whole_bytes(text: &str) -> String {
    let body = crate::backend::chat(text);
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_answer_goes_on_while_anybody_wants_it_and_no_longer() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(last(Script::stream().token("a").wait(&gate).token("b")));
    backend.push(Script::stream().token("a").hang());
    let gateway = sharing(&backend, "").await;
    let mut leader = gateway.connect().await;
    leader.send(plain(true).header("x-request-id", "leader").bytes()).await;
    leader.piece_after_head().await;
    let follower = ask(&gateway, &plain(true)).await;
    joined(&gateway, 2).await;
    drop(leader);
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    let answer = follower.await.unwrap();
    assert!(answer.text().contains("\"b\"") && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    let line = gateway.log.request("leader").await;
    assert_eq!(
        (line["status"].as_u64(), line["cause"].as_str(), line["completion_tokens"].as_u64()),
        (Some(499), Some("client_gone"), Some(2)),
        "{line}"
    );
    // Nobody is left: the backend is let go.
    let mut leader = gateway.connect().await;
    leader.send(plain(true).bytes()).await;
    leader.piece_after_head().await;
    let mut follower = gateway.connect().await;
    follower.send(plain(true).bytes()).await;
    follower.piece_after_head().await;
    drop(leader);
    let seen = backend.seen(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!seen.is_gone());
    drop(follower);
    let left = Instant::now();
    seen.gone().await;
    assert!(left.elapsed() < Duration::from_secs(5));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn with_finish_it_goes_on_although_nobody_wants_it() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(last(Script::stream().token("a").wait(&gate).token("b")));
    let gateway = sharing(&backend, ", finish: true").await;
    let mut leader = gateway.connect().await;
    leader.send(plain(true).bytes()).await;
    leader.piece_after_head().await;
    drop(leader);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = ask(&gateway, &plain(true)).await;
    joined(&gateway, 2).await;
    gate.open();
    assert!(late.await.unwrap().text().ends_with("data: [DONE]\n\n"));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn two_organisations_and_those_who_want_their_own_are_not_joined() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.always(last(Script::stream().wait(&gate).token("a")));
    let keys = [Key::new("one"), Key::new("two"), Key::new("three")];
    let entry = |key: &Key, org: &str| {
        format!("        - {{ id: {org}-{}, org: {org}, hash: \"{}\" }}\n", &key.hash[..8].replace(':', "-"), key.hash)
    };
    let config = format!(
        "filters:\n  - api_key:\n      keys:\n{}{}{}  - shared_flight: {{}}\n{}",
        entry(&keys[0], "a"),
        entry(&keys[1], "b"),
        entry(&keys[2], "a"),
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    let mut asked = Vec::new();
    for key in &keys {
        asked.push(ask(&gateway, &plain(true).bearer(&key.key)).await);
    }
    asked.push(ask(&gateway, &plain(true).bearer(&keys[0].key).header("Cache-Control", "no-store")).await);
    joined(&gateway, 3).await;
    backend.seen(2).await;
    gate.open();
    for asked in asked {
        assert_eq!(asked.await.unwrap().status, 200);
    }
    assert_eq!(backend.count(), 3, "a and c share, b has its own, no-store too");
}
