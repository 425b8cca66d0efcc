//! The last requests: what is told of them, to whom, and how many are kept.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{Backend, Script};
use crate::client::{Connection, Request, chat_body};
use crate::gateway::{Gateway, Key, command, command_with, pool_of};

/// The request with this id, as soon as it is over.
async fn request(gateway: &Gateway, id: &str) -> Value {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = gateway.admin(&format!("/admin/requests/{id}")).await;
        if answer.status == 200 {
            return answer.json();
        }
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")));
        assert!(Instant::now() < until, "{id} is not there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ids(page: &Value) -> Vec<&str> {
    page["requests"].as_array().unwrap().iter().map(|one| one["request_id"].as_str().unwrap()).collect()
}

fn steps(request: &Value) -> Vec<String> {
    let told = |step: &Value| {
        let text = |field: &str| step[field].as_str().unwrap_or_default();
        match text("step") {
            "filter" => format!("filter {}: {}", text("name"), text("verdict")),
            "attempt" => format!("{} at {}: {}", step["number"], text("backend"), text("outcome")),
            other => other.to_owned(),
        }
    };
    request["steps"].as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn a_request_is_told_step_by_step_without_what_was_said_or_any_key() {
    let (full, good, key) = (Backend::start().await, Backend::start().await, Key::new("k1"));
    full.always(Script::status("503 Service Unavailable", "{}"));
    good.always(Script::words(&["wor", "ds"], Duration::from_millis(10)));
    let file = format!(
        "filters:\n- api_key: {{ keys: [{{ id: k1, hash: \"{}\", user: ann, org: acme }}] }}\n- limits: [{{ per: user, requests: 1000/s }}]\npools:\n  main:\n    health: off\n    retries: {{ backoff: 1ms }}\n    backends: [{{ url: '{}', name: full }}, {{ url: '{}', name: good }}]\n",
        key.hash,
        full.url(),
        good.url()
    );
    let gateway = Gateway::start(&file).await;
    let body = chat_body("m", true).replace("hi", "a word in confidence");
    for id in ["r0", "r1"] {
        let sent = Request::post("/v1/chat/completions", body.clone()).header("x-request-id", id).bearer(&key.key);
        assert_eq!(gateway.send(&sent).await.status, 200);
    }
    let mut told = [request(&gateway, "r0").await, request(&gateway, "r1").await];
    told.sort_by_key(|one| one["attempts"].as_u64());
    let retried = &told[1];
    assert_eq!(
        steps(retried),
        [
            "filter api_key: continue",
            "filter limits: follow",
            "body",
            "1 at full: overloaded",
            "2 at good: answered",
            "first_token",
            "stream"
        ]
    );
    for (field, value) in [
        ("user", Value::from("ann")),
        ("key_id", "k1".into()),
        ("model", "m".into()),
        ("pool", "main".into()),
        ("backend", "good".into()),
        ("status", 200.into()),
        ("cause", "none".into()),
        ("attempts", 2.into()),
        ("retried", serde_json::json!(["overloaded"])),
    ] {
        assert_eq!(retried[field], value, "{field}: {retried}");
    }
    // Each is within the request, and no attempt begins before the one before is over.
    let whole = retried["duration_ms"].as_f64().unwrap();
    let times: Vec<_> = retried["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            (step["at_ms"].as_f64().unwrap(), step["at_ms"].as_f64().unwrap() + step["took_ms"].as_f64().unwrap())
        })
        .collect();
    assert!(times.iter().all(|(at, end)| at <= end && *end <= whole + 0.002), "{retried}");
    assert!(times[3].1 <= times[4].0 + 0.002, "{retried}");
    assert!(retried["overhead_ms"].as_f64().unwrap() <= whole);
    let all = gateway.admin("/admin/requests").await;
    for secret in ["confidence", "\"wor", &key.hash, &key.key] {
        assert!(!all.text().contains(secret), "{secret}: {}", all.text());
    }
    let trace = retried["trace_id"].as_str().unwrap();
    assert_eq!(request(&gateway, trace).await["request_id"], retried["request_id"]);
    assert_eq!(gateway.log.request(retried["request_id"].as_str().unwrap()).await["trace_id"], trace);
}

#[tokio::test]
async fn as_many_are_kept_as_the_file_says_and_are_found_by_what_they_are() {
    let backend = Backend::start().await;
    let file = format!("recent: {{ requests: 4, size: 1MiB }}\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&file).await;
    let mut connection = gateway.connect().await;
    for n in 0..6 {
        if n == 4 {
            backend.push(Script::status("500 Internal Server Error", "{}"));
        }
        let model = if n % 2 == 0 { "even" } else { "odd" };
        connection.exchange(&Request::chat(model).header("x-request-id", &format!("r{n}"))).await;
    }
    request(&gateway, "r5").await;
    let asked = async |query: &str| gateway.admin(&format!("/admin/requests{query}")).await.json();
    let all = asked("").await;
    assert_eq!((ids(&all), &all["next"], &all["kept"]), (vec!["r5", "r4", "r3", "r2"], &Value::Null, &4.into()));
    assert_eq!(ids(&asked("?model=even").await), ["r4", "r2"]);
    assert_eq!(ids(&asked("?status=5xx").await), ["r4"]);
    assert_eq!(ids(&asked("?cause=failed").await), ["r4"]);
    assert_eq!(ids(&asked("?slower_ms=3600000").await), Vec::<&str>::new());
    let first = asked("?limit=3").await;
    assert_eq!(ids(&first), ["r5", "r4", "r3"]);
    assert_eq!(ids(&asked(&format!("?limit=3&before={}", first["next"])).await), ["r2"]);
    assert_eq!(gateway.admin("/admin/requests?sort=time").await.status, 400);
    let gone = gateway.admin("/admin/requests/r0").await;
    assert!(gone.status == 404 && gone.json()["detail"].as_str().unwrap().contains("the last 4"), "{}", gone.text());
    gateway.rewrite(&format!("recent: {{ requests: 0 }}\n{}", pool_of(&[&backend])));
    let reload = Request::new("POST", "/admin/reload").header("connection", "close");
    assert_eq!(Connection::open(gateway.admin_address()).await.exchange(&reload).await.status, 200);
    connection.exchange(&Request::chat("m").header("x-request-id", "r6")).await;
    gateway.log.request("r6").await;
    assert_eq!(asked("").await["kept"], 0);
    assert_eq!(gateway.metrics().await.sum("tidegate_memory_bytes", &[("purpose", "recent")]), 0.0);
}

#[tokio::test]
async fn explain_tells_of_a_request_that_is_over_what_happened_and_why() {
    let backend = Backend::start().await;
    backend.push(Script::status("500 Internal Server Error", "{}"));
    let file = format!("admin: {{ listen: '127.0.0.1:$ADMIN', token: of-the-test }}\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&file).await;
    gateway.send(&Request::chat("m").header("x-request-id", "went wrong/1")).await;
    gateway.log.request("went wrong/1").await;
    let admin = format!("http://127.0.0.1:{}", gateway.admin_port);
    let token = [("TIDEGATE_ADMIN__TOKEN", "of-the-test")];
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = command_with(&[&["explain"], arguments].concat(), environment);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code().unwrap())
    };
    // Written a moment after the line in the log.
    let until = Instant::now() + Duration::from_secs(10);
    let (out, err, code) = loop {
        let outcome = run(&["went wrong/1", "--admin", &admin], &token);
        if outcome.2 == 0 || Instant::now() > until {
            break outcome;
        }
    };
    assert_eq!(code, 0, "{err}");
    for part in [
        "POST /v1/chat/completions, model m",
        "(upstream_error)",
        "attempt 1 at",
        "answered 500",
        "the backend's fault",
        "==",
    ] {
        assert!(out.contains(part), "{part}:\n{out}");
    }
    let config = gateway.folder.path().join("gateway.yaml");
    let (out, err, code) = run(&["went wrong/1", "--config", config.to_str().unwrap(), "--format", "json"], &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["request_id"], "went wrong/1");
    let (_, err, code) = run(&["nobody", "--admin", &admin], &token);
    assert!(code == 1 && err.contains("there is no such request"), "{err}");
    let (_, err, code) = run(&["nobody", "--admin", &admin], &[]);
    assert!(code == 1 && err.contains("wants a token"), "{err}");
    let (_, err, code) = run(&["nobody", "--admin", "http://127.0.0.1:1"], &[]);
    assert!(code == 1 && err.contains("does not answer"), "{err}");
    assert_eq!(command(&["explain"]).status.code(), Some(2), "a file or an id has to be named");
}

#[tokio::test]
async fn requests_with_the_same_id_are_told_of_with_the_last_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}    retries: 0\n", pool_of(&[&backend]))).await;
    backend.push(Script::status("500 Internal Server Error", "{}"));
    let dupe = Request::chat("m").header("x-request-id", "dupe");
    assert_eq!(gateway.send(&dupe).await.status, 500);
    let first = request(&gateway, "dupe").await;
    assert!(first.get("others").is_none(), "{first}");
    assert_eq!(gateway.send(&dupe).await.status, 200);
    gateway.metric_is("tidegate_requests_total", &[("status", "2xx"), ("cause", "none")], 1.0).await;
    let last = request(&gateway, "dupe").await;
    assert_eq!((&last["status"], &last["others_in_all"]), (&200.into(), &1.into()), "{last}");
    let other = &last["others"][0];
    assert_eq!(
        (&other["number"], &other["status"], &other["cause"]),
        (&first["number"], &500.into(), &"upstream_error".into())
    );
    let of_number = gateway.admin(&format!("/admin/requests/dupe?number={}", first["number"])).await.json();
    assert_eq!((&of_number["status"], &of_number["others"][0]["status"]), (&500.into(), &200.into()));
    assert_eq!(gateway.admin("/admin/requests/dupe?number=99").await.status, 404);
    assert_eq!(gateway.admin("/admin/requests/dupe?number=x").await.status, 400);

    let admin = format!("http://{}", gateway.admin_address());
    let explain = |more: &[&str]| {
        let output = command(&[&["explain", "dupe", "--admin", &admin], more].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let (told, number) = (explain(&[]), first["number"].to_string());
    assert!(told.contains(&format!("--number {number}: ")) && told.contains("500 (upstream_error)"), "{told}");
    assert!(explain(&["--number", &number]).contains("answer"), "{told}");
}
