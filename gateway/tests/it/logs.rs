//! Lines of the log that clients cannot forge, that hold no secret, and of which a share may be enough.

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Folder, Gateway, Key, pool_of};

/// Breaks a line, forges another, paints the terminal, turns the direction of writing.
const EVIL: &str = "x\\n{\\\"request_id\\\":\\\"forged\\\"}\\r\\u001b[31m\\u009b2J\\u202e";

/// Requests with that, or as much of it as HTTP lets through, in everything a client may choose.
fn evil_requests() -> Vec<Request> {
    let chat = |body: String| Request::post("/v1/chat/completions", body);
    vec![
        chat(format!(r#"{{"model":"{EVIL}","messages":[]}}"#)),
        chat(format!(r#"{{"model":"m","user":"{EVIL}","messages":[{{"role":"{EVIL}","content":"{EVIL}"}}]}}"#)),
        chat(format!(r#"{{"model":"m","{EVIL}":"{EVIL}","messages":"{EVIL}"}}"#)),
        chat(format!(r#"{{"model":"m","messages":[] {EVIL}"#)),
        Request::get("/v1/x%0a%7b%22request_id%22:%22forged%22%7d%1b%5b31m?q=%0a%1b%5b31m"),
        Request::get("/v1/models/%0aforged%1b%5b31m"),
        Request::chat("m").header("x-request-id", "a\tb\u{9b}31m"),
        Request::chat("m").header("x-correlation-id", "\u{202e}\u{9b}2J"),
        Request::chat("m").header("User-Agent", "\u{9b}31m\t\u{202e}"),
        Request::chat("m").header("traceparent", "\u{9b}31m").header("tracestate", "\u{9b}31m=\u{202e}"),
        Request::chat("m").header("Authorization", "Bearer \u{9b}31m\u{202e}"),
        Request::chat("m").header("Idempotency-Key", "\u{9b}31m\u{202e}"),
        Request::chat("m").header("X-Forwarded-For", "\u{9b}31m, \u{202e}"),
        Request::chat("m").header("X-\u{9b}31m", "x"),
        Request::new("G\u{1b}[31mT", "/v1/models"),
        Request::chat("m").without("Host").header("Host", "\u{9b}31m"),
    ]
}

#[tokio::test]
async fn nothing_a_client_sends_forges_a_line_or_paints_the_terminal() {
    let backend = Backend::start().await;
    let evil = EVIL.replace("\\\"", "'");
    backend.always(Script::answer(
        "400 Bad",
        &[("content-type", "application/json"), ("x-request-id", "\u{9b}31m\u{202e}")],
        format!(r#"{{"error":{{"message":"{evil}","code":"{evil}"}}}}"#),
    ));
    for format in ["json", "human"] {
        let known = Key::new("k");
        let entry = format!("keys: [ {{ id: k, hash: {:?}, user: k }} ], otherwise: next", known.hash);
        let filters = format!("filters:\n  - api_key: {{ {entry} }}\n  - idempotency\n");
        let config =
            format!("log: {{ format: {format} }}\ntrusted_proxies: [127.0.0.1]\n{filters}{}", pool_of(&[&backend]));
        let gateway = Gateway::start(&config).await;
        for request in evil_requests() {
            let mut connection = gateway.connect().await;
            connection.send(request.bytes()).await;
            // Some are answered, some are hung up on: both leave what they leave.
            connection.half_close().await;
            while !connection.raw().await.is_empty() {}
        }
        gateway.send(&Request::chat("m").header("x-request-id", "the-last")).await;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !gateway.log.text().contains("the-last") {
            assert!(std::time::Instant::now() < until, "{}", gateway.log.text());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let text = gateway.log.text();
        let disturbing = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(disturbing), "{format}: {text:?}");
        for line in text.lines() {
            assert!(!line.trim_start().starts_with("{\"request_id\""), "{format}: forged: {line}");
            // Each line begins as ours do: with its time.
            let begins = if format == "json" { line.starts_with("{\"time\":\"") } else { line.as_bytes()[2] == b':' };
            assert!(begins, "{format}: {line:?}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_logged_however_loud_the_log_is() {
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let refusal = |status: &str| {
        let words = r#"{"error":{"message":"Incorrect API key provided: upstream-secret."}}"#;
        Script::status(status, words)
    };
    backend.push(refusal("401 No")).push(refusal("500 Broken")).push(refusal("400 Bad"));
    let config = format!(
        "admin: {{ listen: 127.0.0.1:$ADMIN, token: op-secret }}\nlog: {{ format: json, level: trace }}\n\
         pools:\n  main:\n    health: off\n    retries: 0\n    cache_salt: salt-secret-of-mine\n    backends: [ {{ url: {}, key: upstream-secret }} ]\n\
         keys: {{ pepper: \"${{env:PEPPER}}\" }}\n",
        backend.url()
    );
    let keys = format!("filters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\" }} ] }}\n", key.hash);
    let gateway = Gateway::start_in(Folder::new(), &(config.clone() + &keys), &[("PEPPER", "pepper-secret")]).await;
    // The hash was made without this pepper: so the key is unknown, and is not told in that either.
    for request in [
        Request::chat("m").bearer(&key.key),
        Request::chat("m").bearer("client-secret"),
        Request::chat("m").header("x-api-key", "client-secret"),
        Request::get("/v1/realtime?model=m&key=client-secret"),
        Request::get("/v1/realtime?model=m")
            .header("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.client-secret"),
        Request::post("/v1/chat/completions?api_key=client-secret", "{"),
    ] {
        gateway.send(&request).await;
    }
    gateway.rewrite(&config);
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    for (n, id) in ["one", "two", "three", "four"].into_iter().enumerate() {
        gateway.send(&Request::chat("m").bearer("client-secret").header("x-request-id", id)).await;
        gateway.log.request(id).await;
        assert_eq!(backend.count(), n + 1);
    }
    let text = gateway.log.text();
    for secret in ["client-secret", "upstream-secret", "op-secret", "pepper-secret", "salt-secret", &key.key, &key.hash]
    {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn a_sampled_log_keeps_failures_and_a_share_of_the_rest() {
    let backend = Backend::start().await;
    let log = "log: { format: json, sample: { share: 10%, slow: 1m } }\n";
    let gateway = Gateway::start(&format!("{log}{}", pool_of(&[&backend]))).await;
    let mut connection = gateway.connect().await;
    for _ in 0..100 {
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    }
    for _ in 0..10 {
        assert_eq!(connection.exchange(&Request::get("/v1/nothing")).await.status, 404);
    }
    gateway.metric_is("tidegate_requests_total", &[], 110.0).await;
    let left_out = gateway.metrics().await.sum("tidegate_log_requests_left_out_total", &[]);
    gateway.send(&Request::get("/v1/nothing").header("x-request-id", "the-last")).await;
    gateway.log.request("the-last").await;
    let lines: Vec<_> = gateway.log.json().into_iter().filter(|line| line["event"] == "request").collect();
    let sampled = lines.iter().filter(|line| line["sampled"] == 0.1).count();
    assert_eq!(lines.len() - sampled, 11, "each failure has its line");
    // Each thread takes its share of what it has seen, and begins with a line.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    assert!((10..=10 + threads).contains(&sampled), "{sampled}");
    assert_eq!(left_out, 100.0 - sampled as f64);
}

#[tokio::test]
async fn a_key_that_was_pasted_elsewhere_is_in_no_line_no_record_and_no_look_back() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    backend.always(Script::chat("x"));
    std::fs::create_dir(folder.path().join("records")).unwrap();
    let key = Key::new("k1");
    let text = format!(
        "recent: {{ requests: 100 }}\nfilters:\n- record: {{ to: {{ files: {{ path: records }} }}, what: full }}\n{}",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start_in(folder, &text, &[]).await;
    let body = format!(r#"{{"model":"{}","messages":[]}}"#, key.key);
    for request in [
        Request::chat("m").header("x-request-id", &key.key),
        Request::chat("m").header("x-correlation-id", &format!("a {}", key.key)),
        Request::post("/v1/chat/completions", body),
        Request::get(&format!("/v1/{}", key.key)),
        Request::get(&format!("/v1/models/{}", key.key)),
    ] {
        let answer = gateway.send(&request).await;
        assert_ne!(answer.header("x-request-id"), Some(&*key.key));
        assert_ne!(answer.header("x-correlation-id"), Some(&*format!("a {}", key.key)));
    }
    gateway.metric_is("tidegate_requests_total", &[], 5.0).await;
    let mut lines = Vec::new();
    for _ in 0..1000 {
        lines = gateway.log.json().into_iter().filter(|line| line["event"] == "request").collect();
        if lines.len() == 5 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(lines.len(), 5, "{}", gateway.log.text());
    let requests = gateway.admin("/admin/requests").await.text().to_owned();
    gateway.metric_is("tidegate_records_waiting", &[], 0.0).await;
    let records = std::fs::read_to_string(gateway.folder.path().join("records/records-000000000001.jsonl")).unwrap();
    for (what, text) in [("log", &gateway.log.text()), ("requests", &requests), ("records", &records)] {
        assert!(!text.contains(&key.key), "{what}: {text}");
    }
    assert!(lines.iter().any(|line| line["path"] == "/v1/[key]"), "{lines:?}");
    assert!(lines.iter().any(|line| line["model"] == "[key]" || line["model_asked"] == "[key]"), "{lines:?}");
    for n in 0..backend.count() {
        let head = backend.seen(n).await.head.clone();
        assert!(!String::from_utf8_lossy(&head).contains(&key.key), "{head:?}");
    }
}
