//! What comes under a good status and is no answer: whose fault it is, and who is asked instead.

use std::time::Duration;

use crate::backend::{Backend, Script, chat};
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

/// What no client should get for an answer, and the cause that it counts as.
fn none_at_all() -> Vec<(&'static str, &'static str, Request, Script)> {
    let error = || Script::json(r#"{"error":{"message":"CUDA out of memory","code":500}}"#);
    let page = || Script::answer("200 OK", &[("content-type", "text/html")], "<html>it works</html>");
    vec![
        ("error_event", "an error", Request::chat("m"), error()),
        (
            "error_event",
            "vLLM's error",
            Request::chat("m"),
            Script::json(r#"{"object":"error","message":"x","code":500}"#),
        ),
        ("error_event", "an error for a stream", Request::stream("m"), error()),
        ("malformed", "a page", Request::chat("m"), page()),
        ("malformed", "a page for a stream", Request::stream("m"), page()),
        ("malformed", "half a document", Request::chat("m"), Script::json(r#"{"choices":["#)),
        ("malformed", "an answer for a stream", Request::stream("m"), Script::json(chat("x"))),
        ("malformed", "a stream for an answer", Request::chat("m"), Script::words(&["x"], Duration::ZERO)),
        ("malformed", "no HTTP", Request::chat("m"), Script::new().send("HELO\r\n\r\n").fin()),
        ("lost", "a stream of nothing but its end", Request::stream("m"), Script::stream().done().end()),
        (
            "lost",
            "the same after a comment",
            Request::stream("m"),
            Script::stream().chunk(": hi\n\ndata: [DONE]\n\n").end(),
        ),
    ]
}

#[tokio::test]
async fn it_is_asked_of_another_where_the_pool_says_so() {
    for hold in ["", "    hold: content\n"] {
        for (cause, what, request, script) in none_at_all() {
            let (a, b) = (Backend::start().await, Backend::start().await);
            a.always(script);
            b.handle(|seen| match seen.json()["stream"] == true {
                true => Script::words(&["fine"], Duration::ZERO),
                false => Script::chat("fine"),
            });
            let rules = format!("    balance: round_robin\n    retries: {{ on: [connect, {cause}] }}\n{hold}");
            let gateway = Gateway::start(&(pool_of(&[&a, &b]) + &rules)).await;
            for _ in 0..2 {
                let answer = gateway.send(&request).await;
                assert!(answer.status == 200 && answer.text().contains("fine"), "{what}: {}", answer.text());
            }
            assert_eq!((a.count(), b.count()), (2, 2), "{what}");
            gateway.metric_is("tidegate_retries_total", &[("cause", cause)], 2.0).await;
            gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
        }
    }
}

#[tokio::test]
async fn it_goes_along_a_fallback_for_errors() {
    for (_, what, request, script) in none_at_all() {
        let (a, b) = (Backend::start().await, Backend::start().await);
        a.always(script);
        b.handle(|seen| match seen.json()["stream"] == true {
            true => Script::words(&["fine"], Duration::ZERO),
            false => Script::chat("fine"),
        });
        let pool = |name, backend: &Backend| format!("  {name}: {{ health: off, backends: [{}] }}\n", backend.url());
        let models = "models:\n  m: { pool: main, fallback: [{ pool: other, on: [error] }] }\n";
        let gateway = Gateway::start(&format!("pools:\n{}{}{models}", pool("main", &a), pool("other", &b))).await;
        let answer = gateway.send(&request).await;
        assert!(answer.status == 200 && answer.text().contains("fine"), "{what}: {}", answer.text());
        assert_eq!((answer.header("x-tidegate-fallback"), a.count()), (Some("error"), 1), "{what}");
    }
}

#[tokio::test]
async fn it_is_told_as_the_backends_fault_and_run_once_where_the_pool_says_nothing() {
    for (_, what, request, script) in none_at_all() {
        let backend = Backend::start().await;
        backend.always(script);
        let rules = "    breaker: { consecutive: 2, pause: 1h, panic_below: 0 }\n";
        let gateway = Gateway::start(&(pool_of(&[&backend]) + rules)).await;
        for n in 1..=2 {
            let answer = gateway.send(&request).await;
            assert_eq!((answer.status, backend.count()), (502, n), "{what}: {}", answer.text());
            assert!(!answer.text().contains("CUDA"), "{what}: {}", answer.text());
        }
        gateway.metric_is("tidegate_backend_breaker_opened_total", &[], 1.0).await;
    }
}
