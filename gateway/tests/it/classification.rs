//! Rules that ask a small model for the class of a request.

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key, command, refused};

/// A small model that says `hard` of what has that word in it, and `easy` of anything else.
async fn small() -> Backend {
    let backend = Backend::start().await;
    backend.handle(|seen| {
        let asked = seen.json();
        let text = asked["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
        Script::chat(if text.contains("hard") { "Hard." } else { "easy" })
    });
    backend
}

fn config(small: &str, large: &str, classifier: &str, more: &str) -> String {
    format!(
        "pools:\n  small: {{ health: off, backends: [{{ url: {small}, key: of-the-small }}] }}\n  large: {{ health: off, backends: [{large}] }}\n\
         models:\n  small: {{ pool: small, as: tiny }}\n  large: {{ pool: large }}\n  easy: {{ pool: large }}\n\
         classifiers:\n  task:\n    model: small\n    labels: {{ easy: small talk, hard: whatever takes thought }}\n    otherwise: hard\n    {classifier}\n\
         filters:\n{more}  - model_route:\n      rules:\n        - {{ name: tools, when: has_tools, model: large }}\n        \
         - {{ name: easy, when: class(\"task\") == \"easy\", model: easy }}\n        \
         - {{ name: hard, when: class(\"task\") == \"hard\", model: large }}\n"
    )
}

fn ask(text: &str) -> Request {
    let body = serde_json::json!({ "model": "auto", "messages": [{ "role": "user", "content": text }] });
    Request::post("/v1/chat/completions", body.to_string())
}

async fn asked(gateway: &Gateway, outcome: &str, value: f64) {
    let labels = [("classifier", "task"), ("outcome", outcome)];
    gateway.metric_is("tidegate_classifier_requests_total", &labels, value).await;
}

#[tokio::test]
async fn a_request_goes_where_its_class_says_and_the_small_model_is_asked_once_at_most() {
    let (small, large) = (small().await, Backend::start().await);
    large.always(Script::chat("x"));
    let key = Key::new("k");
    let keys = format!("  - api_key: {{ keys: [{{ id: k, hash: {}, org: acme, models: [auto] }}] }}\n", key.hash);
    let gateway = Gateway::start(&config(small.url(), large.url(), "timeout: 20s", &keys)).await;
    let send = async |request: Request| gateway.send(&request.bearer(&key.key)).await;
    for (n, (text, served)) in [("hello", "easy"), ("a hard one", "large")].into_iter().enumerate() {
        let answer = send(ask(text).header("x-request-id", &format!("classified-{n}"))).await;
        assert_eq!((answer.status, answer.json()["model"].as_str().unwrap()), (200, "auto"), "{}", answer.text());
        assert_eq!(large.seen(n).await.model(), served);
        assert_eq!(small.count(), n + 1, "two rules look at the class, and it is asked once");
    }
    let seen = small.seen(1).await;
    let question = seen.json();
    assert_eq!((&question["model"], &question["temperature"]), (&"tiny".into(), &0.into()));
    assert_eq!(question["messages"][1]["content"], "a hard one");
    let told = question["messages"][0]["content"].as_str().unwrap();
    assert!(told.contains("easy, hard") && told.contains("hard: whatever takes thought"), "{told}");
    assert_eq!(seen.header("authorization"), Some("Bearer of-the-small"));
    assert!(!String::from_utf8_lossy(&seen.head).contains(&key.key));

    let line = gateway.log.line(|line| line["event"] == "request" && line["request_id"] == "classified-1").await;
    assert_eq!((&line["notes"]["class"], &line["notes"]["routed_by"]), (&"task=hard".into(), &"hard".into()));
    let line = gateway.log.line(|line| line["event"] == "classification" && line["request_id"] == "classified-1").await;
    assert_eq!(
        (&line["route"], &line["notes"]["classifier"], &line["completion_tokens"]),
        (&"small".into(), &"task".into(), &5.into())
    );

    // A rule that decides without it: nobody is asked.
    let tools = r#"{"model":"auto","messages":[{"role":"user","content":"new"}],"tools":[{"type":"function"}]}"#;
    assert_eq!(send(Request::post("/v1/chat/completions", tools)).await.status, 200);
    assert_eq!(small.count(), 2);
    asked(&gateway, "asked", 2.0).await;
    let metrics = gateway.metrics().await;
    let given = |class| metrics.sum("tidegate_classifier_classes_total", &[("classifier", "task"), ("class", class)]);
    assert_eq!((given("easy"), given("hard")), (1.0, 1.0));
    assert_eq!(metrics.sum("tidegate_classifier_duration_seconds_count", &[("classifier", "task")]), 2.0);
    assert_eq!(metrics.sum("tidegate_classifier_tokens_total", &[("gen_ai_token_type", "output")]), 10.0);
    assert_eq!(
        metrics.sum("gen_ai_client_token_usage_sum", &[("route", "small"), ("gen_ai_token_type", "output")]),
        10.0
    );
}

#[tokio::test]
async fn what_was_said_is_kept_for_each_tenant_by_itself() {
    let (small, large) = (small().await, Backend::start().await);
    large.always(Script::chat("x"));
    let keys = [Key::new("a"), Key::new("b")];
    let entries =
        format!("{{ id: a, hash: {}, org: acme }}, {{ id: b, hash: {}, org: globex }}", keys[0].hash, keys[1].hash);
    let more = format!("  - api_key: {{ keys: [{entries}] }}\n");
    let gateway = Gateway::start(&config(small.url(), large.url(), "timeout: 20s", &more)).await;
    for (key, so_far) in [(0, 1), (0, 1), (1, 2), (1, 2), (0, 2)] {
        assert_eq!(gateway.send(&ask("the same").bearer(&keys[key].key)).await.status, 200);
        assert_eq!(small.count(), so_far);
    }
    asked(&gateway, "cached", 3.0).await;
}

#[tokio::test]
async fn a_slow_or_dead_classifier_costs_its_time_at_most_and_the_file_says_what_counts() {
    let (hanging, large) = (Backend::start().await, Backend::start().await);
    hanging.always(Script::new().hang());
    large.always(Script::chat("x"));
    for (n, small) in [hanging.url().to_owned(), refused()].into_iter().enumerate() {
        let gateway = Gateway::start(&config(&small, large.url(), "timeout: 200ms", "")).await;
        let began = std::time::Instant::now();
        let answer = gateway.send(&ask("hello")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        // The pool's own first-byte timeout is minutes.
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        assert_eq!(large.seen(n).await.model(), "large");
        asked(&gateway, "failed", 1.0).await;
        // A failure is not kept.
        assert_eq!(gateway.send(&ask("hello")).await.status, 200);
        asked(&gateway, "failed", 2.0).await;
        large.seen(n * 2 + 1).await;
    }
}

#[tokio::test]
async fn an_answer_that_names_no_class_and_a_request_without_text_are_what_the_file_says() {
    let (small, large) = (Backend::start().await, Backend::start().await);
    small.always(Script::chat("I cannot say"));
    large.always(Script::chat("x"));
    let gateway = Gateway::start(&config(small.url(), large.url(), "timeout: 20s", "")).await;
    assert_eq!(gateway.send(&ask("hello")).await.status, 200);
    assert_eq!(gateway.send(&ask("")).await.status, 200);
    asked(&gateway, "unreadable", 1.0).await;
    asked(&gateway, "nothing", 1.0).await;
    assert_eq!(
        (small.count(), large.seen(0).await.model(), large.seen(1).await.model()),
        (1, "large".into(), "large".into())
    );
}

#[test]
fn check_points_at_a_class_that_is_never_given_and_explain_says_what_it_would_ask() {
    let folder = crate::gateway::Folder::new();
    let file = config("http://127.0.0.1:1", "http://127.0.0.1:2", "timeout: 1s", "");
    let wrong = file
        .replace("== \"easy\"", "== \"eazy\"")
        .replace("class(\"task\") == \"hard\"", "class(\"tusk\") == \"hard\"");
    let path = folder.write("wrong.yaml", &wrong.replace("otherwise: hard", "otherwise: harsh"));
    let output = command(&["check", &path.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    for fault in [
        "`task` gives no class `eazy`: there is easy, hard",
        "`classifiers` has no `tusk`: there is task",
        "`harsh` is none of the classes",
    ] {
        assert!(said.contains(fault), "{fault}: {said}");
    }

    let path = folder.write("gateway.yaml", &file.replace("models:\n", "models:\n  auto: { pool: large }\n"));
    let output = command(&["explain", "--config", &path.display().to_string(), "--model", "auto"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("rule easy asks small for the class by task, which is not asked here"), "{said}");
}
