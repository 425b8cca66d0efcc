//! What a request may ask of the gateway itself, and that a wish that cannot be read is refused.

use crate::backend::Backend;
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

#[tokio::test]
async fn a_wish_that_cannot_be_read_is_refused_in_the_protocol_of_who_has_it() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&pool_of(&[&backend])).await;
    for (name, value) in [
        ("x-tidegate-priority", "urgent"),
        ("x-tidegate-priority", "10"),
        ("x-tidegate-max-wait", "abc"),
        ("x-tidegate-max-wait", "-1"),
        ("x-tidegate-fallback", "of"),
        ("X-Tidegate-Hedge", "false"),
        ("x-tidegate-resume", "no"),
    ] {
        let error = gateway.send(&Request::chat("m").header(name, value)).await.openai_error(400);
        assert_eq!(error["code"], "invalid_header");
        assert!(error["message"].as_str().unwrap().contains(&name.to_lowercase()), "{error}");
    }
    let messages = Request::post("/v1/messages", r#"{"model":"m","max_tokens":9,"messages":[]}"#);
    let answer = gateway.send(&messages.header("x-tidegate-hedge", "nay")).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &"invalid_request_error".into()));
    assert_eq!(answer.json()["type"], "error");
    let twice = Request::chat("m").header("x-tidegate-hedge", "off").header("x-tidegate-hedge", "off");
    assert_eq!(gateway.send(&twice).await.openai_error(400)["code"], "invalid_header");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn what_can_be_read_and_what_means_nothing_here_passes() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&pool_of(&[&backend])).await;
    for (name, value) in [
        ("x-tidegate-priority", "batch"),
        ("x-tidegate-priority", "9"),
        ("x-tidegate-max-wait", "2.5"),
        ("x-tidegate-max-wait", "500ms"),
        ("x-tidegate-fallback", "on"),
        ("x-tidegate-hedge", "off"),
        ("x-tidegate-resume", "off"),
        ("x-tidegate-hedges", "of another gateway"),
    ] {
        assert_eq!(gateway.send(&Request::chat("m").header(name, value)).await.status, 200, "{name}: {value}");
    }
    assert_eq!(backend.seen(7).await.header("x-tidegate-hedges"), Some("of another gateway"));
}
