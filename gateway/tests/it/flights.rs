//! Requests for the same thing at the same time: one of them asks the backend, all of them get the answer.

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

/// Waits until so many requests of this kind have been counted.
async fn followers(gateway: &Gateway, count: usize) {
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.metrics().await.sum("tidegate_requests_in_flight", &[]) < count as f64 {
        assert!(Instant::now() < until, "not all requests have come");
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
    followers(&gateway, 1000).await;
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
        followers(&gateway, 2).await;
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
async fn a_late_request_gets_what_has_come_and_then_each_event_as_it_comes() {
    let backend = Backend::start().await;
    let (second, third) = (Gate::closed(), Gate::closed());
    backend.push(last(Script::stream().token("a").wait(&second).token("b").wait(&third).token("c")));
    let gateway = sharing(&backend, "").await;
    let mut leader = gateway.connect().await;
    leader.send(plain(true).bytes()).await;
    assert_eq!(leader.piece_after_head().await, token("a"));
    let mut late = gateway.connect().await;
    late.send(plain(true).bytes()).await;
    assert_eq!(late.piece_after_head().await, token("a"));
    second.open();
    assert_eq!(late.piece().await.unwrap().unwrap(), token("b"));
    third.open();
    let mut rest = Vec::new();
    while let Some(piece) = late.piece().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    assert!(String::from_utf8(rest).unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(backend.count(), 1);
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
    followers(&gateway, 2).await;
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
    assert!(left.elapsed() < Duration::from_millis(200));
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
    followers(&gateway, 2).await;
    gate.open();
    assert!(late.await.unwrap().text().ends_with("data: [DONE]\n\n"));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn one_of_those_who_wait_takes_over_from_a_backend_that_fails_before_it_answers() {
    let backend = Backend::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    backend.push(Script::new().wait(&first).reset());
    backend.push(last(Script::stream().wait(&second).token("a")));
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(ask(&gateway, &plain(true)).await);
    }
    followers(&gateway, 21).await;
    first.open();
    backend.seen(1).await;
    second.open();
    assert_eq!(leader.await.unwrap().status, 502);
    for other in others {
        let answer = other.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(backend.count(), 2, "one took over");
    gateway.metric_is("tidegate_flight_requests_total", &[("outcome", "took_over")], 1.0).await;
}

#[tokio::test]
async fn a_backend_that_keeps_failing_is_asked_once_more_and_all_are_told() {
    for poor in [false, true] {
        let backend = Backend::start().await;
        let gates = [Gate::closed(), Gate::closed()];
        for gate in &gates {
            let failing = Script::new().wait(gate);
            backend.push(match poor {
                true => failing.send("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"),
                false => failing.reset(),
            });
        }
        let gateway = sharing(&backend, "").await;
        let leader = ask(&gateway, &plain(true)).await;
        backend.seen(0).await;
        let mut others = Vec::new();
        for n in 0..10 {
            others.push(ask(&gateway, &plain(n % 2 == 0)).await);
        }
        followers(&gateway, 11).await;
        gates[0].open();
        backend.seen(1).await;
        gates[1].open();
        let status = if poor { 429 } else { 502 };
        leader.await.unwrap().openai_error(status);
        for other in others {
            other.await.unwrap().openai_error(status);
        }
        assert_eq!(backend.count(), 2);
    }
}

#[tokio::test]
async fn what_breaks_off_breaks_off_for_all_with_the_same_word() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(Script::stream().token("a").wait(&gate).reset());
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let (streamed, whole) = (ask(&gateway, &plain(true)).await, ask(&gateway, &plain(false)).await);
    followers(&gateway, 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    let (leader, streamed, whole) = (leader.await.unwrap(), streamed.await.unwrap(), whole.await.unwrap());
    assert_eq!(leader.text(), streamed.text());
    assert!(leader.text().contains("upstream_error") && !leader.text().contains("[DONE]"));
    assert_eq!(whole.openai_error(502)["code"], "upstream_error");
    assert_eq!(backend.count(), 1);
}

/// Reads nothing, with a small window.
async fn lazy(gateway: &Gateway) -> Connection {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    Connection::over(socket.connect(gateway.address()).await.unwrap())
}

#[tokio::test]
async fn whoever_is_slow_slows_nobody_leader_or_follower() {
    for leader_is_slow in [false, true] {
        let backend = Backend::start().await;
        let word = "x".repeat(8000);
        let gate = Gate::closed();
        let mut script = Script::stream().token("a").wait(&gate);
        for _ in 0..400 {
            script = script.token(&word);
        }
        backend.push(last(script));
        let gateway = sharing(&backend, "").await;
        let (mut slow, mut quick) = (lazy(&gateway).await, gateway.connect().await);
        let (first, second) = if leader_is_slow { (&mut slow, &mut quick) } else { (&mut quick, &mut slow) };
        first.send(plain(true).bytes()).await;
        first.piece_after_head().await;
        second.send(plain(true).bytes()).await;
        second.piece_after_head().await;
        let began = Instant::now();
        gate.open();
        let mut length = 0;
        while let Some(piece) = quick.piece().await.unwrap() {
            length += piece.len();
        }
        assert!(length > 3 << 20, "{length}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // The slow one has lost nothing.
        let mut rest = 0;
        while let Some(piece) = slow.piece().await.unwrap() {
            rest += piece.len();
        }
        assert_eq!(rest, length);
        assert_eq!(backend.count(), 1);
    }
}

#[tokio::test]
async fn whoever_falls_behind_an_endless_answer_is_told_and_holds_no_more_than_its_bound() {
    let backend = Backend::start().await;
    let event = crate::wire::chunk(token(&"x".repeat(16_000)).as_bytes());
    backend.push(Script::stream().repeat(event, Duration::from_micros(200)));
    backend.push(last(Script::stream().token("mine")));
    let gateway = sharing(&backend, ", max_entry: 1MiB").await;
    let (mut quick, mut slow) = (gateway.connect().await, lazy(&gateway).await);
    quick.send(plain(true).bytes()).await;
    quick.piece_after_head().await;
    slow.send(plain(true).header("x-request-id", "slow").bytes()).await;
    slow.piece_after_head().await;
    let mut length = 0;
    let before = resident(gateway.pid());
    while length < 24 << 20 {
        length += quick.piece().await.unwrap().unwrap().len();
    }
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
    // Nobody gets half of it from the middle: who comes now asks for itself.
    let late = gateway.send(&plain(true)).await;
    assert!(late.text().contains("mine"), "{}", late.text());
    let mut text = Vec::new();
    while let Ok(Some(piece)) = slow.piece().await {
        text.extend_from_slice(&piece);
    }
    assert!(String::from_utf8_lossy(&text).contains("fell_behind"));
    assert_eq!(backend.count(), 2);
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
    followers(&gateway, 4).await;
    backend.seen(2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    for asked in asked {
        assert_eq!(asked.await.unwrap().status, 200);
    }
    assert_eq!(backend.count(), 3, "a and c share, b has its own, no-store too");
}

#[tokio::test]
async fn a_flight_that_outlasts_the_time_for_draining_ends_honestly_for_all() {
    let backend = Backend::start().await;
    backend.push(Script::stream().token("a").hang());
    let filter = "drain: { delay: 0s, time: 300ms }\nfilters:\n  - shared_flight: { scope: global }\n";
    let mut gateway = Gateway::start(&(filter.to_owned() + &pool_of(&[&backend]))).await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let (streamed, whole) = (ask(&gateway, &plain(true)).await, ask(&gateway, &plain(false)).await);
    followers(&gateway, 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gateway.signal("TERM");
    for asked in [leader, streamed] {
        assert!(asked.await.unwrap().text().contains("shutting_down"));
    }
    whole.await.unwrap().openai_error(503);
    gateway.ended(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn each_tenant_has_a_salt_of_its_own_that_nobody_can_ask_for() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let keys = [Key::new("one"), Key::new("two")];
    let entry = |key: &Key, org: &str| format!("        - {{ id: {org}, org: {org}, hash: \"{}\" }}\n", key.hash);
    let salted = format!(
        "pools:\n  main:\n    health: off\n    cache_salt: a-secret-of-some-length\n    backends: [{}]\n",
        backend.url()
    );
    let config =
        format!("filters:\n  - api_key:\n      keys:\n{}{}{salted}", entry(&keys[0], "acme"), entry(&keys[1], "rival"));
    let gateway = Gateway::start(&config).await;
    let body = |own: &str| format!(r#"{{"model":"m","messages":[]{own}}}"#);
    let salt = async |key: &Key, own: &str| {
        let before = backend.count();
        let request = Request::post("/v1/chat/completions", body(own)).bearer(&key.key);
        assert_eq!(gateway.send(&request).await.status, 200);
        let seen = backend.seen(before).await;
        seen.assert_clean();
        let sent: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert!(!String::from_utf8_lossy(&seen.body).contains("acme"));
        sent["cache_salt"].as_str().unwrap().to_owned()
    };
    let mine = salt(&keys[0], "").await;
    assert_eq!(mine.len(), 32);
    assert_eq!(salt(&keys[0], "").await, mine);
    let theirs = salt(&keys[1], "").await;
    assert_ne!(theirs, mine);
    // A salt of one's own sets apart further, and reaches no other tenant's.
    let asked = format!(r#","cache_salt":"{theirs}""#);
    let own = salt(&keys[0], &asked).await;
    assert!(own != mine && own != theirs && own != salt(&keys[1], &asked).await);
    // Off by default, byte for byte.
    let gateway = Gateway::before(&backend).await;
    let before = backend.count();
    gateway.send(&Request::post("/v1/chat/completions", body(""))).await;
    assert_eq!(backend.seen(before).await.body, body("").as_bytes());
}
