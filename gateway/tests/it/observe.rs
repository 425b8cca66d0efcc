//! Seen from outside: health, metrics, one log line a request, ids and traces, and headers that answer "why".

use std::io::Read as _;
use std::time::Duration;

use crate::backend::{Backend, Gate, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, pool_at, pool_of, refused};

#[tokio::test]
async fn the_admin_listener_says_alive_ready_and_healthy() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(gateway.admin(path).await.status, 200, "{path}");
    }
    let health = gateway.admin("/healthz").await;
    assert!(health.text().contains("main"), "{}", health.text());
    assert_eq!(gateway.admin("/nothing").await.status, 404);
    assert_eq!(gateway.admin("/v1/models").await.status, 404, "the data plane is elsewhere");
}

#[tokio::test]
async fn admin_asks_for_its_token_except_for_liveness() {
    let backend = Backend::start().await;
    let config =
        format!("admin: {{ listen: 127.0.0.1:$ADMIN, token: \"${{env:ADMIN_TOKEN}}\" }}\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start_in(crate::gateway::Folder::new(), &config, &[("ADMIN_TOKEN", "s3cret-token")]).await;
    assert_eq!(gateway.admin("/livez").await.status, 200);
    for (token, status) in [(None, 401), (Some("wrong"), 401), (Some("s3cret-token"), 200)] {
        let request = Request::get("/metrics").header("Connection", "close");
        let request = token.map_or(request.clone(), |token| request.bearer(token));
        let answer = Connection::open(gateway.admin_address()).await.exchange(&request).await;
        assert_eq!(answer.status, status, "{token:?}");
    }
    assert!(!gateway.log.text().contains("s3cret"));
}

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"served","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}"#;

#[tokio::test]
async fn a_request_leaves_one_line_with_who_what_where_and_how_long() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ asked: {{ pool: main, as: served }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    backend.push(Script::answer(
        "200 OK",
        &[("content-type", "application/json"), ("x-request-id", "backend-7")],
        ANSWER,
    ));
    let answer = gateway.send(&Request::chat("asked").header("x-request-id", "line-1")).await;
    assert_eq!(
        (answer.header("x-request-id"), answer.header("x-upstream-request-id")),
        (Some("line-1"), Some("backend-7"))
    );
    let line = gateway.log.request("line-1").await;
    for (field, value) in [
        ("method", "POST".into()),
        ("path", "/v1/chat/completions".into()),
        ("model", "asked".into()),
        ("model_served", "served".into()),
        ("pool", "main".into()),
        ("attempts", 1.into()),
        ("status", 200.into()),
        ("upstream_status", 200.into()),
        ("upstream_request_id", "backend-7".into()),
        ("cause", "none".into()),
        ("stream", false.into()),
        ("prompt_tokens", 11.into()),
        ("completion_tokens", 5.into()),
        ("response_bytes", (ANSWER.len() - 1).into()),
        ("request_bytes", Request::chat("asked").content().len().into()),
    ] as [(&str, serde_json::Value); 15]
    {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["duration_ms"].as_f64().is_some_and(|time| time > 0.0));
    assert!(
        line["overhead_ms"].as_f64().is_some_and(|time| time >= 0.0 && time <= line["duration_ms"].as_f64().unwrap())
    );
    assert!(line["backend"].as_str().is_some_and(|name| !name.is_empty()));
    let lines = gateway.log.json().into_iter().filter(|line| line["request_id"] == "line-1").count();
    assert_eq!(lines, 1, "one line a request");
    assert!(!gateway.log.text().contains("\"hi\""), "prompts and answers are not logged");
}

#[tokio::test]
async fn a_stream_is_logged_with_its_first_token_and_its_usage() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let usage = "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n";
    backend.push(
        Script::stream()
            .pause(Duration::from_millis(400))
            .token("a")
            .pause(Duration::from_millis(400))
            .token("b")
            .chunk(crate::backend::finish())
            .chunk(usage)
            .done()
            .end(),
    );
    gateway.send(&Request::stream("m").header("x-request-id", "stream-1")).await;
    let line = gateway.log.request("stream-1").await;
    assert_eq!(
        (line["stream"].as_bool(), line["prompt_tokens"].as_u64(), line["completion_tokens"].as_u64()),
        (Some(true), Some(7), Some(2)),
        "{line}"
    );
    let (first, whole) = (line["ttft_ms"].as_f64().unwrap(), line["duration_ms"].as_f64().unwrap());
    assert!(first >= 50.0 && whole >= first + 50.0, "{first} of {whole}");
    assert!(line["overhead_ms"].as_f64().unwrap() < 350.0, "waiting for the backend is no overhead of ours: {line}");
    gateway.metric_is("gen_ai_server_time_to_first_token_seconds_count", &[("pool", "main")], 1.0).await;
    gateway.metric_is("gen_ai_server_time_per_output_token_seconds_count", &[], 1.0).await;
}

