//! What must not cross over: credentials in places nobody looks at, models a key is not for, and what only the
//! gateway may say to a browser.

use crate::backend::{Backend, Script, chat};
use crate::client::Request;
use crate::faults::ANTHROPIC;
use crate::gateway::{Gateway, Key, pool_of};

/// Before `backend`, unknown paths too, for callers that have one of these keys.
async fn with_keys(backend: &Backend, keys: &[(&Key, &str)]) -> Gateway {
    let entries: Vec<String> = (0..).zip(keys).map(|(n, (key, rest))| entry(n, &key.hash, rest)).collect();
    let config = format!(
        "{}other_paths: {{ pool: main }}\nfilters:\n  - api_key: {{ keys: [ {} ] }}\n",
        pool_of(&[backend]),
        entries.join(", ")
    );
    Gateway::start(&config).await
}

fn entry(n: usize, hash: &str, rest: &str) -> String {
    format!("{{ id: k{n}, hash: \"{hash}\"{rest} }}")
}

#[tokio::test]
async fn a_subprotocol_on_a_plain_request_stays_here_with_the_key_in_it() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let open = Gateway::start(&format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]))).await;
    let guarded = with_keys(&backend, &[(&key, "")]).await;
    let with_key = format!("realtime, openai-insecure-api-key.{}", key.key);
    for protocols in ["realtime", &with_key] {
        for path in ["/v1/chat/completions", "/v1/messages", "/v1/score"] {
            let request = Request::post(path, r#"{"model":"m"}"#).header("Sec-WebSocket-Protocol", protocols);
            let answer = open.send(&request).await;
            assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
            // Whether two credentials in one request are refused is told elsewhere.
            guarded.send(&request.bearer(&key.key)).await;
        }
    }
    assert!(backend.count() >= 9, "{}", backend.count());
    for n in 0..backend.count() {
        let seen = backend.seen(n).await;
        assert_eq!(seen.header("sec-websocket-protocol"), None);
        assert!(!String::from_utf8_lossy(&seen.head).contains(&key.key), "the key went upstream");
    }
}

