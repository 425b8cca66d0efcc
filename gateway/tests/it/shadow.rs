//! Copies of requests for another model: what arrives there, and that nobody else notices.

use std::time::Duration;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key, command, refused};

const MESSAGES: &str = r#""messages": [{"role":"user","content":"h\u00e9llo"}],  "seed":1e0, "x_unknown":{"a":[]}"#;

fn config(main: &str, next: &str, shadow: &str, more: &str) -> String {
    format!(
        "pools:\n  main: {{ health: off, backends: [{main}] }}\n  next:\n    health: off\n    backends: [{{ url: {next}, \
         key: of-the-shadow }}]\n    retries: 2\n    hedge: {{ after: 1ms }}\nmodels:\n  m: {{ pool: main }}\n  next: {{ pool: next, as: llama-4 }}\n\
         filters:\n{more}  - shadow: {{ model: next, {shadow} }}\n"
    )
}

async fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)], value: f64) {
    gateway
        .metric_is(
            &format!("tidegate_shadow_{name}"),
            &[&[("shadow", "next"), ("pool", "next")], labels].concat(),
            value,
        )
        .await;
}

#[tokio::test]
async fn a_copy_arrives_byte_for_byte_but_for_the_model_with_nothing_of_the_callers() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("the answer"));
    next.always(Script::chat("for nobody"));
    let key = Key::new("k");
    let keys = format!("  - api_key: {{ keys: [{{ id: k, hash: {}, org: acme }}] }}\n", key.hash);
    let gateway = Gateway::start(&config(main.url(), next.url(), "when: org == \"acme\"", &keys)).await;
    let body = format!("{{ \"model\" : \"m\", {MESSAGES} }}");
    let request = Request::post("/v1/chat/completions", body.clone())
        .bearer(&key.key)
        .header("x-tidegate-shadow", "1")
        .header("x-request-id", "copied")
        .header("cookie", "secret=1")
        .header("x-stainless-timeout", "30");
    let answer = gateway.send(&request).await;
    assert!(answer.status == 200 && answer.text().contains("the answer"), "{}", answer.text());
    let (own, copy) = (main.only().await, next.only().await);
    assert_eq!(own.text(), body);
    assert_eq!(copy.text(), body.replace("\"m\"", "\"llama-4\""));
    // Only the gateway says that it is a copy.
    assert_eq!((own.header("x-tidegate-shadow"), copy.header("x-tidegate-shadow")), (None, Some("1")));
    assert_eq!((own.header("authorization"), copy.header("authorization")), (None, Some("Bearer of-the-shadow")));
    let head = String::from_utf8_lossy(&copy.head).into_owned();
    assert!(!head.contains(&key.key) && !head.contains("secret=1"), "{head}");
    copy.assert_clean();

    let line = gateway.log.line(|line| line["event"] == "shadow").await;
    let of = |name: &str| line[name].clone();
    assert_eq!((of("request_id"), of("status"), of("cause")), ("copied".into(), 200.into(), "none".into()));
    assert_eq!((of("pool"), of("model_served"), of("completion_tokens")), ("next".into(), "llama-4".into(), 5.into()));
    assert_eq!(line["notes"]["shadow"], "next");
    assert!(line["duration_ms"].is_number() && line["ttft_ms"].is_number() && line.get("org").is_none(), "{line}");
    assert_eq!(gateway.log.line(|line| line["event"] == "request").await["request_id"], "copied");
    metric(&gateway, "requests_total", &[("cause", "none")], 1.0).await;
    metric(&gateway, "tokens_total", &[("gen_ai_token_type", "output")], 5.0).await;
    metric(&gateway, "duration_seconds_count", &[], 1.0).await;
    metric(&gateway, "time_to_first_token_seconds_count", &[], 1.0).await;
    metric(&gateway, "in_flight", &[], 0.0).await;
    // It is nobody's request.
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_requests_total", &[]), 1.0);
    assert_eq!(metrics.sum("tidegate_requests_total", &[("route", "next")]), 0.0);
}