#[tokio::test]
async fn request_ids_are_taken_over_if_printable_and_made_otherwise() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let long = "a".repeat(129);
    let longest = "b".repeat(128);
    for (n, (given, kept)) in [
        ("abc-123", true),
        (&longest, true),
        ("with blank", true),
        (&long, false),
        ("tab\tinside", false),
        ("é", false),
        ("", false),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = gateway.send(&Request::chat("m").header("x-request-id", given)).await;
        let id = answer.header("x-request-id").expect("always returned").to_owned();
        assert_eq!(id == given, kept, "{given:?} became {id:?}");
        assert!(kept || is_uuid_v7(&id), "{id}");
        assert_eq!(backend.seen(n).await.header("x-request-id"), Some(id.as_str()), "sent upstream");
    }
    let error = gateway
        .send(&Request::post("/v1/nothing", "{}").header("x-request-id", "err-1").header("x-correlation-id", "corr-1"))
        .await;
    assert_eq!((error.header("x-request-id"), error.header("x-correlation-id")), (Some("err-1"), Some("corr-1")));
}

fn is_uuid_v7(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7' && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

#[tokio::test]
async fn a_valid_trace_is_continued_and_an_invalid_one_started_anew() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let valid = format!("00-{trace}-{parent}-01");
    gateway.send(&Request::chat("m").header("traceparent", &valid).header("tracestate", "vendor=1")).await;
    let seen = backend.seen(0).await;
    let sent = seen.header("traceparent").unwrap();
    assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-01") && !sent.contains(parent), "{sent}");
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    for (n, bad) in [
        "",
        "00-0-0-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    ]
    .into_iter()
    .enumerate()
    {
        gateway.send(&Request::chat("m").header("traceparent", bad).header("tracestate", "vendor=1")).await;
        let seen = backend.seen(n + 1).await;
        let sent = seen.header("traceparent").unwrap();
        assert!(
            sent.len() == 55 && !sent.contains("4bf92f3577b34da6") && !sent.contains("0000000000000000-"),
            "{bad:?} became {sent}"
        );
        assert_eq!(seen.header("tracestate"), None, "the state of a trace that is not continued");
    }
}

#[tokio::test]
async fn answers_say_which_backend_after_how_many_attempts_and_at_what_cost_unless_told_not_to() {
    let backend = Backend::start().await;
    let down = refused();
    let gateway = Gateway::start(&pool_at(&[&down, backend.url()])).await;
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let answer = gateway.send(&Request::chat("m")).await;
        assert!(answer.header("x-tidegate-backend").is_some());
        assert!(
            answer
                .header("x-tidegate-overhead-ms")
                .is_some_and(|value| value.parse::<f64>().is_ok_and(|time| time >= 0.0))
        );
        attempts.push(answer.header("x-tidegate-attempts").unwrap().to_owned());
    }
    assert!(attempts.contains(&"2".to_owned()) && attempts.iter().all(|n| n == "1" || n == "2"), "{attempts:?}");
    let quiet = Gateway::start(&format!("{}answer_headers: false\n", pool_of(&[&backend]))).await;
    let answer = quiet.send(&Request::chat("m")).await;
    assert!(answer.headers.0.iter().all(|(name, _)| !name.starts_with("x-tidegate-")), "{:?}", answer.headers);
    assert!(answer.headers.has("x-request-id"));
}

