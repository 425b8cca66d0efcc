//! Whole and streamed, with the usage and without, paced and compressed: one answer in all its forms.

use super::*;

#[tokio::test]
async fn whole_and_streamed_share_an_answer() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    backend.push(Script::chat("hello there, and more"));
    gateway.send(&Request::chat("m")).await;
    let streamed = gateway.send(&Request::stream("m")).await;
    assert!(is_hit(&streamed) && streamed.end == End::Whole, "{}", status(&streamed));
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    assert_eq!(said(&streamed), "hello there, and more");
    assert!(streamed.text().ends_with("data: [DONE]\n\n") && !streamed.text().contains("usage"));

    backend.push(stream_with_usage(&["one ", "two"]));
    let other = |stream: bool| {
        let body = json!({ "model": "m", "messages": [], "n": 1, "stream": stream });
        Request::post("/v1/chat/completions", body.to_string())
    };
    let live = gateway.send(&other(true)).await;
    assert_eq!((said(&live).as_str(), backend.count()), ("one two", 2));
    let whole = gateway.send(&other(false)).await;
    assert!(is_hit(&whole), "{}", status(&whole));
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "one two");
    assert_eq!(whole.json()["usage"], usage());
    assert_eq!(whole.json()["object"], "chat.completion");
    let again = gateway.send(&other(true)).await;
    assert!(is_hit(&again));
    let without_ids = |text: &str| {
        let events = text.split("data: ").filter_map(|event| serde_json::from_str::<Value>(event.trim()).ok());
        events.map(|event| event["choices"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(without_ids(again.text()), without_ids(live.text()));
}

#[tokio::test]
async fn the_usage_is_asked_for_behind_the_client_and_told_to_those_who_want_it() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    backend.push(stream_with_usage(&["a"]));
    let live = gateway.send(&Request::stream("m")).await;
    assert_eq!(backend.seen(0).await.json()["stream_options"], json!({ "include_usage": true }));
    assert!(!live.text().contains("usage") && live.text().ends_with("[DONE]\n\n"), "{}", live.text());
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": true,
        "stream_options": { "include_usage": true } });
    let asking = gateway.send(&Request::post("/v1/chat/completions", body.to_string())).await;
    assert!(is_hit(&asking));
    assert_eq!(asking.text().matches("\"usage\":{\"").count(), 1, "{}", asking.text());
}

#[tokio::test]
async fn a_stream_without_usage_is_told_as_a_stream_only() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "ask_usage: false").await;
    backend.push(Script::words(&["a"], Duration::ZERO)).push(Script::chat("whole"));
    gateway.send(&Request::stream("m")).await;
    assert!(backend.seen(0).await.json().get("stream_options").is_none());
    assert!(is_hit(&gateway.send(&Request::stream("m")).await));
    let whole = gateway.send(&Request::chat("m")).await;
    assert_eq!((status(&whole), backend.count()), ("tidegate; fwd=miss; stored", 2));
}

#[tokio::test]
async fn a_paced_stream_takes_its_time() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "pace: 50").await;
    backend.push(stream_with_usage(&["a", "b", "c", "d"]));
    gateway.send(&Request::stream("m")).await;
    let begun = std::time::Instant::now();
    let again = gateway.send(&Request::stream("m")).await;
    assert!(is_hit(&again) && said(&again) == "abcd");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    assert!(again.pieces.len() >= 5, "{}", again.pieces.len());
}

#[tokio::test]
async fn a_large_answer_is_compressed_where_room_is_short_and_told_as_it_was() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "size: 1MiB, compress_above: 4KiB, max_entry: 512KiB").await;
    let text = |name: &str| format!("{name}: {}", "the tide comes in and goes out ".repeat(8000));
    let request = |name: &str| {
        Request::chat("m").body(format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{name}"}}]}}"#))
    };
    let held = async || gateway.metrics().await.sum("tidegate_cache_bytes", &[]);
    let mut first = Vec::new();
    for name in ["one", "two", "three"] {
        backend.push(Script::chat(&text(name)));
        first.push((name, gateway.send(&request(name)).await));
        if name == "two" {
            assert!(held().await > 490_000.0, "there is room for both as they are: {}", held().await);
        }
    }
    let packed = async || held().await < 550_000.0;
    for _ in 0..500 {
        if packed().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(packed().await, "{}", held().await);
    for (name, first) in first {
        let again = gateway.send(&request(name)).await;
        assert!(is_hit(&again), "{name}");
        assert_eq!(plain(&again), plain(&first));
        let length = again.json()["id"].as_str().unwrap().len() - first.json()["id"].as_str().unwrap().len();
        assert_eq!(again.header("content-length"), Some(&*(first.body.len() + length).to_string()));
    }
    let body = r#"{"model":"m","messages":[{"role":"user","content":"three"}],"stream":true}"#;
    assert_eq!(said(&gateway.send(&Request::stream("m").body(body)).await), text("three"));
}