#[tokio::test]
async fn a_credential_in_the_url_is_refused_whoever_sends_it() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let open = Gateway::start(&format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]))).await;
    let guarded = with_keys(&backend, &[(&key, "")]).await;
    for query in [
        "key=sk-mine",
        "api_key=sk-mine",
        "api-key=sk-mine",
        "access_token=sk-mine",
        "KEY=sk-mine",
        "Api_Key=sk-mine",
        "API-KEY=sk-mine",
        "Access_Token=sk-mine",
        "x=1&key=sk-mine&y=2",
        "k%65y=sk-mine",
        "api%5Fkey=sk-mine",
        "key=",
    ] {
        for path in ["/v1/chat/completions", "/v1/messages", "/v1/score"] {
            let request = Request::post(&format!("{path}?{query}"), r#"{"model":"m"}"#).bearer(&key.key);
            for gateway in [&open, &guarded] {
                let answer = gateway.send(&request).await;
                assert_eq!(answer.status, 400, "{path}?{query}: {:?}", answer.body);
                if path == "/v1/messages" {
                    answer.anthropic_error(400);
                } else {
                    assert_eq!(answer.openai_error(400)["code"], "credential_in_url", "{path}?{query}");
                }
                assert!(!format!("{answer:?}").contains("sk-mine"), "the credential is echoed");
            }
        }
    }
    assert_eq!(backend.count(), 0);
    assert!(!open.log.text().contains("sk-mine") && !guarded.log.text().contains("sk-mine"), "logged");
    for harmless in ["monkey=1", "api_key_id=1", "x=key", "x=1&y=api_key", "api-version=2024-10-21"] {
        let request = Request::post(&format!("/v1/chat/completions?{harmless}"), r#"{"model":"m"}"#);
        assert_eq!(guarded.send(&request.bearer(&key.key)).await.status, 200, "{harmless}");
    }
}

#[tokio::test]
async fn a_key_kept_to_some_models_opens_no_path_on_which_the_model_cannot_be_told() {
    let (backend, kept, free) = (Backend::start().await, Key::new("kept"), Key::new("free"));
    let gateway = with_keys(&backend, &[(&kept, ", models: [\"llama*\"]"), (&free, "")]).await;
    let score = |model: &str| Request::post("/v1/score", format!(r#"{{"model":"{model}"}}"#));
    // A name in a body that nobody reads opens nothing either.
    for request in [score("other"), score("llama-3"), Request::get("/v1/things")] {
        let refused = gateway.send(&request.bearer(&kept.key)).await;
        assert_eq!(refused.openai_error(403)["code"], "model_not_allowed");
    }
    assert_eq!(backend.count(), 0);
    assert_eq!(gateway.send(&Request::chat("llama-3").bearer(&kept.key)).await.status, 200);
    let answer = gateway.send(&score("other").bearer(&free.key)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn two_authorization_headers_are_refused_even_if_they_agree() {
    let (backend, key, other) = (Backend::start().await, Key::new("alice"), Key::new("bob"));
    let gateway = with_keys(&backend, &[(&key, ""), (&other, ", user: bob")]).await;
    for second in [&key.key, &other.key, "nonsense"] {
        let answer = gateway.send(&Request::chat("m").bearer(&key.key).bearer(second)).await;
        assert_eq!(answer.openai_error(401)["code"], "invalid_api_key");
        let twice = Request::post("/v1/messages", ANTHROPIC).bearer(&key.key).bearer(second);
        gateway.send(&twice).await.anthropic_error(401);
    }
    assert_eq!(backend.count(), 0);
    for key in [&key, &other] {
        assert_eq!(gateway.send(&Request::chat("m").bearer(&key.key)).await.status, 200);
    }
}

#[tokio::test]
async fn what_a_backend_tells_browsers_never_reaches_one() {
    let backend = Backend::start().await;
    let pool = format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]));
    let closed = Gateway::start(&pool).await;
    let open = Gateway::start(&format!("{pool}cors: {{ origins: [\"https://app.example.com\"] }}\n")).await;
    let lenient = [
        ("content-type", "application/json"),
        ("Access-Control-Allow-Origin", "https://of-the-backend.example"),
        ("access-control-allow-credentials", "of-the-backend"),
        ("access-control-allow-headers", "of-the-backend"),
        ("ACCESS-CONTROL-ALLOW-METHODS", "of-the-backend"),
        ("access-control-expose-headers", "of-the-backend"),
        ("access-control-max-age", "of-the-backend"),
        ("access-control-allow-private-network", "of-the-backend"),
    ];
    let stream: Vec<_> = lenient[1..].iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let stream = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{}\r\n", stream.concat());
    let mistake = r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}"#;
    for (request, script) in [
        (Request::chat("m"), Script::answer("200 OK", &lenient, chat("a"))),
        (Request::chat("m"), Script::answer("400 Bad Request", &lenient, mistake)),
        (Request::chat("m"), Script::answer("503 Service Unavailable", &lenient, mistake)),
        (Request::post("/v1/score", r#"{"model":"m"}"#), Script::answer("200 OK", &lenient, "{}")),
        (
            Request::stream("m"),
            Script::new().send(stream).send(crate::backend::token("a")).send("data: [DONE]\n\n").fin(),
        ),
    ] {
        backend.always(script);
        for (gateway, origin, allowed) in [
            (&closed, "https://app.example.com", false),
            (&open, "https://app.example.com", true),
            (&open, "https://evil.example", false),
            (&open, "https://of-the-backend.example", false),
        ] {
            for request in [request.clone().header("Origin", origin), request.clone()] {
                let answer = gateway.send(&request).await;
                let head = String::from_utf8_lossy(&answer.head).to_lowercase();
                assert!(!head.contains("of-the-backend"), "{head}");
                let wanted: &[&str] = if allowed && request.head().contains("Origin") { &[origin] } else { &[] };
                assert_eq!(answer.headers.all("access-control-allow-origin"), wanted, "{head}");
            }
        }
    }
}