#[tokio::test]
async fn metrics_count_requests_tokens_time_and_backends() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::json(ANSWER));
    gateway.send(&Request::chat("served")).await;
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut open = gateway.connect().await;
    open.send(Request::chat("m").bytes()).await;
    backend.seen(1).await;
    for (name, labels, value) in [
        ("tidegate_requests_total", &[("pool", "main"), ("status", "2xx"), ("cause", "none")] as &[(&str, &str)], 1.0),
        ("gen_ai_server_request_duration_seconds_count", &[("pool", "main")], 1.0),
        ("tidegate_overhead_seconds_count", &[("pool", "main")], 1.0),
        ("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "input")], 11.0),
        ("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "output")], 5.0),
        ("tidegate_requests_in_flight", &[], 1.0),
        ("tidegate_backend_in_flight", &[("pool", "main")], 1.0),
        ("tidegate_backend_up", &[("pool", "main")], 1.0),
        ("tidegate_config_last_reload_successful", &[], 1.0),
        ("tidegate_draining", &[], 0.0),
    ] {
        gateway.metric_is(name, labels, value).await;
    }
    let metrics = gateway.metrics().await;
    for name in
        ["process_resident_memory_bytes", "process_open_fds", "tidegate_build_info", "process_cpu_seconds_total"]
    {
        assert!(metrics.has(name), "{name} is missing");
    }
    gate.open();
    assert_eq!(open.answer().await.status, 200);
    for line in metrics.text().lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(metrics.text().contains(&format!("# HELP {name} ")), "{name} has no help text");
    }
}

#[tokio::test]
async fn labels_come_from_the_file_and_never_from_requests() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for n in 0..20 {
        gateway.send(&Request::chat(&format!("made-up-{n}"))).await;
        gateway.send(&Request::get(&format!("/v1/path-{n}"))).await;
    }
    let metrics = gateway.metrics().await;
    assert!(!metrics.text().contains("made-up") && !metrics.text().contains("path-1"), "{}", metrics.text());
}

#[tokio::test]
async fn errors_of_backends_are_counted_by_cause() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::stream().token("a").fin());
    gateway.send(&Request::stream("m")).await;
    gateway.metric_is("tidegate_backend_errors_total", &[("pool", "main")], 1.0).await;
    gateway.metric_is("tidegate_failures_total", &[("cause", "upstream_error")], 1.0).await;
}

#[tokio::test]
async fn a_log_line_stays_one_line_whatever_a_client_sends() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = r#"{"model":"x\n{\"request_id\":\"forged\"}\u001b[31m","messages":[]}"#;
    gateway
        .send(
            &Request::post("/v1/chat/completions", body)
                .header("x-request-id", "inject-1")
                .header("User-Agent", "a\tb"),
        )
        .await;
    gateway.log.request("inject-1").await;
    assert!(gateway.log.json().iter().all(|line| line["request_id"] != "forged"));
    assert!(!gateway.log.text().contains('\u{1b}'));
}

#[tokio::test]
async fn a_key_in_the_url_is_not_logged() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    gateway
        .send(&Request::post("/v1/chat/completions?key=sk-hidden", r#"{"model":"m"}"#).header("x-request-id", "url-1"))
        .await;
    gateway.log.request("url-1").await;
    assert!(!gateway.log.text().contains("sk-hidden"), "{}", gateway.log.text());
}

#[tokio::test]
async fn metrics_are_packed_for_a_scraper_that_takes_that() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    gateway.send(&Request::chat("m")).await;
    let plain = gateway.admin("/metrics").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("accept-encoding")));
    for (accepts, packs) in [
        ("gzip", true),
        ("zstd;q=1, gzip;q=0.5", true),
        ("deflate,GZIP", true),
        ("gzip;q=0", false),
        ("gzip; q=0.0", false),
        ("identity", false),
    ] {
        let request = Request::get("/metrics").header("Connection", "close").header("accept-encoding", accepts);
        let answer = Connection::open(gateway.admin_address()).await.exchange(&request).await;
        assert_eq!(answer.header("content-encoding"), packs.then_some("gzip"), "{accepts}");
        let mut text = String::new();
        match packs {
            true => flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap(),
            false => (&answer.body[..]).read_to_string(&mut text).unwrap(),
        };
        assert!(text.contains("# TYPE tidegate_requests_total counter") && text.ends_with('\n'), "{accepts}");
        assert!(!packs || answer.body.len() * 3 < text.len(), "{} of {}", answer.body.len(), text.len());
    }
}
