//! A request that is sent again with its key gets the answer of the first time.

use std::time::Duration;

use crate::backend::{Backend, Gate, Script, token};
use crate::client::{Answer, H2Connection, Request};
use crate::gateway::{Gateway, Key, pool_of};

async fn keeping(backend: &Backend, settings: &str) -> Gateway {
    let filter = format!("filters:\n  - idempotency: {{ {settings} }}\n");
    // What a backend says is told as it is: retries have tests of their own.
    let pool = pool_of(&[backend]).replace("health: off", "health: off\n    retries: 0");
    Gateway::start(&(filter + &pool)).await
}

fn keyed(request: Request, key: &str) -> Request {
    request.header("Idempotency-Key", key)
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

#[tokio::test]
async fn an_answer_is_given_again_whole_or_as_a_stream_and_its_end_is_published() {
    for stream in [false, true] {
        let backend = Backend::start().await;
        backend.push(if stream { Script::words(&["a", "b"], Duration::from_millis(1)) } else { Script::chat("once") });
        let gateway = keeping(&backend, "for: 1h").await;
        let request = if stream { Request::stream("m") } else { Request::chat("m") };
        // In quotes and without it is the same key.
        let first = gateway.send(&keyed(request.clone(), "k-1")).await;
        gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        let again = gateway.send(&keyed(request.clone(), "\"k-1\"").header("x-request-id", "again")).await;
        assert_eq!((first.status, again.status), (200, 200), "{}", again.text());
        assert_eq!(first.body, again.body);
        assert!(!replayed(&first) && replayed(&again));
        let (until, too) = (first.header("idempotency-expires").unwrap(), again.header("idempotency-expires"));
        assert!(until.ends_with(" GMT") && Some(until) == too, "{until} {too:?}");
        assert_eq!(again.header("content-type"), first.header("content-type"));
        let line = gateway.log.request("again").await;
        assert_eq!((line["served_by"].as_str(), line["attempts"].as_u64()), (Some("replay"), Some(0)), "{line}");
        backend.only().await;
        // Another key is another request.
        backend.push(Script::chat("twice"));
        gateway.send(&keyed(Request::chat("m"), "k-2")).await;
        assert_eq!(backend.count(), 2);
    }
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_tenant_on_one_path() {
    let backend = Backend::start().await;
    backend.handle(|seen| Script::json(format!(r#"{{"object":"x","of":"{}"}}"#, seen.hash())));
    let keys = [Key::new("one"), Key::new("two")];
    let entry = |key: &Key, org: &str| format!("        - {{ id: {org}, org: {org}, hash: \"{}\" }}\n", key.hash);
    let config = format!(
        "filters:\n  - api_key:\n      keys:\n{}{}  - idempotency: {{}}\n{}",
        entry(&keys[0], "a"),
        entry(&keys[1], "b"),
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    let send = |request: Request, key: usize| {
        let request = keyed(request, "same").bearer(&keys[key].key);
        let gateway = &gateway;
        async move { gateway.send(&request).await }
    };
    assert_eq!(send(Request::chat("m"), 0).await.status, 200);
    let reused = send(Request::chat("other"), 0).await;
    assert_eq!(reused.openai_error(422)["code"], "idempotency_key_reused");
    assert_eq!(reused.header("x-should-retry"), Some("false"));
    assert!(!replayed(&send(Request::chat("other"), 1).await));
    let elsewhere = Request::post("/v1/embeddings", r#"{"model":"m","input":"x"}"#);
    assert!(!replayed(&send(elsewhere, 0).await));
    assert!(replayed(&send(Request::chat("m"), 0).await));
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn while_it_runs_the_second_is_told_when_to_come_back_or_joins() {
    for join in [false, true] {
        let backend = Backend::start().await;
        let gate = Gate::closed();
        backend.push(Script::stream().token("a").wait(&gate).token("b").chunk(crate::backend::finish()).done().end());
        let gateway = keeping(&backend, if join { "while_running: join" } else { "" }).await;
        let request = keyed(Request::stream("m"), "k");
        let mut first = gateway.connect().await;
        first.send(request.bytes()).await;
        first.piece_after_head().await;
        if join {
            let mut second = gateway.connect().await;
            second.send(request.bytes()).await;
            let head = second.head().await;
            assert!(replayed(&head));
            assert_eq!(second.piece().await.unwrap().unwrap(), token("a"));
            gate.open();
            while second.piece().await.unwrap().is_some() {}
        } else {
            let second = gateway.send(&request).await;
            assert_eq!(second.openai_error(409)["code"], "idempotency_in_progress");
            assert_eq!(
                (second.header("retry-after-ms"), second.header("x-should-retry")),
                (Some("1000"), Some("true"))
            );
            gate.open();
        }
        while first.piece().await.unwrap().is_some() {}
        gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        assert!(gateway.send(&request).await.text().ends_with("data: [DONE]\n\n"));
        backend.only().await;
    }
}

#[tokio::test]
async fn it_is_run_to_its_end_although_its_client_leaves_wherever_that_is() {
    // Before the head, in a stream, in a whole answer; over HTTP/1 and HTTP/2.
    for (n, stream) in [(0, false), (0, true), (1, true), (2, true)] {
        for h2 in [false, true] {
            let backend = Backend::start().await;
            let gate = Gate::closed();
            let script = if stream {
                let script = (0..n).fold(Script::stream(), |script, _| script.token("a"));
                script.wait(&gate).token("b").chunk(crate::backend::finish()).done().end()
            } else {
                Script::new().wait(&gate).send({
                    let body = crate::backend::chat("whole");
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                })
            };
            backend.push(script);
            let gateway = keeping(&backend, "while_running: join").await;
            let request = keyed(if stream { Request::stream("m") } else { Request::chat("m") }, "k");
            if h2 {
                let connection = H2Connection::open(gateway.address()).await;
                let waiting = connection.exchange(&request);
                drop(tokio::time::timeout(Duration::from_millis(150), waiting).await);
                drop(connection);
            } else {
                let mut first = gateway.connect().await;
                first.send(request.bytes()).await;
                backend.seen(0).await;
                if n > 0 {
                    first.piece_after_head().await;
                }
                drop(first);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            gate.open();
            let again = gateway.send(&request).await;
            assert_eq!(again.status, 200, "{}", again.text());
            assert!(replayed(&again));
            assert_eq!(stream, again.text().ends_with("data: [DONE]\n\n"), "{}", again.text());
            backend.only().await;
        }
    }
}

#[tokio::test]
async fn what_another_attempt_might_mend_is_not_kept_and_what_it_would_not_is() {
    for (status, kept) in [
        ("400 Bad Request", true),
        ("404 Not Found", true),
        ("429 Too Many Requests", false),
        ("500 Internal Server Error", false),
        ("503 Service Unavailable", false),
    ] {
        let backend = Backend::start().await;
        backend.push(Script::status(status, r#"{"error":{"message":"no","type":"x","param":null,"code":null}}"#));
        backend.push(Script::chat("yes"));
        let gateway = keeping(&backend, "").await;
        let request = keyed(Request::chat("m"), "k");
        let first = gateway.send(&request).await;
        assert_eq!(first.status.to_string(), &status[..3]);
        gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        let again = gateway.send(&request).await;
        assert_eq!((again.status == first.status, replayed(&again)), (kept, kept), "{status}");
        assert_eq!(backend.count(), if kept { 1 } else { 2 });
    }
    // A stream that breaks off, and an error event in one.
    for broken in [
        Script::stream().token("a").fin(),
        Script::stream().token("a").chunk("data: {\"error\":{\"message\":\"x\"}}\n\n").end(),
    ] {
        let backend = Backend::start().await;
        backend.push(broken).push(Script::words(&["b"], Duration::ZERO));
        let gateway = keeping(&backend, "").await;
        let request = keyed(Request::stream("m"), "k");
        assert!(gateway.send(&request).await.text().contains("error"));
        gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        let again = gateway.send(&request).await;
        assert!(!replayed(&again) && again.text().ends_with("[DONE]\n\n"), "{}", again.text());
    }
}

#[tokio::test]
async fn malformed_keys_are_refused_and_those_without_are_not_touched() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let gateway = keeping(&backend, "").await;
    for key in ["", "\"", "a b", "\"a\"b\"", &"x".repeat(256)] {
        let refused = gateway.send(&keyed(Request::chat("m"), key)).await;
        assert_eq!(refused.openai_error(400)["code"], "bad_idempotency_key", "{key}");
    }
    let twice = keyed(keyed(Request::chat("m"), "a"), "b");
    assert_eq!(gateway.send(&twice).await.openai_error(400)["code"], "bad_idempotency_key");
    for _ in 0..2 {
        let plain = gateway.send(&Request::chat("m")).await;
        assert!(!replayed(&plain) && plain.header("idempotency-expires").is_none());
    }
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn memory_is_bounded_the_oldest_give_way_and_a_reload_keeps_the_rest() {
    let backend = Backend::start().await;
    backend.always(Script::chat(&"x".repeat(10_000)));
    let config = format!("filters:\n  - idempotency: {{ size: 64KiB, max_entry: 32KiB }}\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    for n in 0..20 {
        gateway.send(&keyed(Request::chat("m"), &format!("k{n}"))).await;
    }
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let bytes = gateway.metrics().await.sum("tidegate_idempotency_bytes", &[]);
    assert!((30_000.0..65_536.0).contains(&bytes), "{bytes}");
    gateway.rewrite(&config.replace("size: 64KiB", "size: 63KiB"));
    gateway.signal("HUP");
    gateway.metric_is("tidegate_config_last_reload_successful", &[], 1.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(replayed(&gateway.send(&keyed(Request::chat("m"), "k19")).await));
    assert!(!replayed(&gateway.send(&keyed(Request::chat("m"), "k0")).await));
    // Its time over, it is another request.
    let gateway = keeping(&backend, "for: 300ms").await;
    let request = keyed(Request::chat("m"), "k");
    gateway.send(&request).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!replayed(&gateway.send(&request).await));
}

/// What `check` says of these filters, and whether it lets them pass.
fn checked(filters: &str) -> (bool, String) {
    let folder = crate::gateway::Folder::new();
    let file = folder
        .write("gateway.yaml", &format!("filters:\n{filters}{}", crate::gateway::pool_at(&["http://127.0.0.1:1"])));
    let output = crate::gateway::command(&["check", &file.display().to_string()]);
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn check_refuses_answers_that_are_given_again_before_it_is_known_who_calls() {
    let hash = Key::new("a").hash;
    let keys = &*format!("  - api_key: {{ keys: [{{ id: a, hash: \"{hash}\" }}] }}\n");
    let identities = [keys, "  - trusted_headers: { user: x-user }\n"];
    for filter in ["idempotency: {}", "idempotency: { scope: global }", "shared_flight: {}", "prompt_cache: {}"] {
        for identity in identities {
            let (good, said) = checked(&format!("  - {filter}\n{identity}"));
            assert!(!good && said.contains("here nobody knows yet who calls"), "{filter}: {said}");
            let (_, said) = checked(&format!("{identity}  - {filter}\n"));
            assert!(!said.contains("who calls"), "{filter}: {said}");
        }
    }
    for filter in ["shared_flight: { scope: global }", "prompt_cache: { scope: global }"] {
        let (_, said) = checked(&format!("  - {filter}\n{keys}"));
        assert!(!said.contains("who calls"), "{filter}: {said}");
    }
}

#[test]
fn check_warns_of_callers_that_nobody_knows() {
    let (good, said) = checked("  - idempotency: {}\n");
    assert!(good && said.contains("told apart by their address alone"), "{said}");
    for filter in ["shared_flight", "prompt_cache"] {
        let (good, said) = checked(&format!("  - {filter}: {{}}\n"));
        assert!(good && said.contains("it does nothing for callers"), "{said}");
        assert!(!checked(&format!("  - {filter}: {{ scope: global }}\n")).1.contains("who calls"));
    }
}

#[tokio::test]
async fn nothing_is_promised_of_an_answer_that_is_too_large_to_be_kept() {
    let backend = Backend::start().await;
    backend.push(Script::chat(&"x".repeat(20_000))).push(Script::chat("short"));
    let gateway = keeping(&backend, "max_entry: 16KiB").await;
    let large = gateway.send(&keyed(Request::chat("m"), "large")).await;
    assert_eq!((large.status, large.header("idempotency-expires")), (200, None));
    assert!(gateway.send(&keyed(Request::chat("m"), "short")).await.header("idempotency-expires").is_some());
}