#[tokio::test]
async fn streams_are_copied_and_read_to_their_end() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    for backend in [&main, &next] {
        backend.always(Script::words(&["a", "b"], Duration::from_millis(1)));
    }
    let gateway = Gateway::start(&config(main.url(), next.url(), "when: stream", "")).await;
    assert_eq!(gateway.send(&Request::stream("m")).await.status, 200);
    assert_eq!(gateway.send(&Request::get("/v1/models")).await.status, 200);
    let line = gateway.log.line(|line| line["event"] == "shadow").await;
    assert_eq!((&line["cause"], &line["stream"]), (&"none".into(), &true.into()), "{line}");
    main.always(Script::chat("x"));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    metric(&gateway, "in_flight", &[], 0.0).await;
    assert_eq!((main.count(), next.count()), (2, 1), "what the condition does not mean is not copied");
}

#[tokio::test]
async fn a_shadow_that_hangs_holds_so_many_copies_and_nobody_waits_for_it() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("x"));
    next.always(Script::new().hang());
    let mut gateway = Gateway::start(&config(main.url(), next.url(), "in_flight: 2", "")).await;
    for _ in 0..10 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    next.seen(1).await;
    metric(&gateway, "in_flight", &[], 2.0).await;
    metric(&gateway, "dropped_total", &[("reason", "in_flight")], 8.0).await;
    assert_eq!((main.count(), next.count()), (10, 2), "neither hedged nor retried");
    // Nor does the end of the process wait.
    gateway.signal("TERM");
    assert!(gateway.ended(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn a_copy_has_its_time_and_gives_its_room_back() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("x"));
    next.always(Script::new().hang());
    let shadow = "in_flight: 1, time: 200ms";
    let gateway = Gateway::start(&config(main.url(), next.url(), shadow, "")).await;
    for n in 1..=2 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        metric(&gateway, "requests_total", &[("cause", "upstream_timeout")], f64::from(n)).await;
        metric(&gateway, "in_flight", &[], 0.0).await;
    }
    assert_eq!(next.count(), 2);
    assert_eq!(gateway.metrics().await.sum("tidegate_bodies_bytes", &[]), 0.0);
}

#[tokio::test]
async fn a_body_that_copies_have_no_room_for_is_not_copied() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("x"));
    next.always(Script::chat("x"));
    let gateway = Gateway::start(&config(main.url(), next.url(), "bytes: 1KiB", "")).await;
    let long = format!(r#"{{"model":"m","messages":[],"x":"{}"}}"#, "y".repeat(2000));
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", long)).await.status, 200);
    metric(&gateway, "dropped_total", &[("reason", "bytes")], 1.0).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    metric(&gateway, "requests_total", &[("cause", "none")], 1.0).await;
    assert_eq!(next.count(), 1);
}

#[tokio::test]
async fn a_large_answer_is_read_whole() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("x"));
    next.always(Script::chat(&"y".repeat(1 << 20)));
    let gateway = Gateway::start(&config(main.url(), next.url(), "share: 100%", "")).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    metric(&gateway, "requests_total", &[("cause", "none")], 1.0).await;
    metric(&gateway, "in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_dead_shadow_is_counted_and_told_apart() {
    let main = Backend::start().await;
    main.always(Script::chat("x"));
    let gateway = Gateway::start(&config(main.url(), &refused(), "share: 100%", "")).await;
    for _ in 0..3 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    metric(&gateway, "requests_total", &[("cause", "upstream_error")], 3.0).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_requests_total", &[("cause", "none")]), 3.0);
}

#[tokio::test]
async fn what_a_cache_answers_and_what_a_limit_refuses_is_not_copied() {
    let (main, next) = (Backend::start().await, Backend::start().await);
    main.always(Script::chat("x"));
    next.always(Script::chat("x"));
    let file = format!(
        "{}  - limits:\n      - {{ per: global, requests: 3/h }}\n  - prompt_cache: {{ for: 1h, scope: global }}\n",
        config(main.url(), next.url(), "sticky: user", "")
    );
    let gateway = Gateway::start(&file).await;
    let request = Request::post("/v1/chat/completions", r#"{"model":"m","temperature":0,"messages":[]}"#);
    let answers = [200, 200, 200, 429];
    for status in answers {
        assert_eq!(gateway.send(&request).await.status, status);
    }
    metric(&gateway, "requests_total", &[("cause", "none")], 1.0).await;
    assert_eq!((main.count(), next.count()), (1, 1));
}

#[test]
fn check_points_at_a_shadow_that_could_copy_nothing() {
    let folder = crate::gateway::Folder::new();
    let file =
        folder.write("gateway.yaml", &config("http://127.0.0.1:1", "http://127.0.0.1:2", "share: 0%, when: stram", ""));
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("nothing would ever be copied") && said.contains("there is no `stram`"), "{said}");
}
