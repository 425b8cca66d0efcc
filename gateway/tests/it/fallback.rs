//! Who answers when those who should cannot: after what, in which order, for whom, and that the answer says so.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key, refused};

fn refusal(status: &str, code: &str) -> Script {
    Script::status(status, format!(r#"{{"error":{{"message":"no: {code}","type":"x","param":null,"code":"{code}"}}}}"#))
}

/// A model `m` on the pool `local`, with what it falls back to, and a pool `cloud`.
fn config(local: &str, cloud: &str, fallback: &str) -> String {
    format!(
        "models:\n  m: {{ pool: local, as: small, {fallback} }}\n  big: {{ pool: cloud, as: large }}\npools:\n  local:\n    health: off\n    retries: 0\n    backends: [{local}]\n  cloud:\n    health: off\n    retries: 0\n    backends: [{cloud}]\n"
    )
}

#[tokio::test]
async fn what_cannot_be_answered_here_is_answered_there_and_says_so() {
    let cloud = Backend::start().await;
    let gateway = Gateway::start(&config(&refused(), cloud.url(), "fallback: [{ pool: cloud, as: mini }]")).await;
    cloud.always(Script::chat("hello"));
    let answer = gateway.send(&Request::chat("m").header("x-request-id", "r")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["model"], "m", "the client's own name for it");
    assert_eq!(cloud.only().await.model(), "mini");
    assert_eq!(answer.header("x-tidegate-fallback"), Some("unavailable"));
    assert_eq!(answer.header("x-tidegate-pool"), Some("cloud"));
    assert_eq!(answer.header("x-tidegate-model"), Some("mini"));
    let line = gateway.log.request("r").await;
    assert_eq!(
        (&line["fallback"], &line["pool"], &line["route"]),
        (&"unavailable".into(), &"cloud".into(), &"m".into())
    );
    gateway.metric_is("tidegate_fallbacks_total", &[("route", "m"), ("pool", "local")], 1.0).await;
    assert!(gateway.send(&Request::chat("big")).await.header("x-tidegate-fallback").is_none());
}

#[tokio::test]
async fn a_step_is_for_the_causes_it_names() {
    let too_long = "context_length_exceeded";
    for (script, on, cause) in [
        (refusal("429 Too Many Requests", "x"), "rate_limited", Some("rate_limited")),
        (refusal("503 Service Unavailable", "x"), "overloaded", Some("overloaded")),
        (refusal("500 Internal Server Error", "x"), "error", Some("error")),
        (refusal("500 Internal Server Error", "x"), "unavailable, overloaded, rate_limited", None),
        (refusal("400 Bad Request", too_long), "context_too_long", Some("context_too_long")),
        (refusal("400 Bad Request", "other"), "context_too_long", None),
        (refusal("400 Bad Request", too_long), "unavailable", None),
    ] {
        let (local, cloud) = (Backend::start().await, Backend::start().await);
        local.always(script);
        let steps = format!("fallback: [{{ model: big, on: [{on}] }}]");
        let gateway = Gateway::start(&config(local.url(), cloud.url(), &steps)).await;
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.header("x-tidegate-fallback"), cause, "{on}");
        match cause {
            Some(_) => assert_eq!((answer.status, cloud.only().await.model().as_str()), (200, "large"), "{on}"),
            None => assert!(answer.status >= 400 && cloud.count() == 0, "{on}"),
        }
        if answer.status == 400 {
            assert!(answer.openai_error(400)["message"].as_str().unwrap().starts_with("no: "), "told as it came");
        }
    }
}

#[tokio::test]
async fn the_larger_context_is_asked_in_whatever_words_a_server_says_that_its_own_is_too_small() {
    let (local, cloud) = (Backend::start().await, Backend::start().await);
    let fallback = "fallback: [{ model: big, on: [context_too_long] }]";
    let text = config(local.url(), cloud.url(), fallback).replace("retries: 0", "breaker: { consecutive: 1 }");
    let gateway = Gateway::start(&text).await;
    let tgi = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens";
    let sglang = "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens).";
    let vllm = "The decoder prompt (length 5000) is longer than the maximum model length of 4096.";
    let gemini = "The input token count (9000) exceeds the maximum number of tokens allowed (8192).";
    for (status, body) in [
        ("422 Unprocessable Entity", format!(r#"{{"error":"{tgi}","error_type":"validation"}}"#)),
        (
            "400 Bad Request",
            format!(r#"{{"object":"error","message":"{sglang}","type":"BadRequestError","code":400}}"#),
        ),
        ("400 Bad Request", format!(r#"{{"error":{{"message":"{vllm}","type":"BadRequestError","code":400}}}}"#)),
        ("413 Payload Too Large", r#"{"message":"Input is too long for requested model."}"#.to_owned()),
        ("400 Bad Request", format!(r#"[{{"error":{{"code":400,"message":"{gemini}"}}}}]"#)),
    ] {
        local.push(Script::status(status, &body));
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (200, Some("context_too_long")), "{body}");
    }
    // SGLang and TGI say it in a stream that they have begun. Nobody is at fault: the breaker would open at once.
    let event = format!(r#"data: {{"error":{{"message":"{sglang}","type":"BadRequestError","code":400}}}}"#) + "\n\n";
    for _ in 0..2 {
        local.push(Script::stream().chunk(&event).done().end());
        cloud.push(Script::words(&["a"], Duration::ZERO));
        let answer = gateway.send(&Request::stream("m")).await;
        assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (200, Some("context_too_long")));
        assert!(answer.text().contains("\"a\"") && !answer.text().contains("error"), "{}", answer.text());
    }
    // The same numbers, of a field.
    let other = "max_tokens is too large: 200000. This model supports at most 16384 completion tokens.";
    local.push(Script::status("400 Bad Request", format!(r#"{{"error":{{"message":"{other}","code":"x"}}}}"#)));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 400);
    assert_eq!((local.count(), cloud.count()), (8, 7));
}

#[tokio::test]
async fn steps_are_taken_in_order_those_of_a_model_included() {
    let last = Backend::start().await;
    let (a, b) = (refused(), refused());
    let text = format!(
        "models:\n  m: {{ pool: a, fallback: [n] }}\n  n: {{ pool: b, as: other, fallback: [{{ pool: c, as: final }}] }}\npools:\n  a: {{ health: off, backends: [\"{a}\"] }}\n  b: {{ health: off, backends: [\"{b}\"] }}\n  c: {{ health: off, backends: [\"{}\"] }}\n",
        last.url()
    );
    let gateway = Gateway::start(&text).await;
    let answer = gateway.send(&Request::chat("m").header("x-request-id", "r")).await;
    assert_eq!((answer.status, last.only().await.model().as_str()), (200, "final"));
    assert_eq!(gateway.log.request("r").await["fallback"], "unavailable,unavailable");
}

#[tokio::test]
async fn a_step_has_its_own_time_to_begin() {
    let (local, slow, good) = (refused(), Backend::start().await, Backend::start().await);
    slow.always(Script::new().hang());
    let steps = "fallback: [{ pool: cloud, timeout: 200ms }, { pool: third, on: [timeout] }]";
    let text = config(&local, slow.url(), steps) + &format!("  third: {{ health: off, backends: [{}] }}\n", good.url());
    let gateway = Gateway::start(&text).await;
    let began = Instant::now();
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (200, Some("timeout")));
    assert!(began.elapsed() >= Duration::from_millis(190) && began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_caller_goes_no_further_than_its_models_and_its_own_word() {
    let cloud = Backend::start().await;
    let (few, all) = (Key::new("few"), Key::new("all"));
    let keys = format!(
        "filters:\n  - api_key:\n      keys:\n        - {{ id: few, hash: \"{}\", models: [m] }}\n        - {{ id: all, hash: \"{}\" }}\n",
        few.hash, all.hash
    );
    let gateway = Gateway::start(&(keys + &config(&refused(), cloud.url(), "fallback: [big]"))).await;
    assert_eq!(gateway.send(&Request::chat("m").bearer(&few.key)).await.status, 502);
    let local_only = Request::chat("m").bearer(&all.key).header("x-tidegate-fallback", "off");
    assert_eq!(gateway.send(&local_only).await.status, 502);
    assert_eq!(cloud.count(), 0);
    assert_eq!(gateway.send(&Request::chat("m").bearer(&all.key)).await.status, 200);
}

#[tokio::test]
async fn a_long_queue_overflows_into_the_cloud() {
    let (local, cloud, gate) = (Backend::start().await, Backend::start().await, Gate::closed());
    local.always(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let narrow = format!("{{ url: {}, max_in_flight: 1 }}", local.url());
    let gateway = Gateway::start(&config(&narrow, cloud.url(), "fallback: [big], overflow_after: 100ms")).await;
    let mut first = gateway.connect().await;
    first.send(Request::chat("m").bytes()).await;
    local.seen(0).await;
    let began = Instant::now();
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (200, Some("overloaded")));
    assert!(began.elapsed() >= Duration::from_millis(90) && began.elapsed() < Duration::from_secs(5));
    let waited: u64 = answer.header("x-tidegate-queue-ms").unwrap().parse().unwrap();
    assert!(waited >= 90, "{waited}");
    gate.open();
    assert_eq!(first.answer().await.status, 200);
    assert_eq!((local.count(), cloud.count()), (1, 1));
}

#[tokio::test]
async fn who_cannot_pay_for_an_overflow_keeps_its_place_in_line() {
    let (local, cloud) = (Backend::start().await, Backend::start().await);
    let (busy, paid) = (Gate::closed(), Gate::closed());
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    local.always(Script::new().wait(&busy).send(answer));
    cloud.always(Script::new().wait(&paid).send(answer));
    let narrow = format!("{{ url: {}, max_in_flight: 1 }}", local.url());
    let money =
        "prices: { models: { m: {}, big: { request: 5 } } }\nfilters:\n  - limits: [{ per: global, cost: 8/day }]\n";
    let text = config(&narrow, cloud.url(), "fallback: [big], overflow_after: 100ms") + money;
    let gateway = Gateway::start(&text).await;
    let ask = |id: &'static str| {
        let (gateway, request) = (&gateway, Request::chat("m").header("x-request-id", id));
        async move { gateway.send(&request).await }
    };
    let mut first = gateway.connect().await;
    first.send(Request::chat("m").bytes()).await;
    local.seen(0).await;
    // Two would go to the cloud, and there is money for one: what it takes is held while it is there.
    let both = futures_util::future::join(ask("a"), ask("b"));
    let control = async {
        cloud.seen(0).await;
        gateway.metric_is("tidegate_queue_waiting", &[("pool", "local")], 1.0).await;
        let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
        assert_eq!((bucket["left"].as_f64(), bucket["reserved"].as_f64()), (Some(3.0), Some(5.0)), "{bucket}");
        // Long after it would have gone.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((local.count(), cloud.count()), (1, 1));
        paid.open();
        busy.open();
    };
    let ((a, b), ()) = futures_util::future::join(both, control).await;
    let went: Vec<_> = [&a, &b].map(|answer| answer.header("x-tidegate-fallback").is_some()).into();
    assert_eq!((a.status, b.status, went.iter().filter(|went| **went).count()), (200, 200, 1));
    let stayed = if went[0] { "b" } else { "a" };
    assert_eq!(gateway.log.request(stayed).await["notes"]["overflow"], "unaffordable");
    assert_eq!(first.answer().await.status, 200);
    assert_eq!((local.count(), cloud.count()), (2, 1));
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
    assert_eq!((bucket["left"].as_f64(), bucket["reserved"].as_f64()), (Some(3.0), Some(0.0)), "{bucket}");
}

#[tokio::test]
async fn an_overflow_that_costs_more_than_the_limit_ever_has_is_not_taken_once() {
    for (limit, price) in [("0.5/day", "{ request: 1 }"), ("0.001/day", "{ completion: 1000 }")] {
        let (local, cloud, busy) = (Backend::start().await, Backend::start().await, Gate::closed());
        local.always(
            Script::new()
                .wait(&busy)
                .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"),
        );
        let narrow = format!("{{ url: {}, max_in_flight: 1 }}", local.url());
        let money = format!(
            "prices: {{ models: {{ m: {{}}, big: {price} }} }}\nfilters:\n  - limits: [{{ per: global, cost: {limit} }}]\n"
        );
        let text = config(&narrow, cloud.url(), "fallback: [big], overflow_after: 50ms") + &money;
        let gateway = Gateway::start(&text).await;
        let mut first = gateway.connect().await;
        first.send(Request::chat("m").bytes()).await;
        local.seen(0).await;
        let control = async {
            gateway.metric_is("tidegate_queue_waiting", &[("pool", "local")], 1.0).await;
            // Long after it would have gone.
            tokio::time::sleep(Duration::from_millis(300)).await;
            busy.open();
        };
        let (answer, ()) = futures_util::future::join(gateway.send(&Request::chat("m")), control).await;
        assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (200, None), "{price}");
        assert_eq!((first.answer().await.status, local.count(), cloud.count()), (200, 2, 0), "{price}");
        let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
        assert!(bucket["left"].as_f64() > Some(0.0), "{bucket}");
    }
}

#[tokio::test]
async fn an_outage_lifts_no_limit_of_money() {
    let cloud = Backend::start().await;
    let money =
        "prices: { models: { m: {}, big: { request: 5 } } }\nfilters:\n  - limits: [{ per: global, cost: 8/day }]\n";
    let gateway = Gateway::start(&(config(&refused(), cloud.url(), "fallback: [big]") + money)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.header("x-tidegate-fallback"), Some("unavailable"));
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    for id in ["a", "b"] {
        let answer = gateway.send(&Request::chat("m").header("x-request-id", id)).await;
        assert_eq!((answer.status, answer.header("x-tidegate-fallback")), (502, None));
        assert_eq!(gateway.log.request(id).await["notes"]["fallback"], "unaffordable");
    }
    assert_eq!(cloud.count(), 1);
    let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
    assert_eq!((bucket["left"].as_f64(), bucket["reserved"].as_f64()), (Some(3.0), Some(0.0)), "{bucket}");
}
