//! What is kept, for how long, and what requests and backends have to say about it.

use super::*;

#[tokio::test]
async fn what_is_not_whole_and_good_is_not_kept() {
    let large = chat(&"x".repeat(3000));
    let filtered = chat("cut").replace("\"stop\"", "\"content_filter\"");
    let error_event = Script::stream().token("a").chunk("data: {\"error\":{\"message\":\"x\"}}\n\n").done().end();
    let cases: Vec<(&str, bool, Script)> = vec![
        ("an error", false, Script::status("500 Oops", "{\"error\":{\"message\":\"x\"}}")),
        ("a mistake", false, Script::status("400 Bad Request", "{\"error\":{\"message\":\"x\"}}")),
        ("too large", false, Script::json(large)),
        ("filtered", false, Script::json(filtered)),
        (
            "not to be kept",
            false,
            Script::answer("200 OK", &[("content-type", "application/json"), ("cache-control", "no-store")], chat("a")),
        ),
        ("no answer", false, Script::json("{\"error\":{\"message\":\"x\"}}")),
        ("truncated", true, Script::stream().token("a").end()),
        ("cut", true, Script::stream().token("a").fin()),
        ("reset", true, Script::stream().token("a").reset()),
        ("an error event", true, error_event),
        ("too large a stream", true, Script::stream().token(&"x".repeat(3000)).chunk(finish()).done().end()),
    ];
    let backend = Backend::start().await;
    let gateway = shared(&backend, "max_entry: 2KiB").await;
    for (calls, (what, stream, script)) in cases.into_iter().enumerate() {
        let request = if stream { Request::stream(what) } else { Request::chat(what) };
        backend.push(script).push(if stream { Script::words(&["b"], Duration::ZERO) } else { Script::chat("b") });
        let first = gateway.send(&request).await;
        if !stream && first.status == 200 {
            assert!(!status(&first).contains("stored"), "{what}: {}", status(&first));
        }
        let again = gateway.send(&request).await;
        assert!(!is_hit(&again), "{what}");
        assert_eq!(backend.count(), 2 * calls + 2, "{what}");
    }
    let metrics = gateway.metrics().await;
    for (reason, count) in [("error", 3.0), ("large", 2.0), ("no-store", 1.0), ("filtered", 1.0)] {
        assert_eq!(metrics.sum("tidegate_cache_unstored_total", &[("reason", reason)]), count, "{reason}");
    }
}

#[tokio::test]
async fn requests_say_what_they_want_of_the_cache() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = shared(&backend, "").await;
    let ask = |control: &str| Request::chat("m").header("cache-control", control);
    let missed = gateway.send(&ask("only-if-cached")).await;
    assert_eq!((missed.openai_error(504)["code"].as_str(), backend.count()), (Some("not_cached"), 0));
    assert_eq!(missed.openai_error(504)["type"], "invalid_request_error");
    let messages = Request::post("/v1/messages", r#"{"model":"m","max_tokens":1,"messages":[]}"#);
    let messages = messages.header("cache-control", "only-if-cached").header("x-request-id", "absent");
    assert_eq!(gateway.send(&messages).await.json()["error"]["type"], "invalid_request_error");
    assert_eq!(gateway.log.request("absent").await["cause"], "validation");
    assert_eq!(missed.header("x-should-retry"), Some("false"));
    for calls in [1, 2] {
        assert_eq!(status(&gateway.send(&ask("no-store")).await), "tidegate; fwd=bypass; detail=no-store");
        assert_eq!(backend.count(), calls);
    }
    assert_eq!(status(&gateway.send(&Request::chat("m")).await), "tidegate; fwd=miss; stored");
    assert!(is_hit(&gateway.send(&ask("only-if-cached")).await) && is_hit(&gateway.send(&ask("max-age=60")).await));
    assert_eq!(status(&gateway.send(&ask("no-cache")).await), "tidegate; fwd=request; stored");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let aged = gateway.send(&Request::chat("m")).await;
    assert_eq!((is_hit(&aged), aged.header("age")), (true, Some("1")));
    assert_eq!(status(&gateway.send(&ask("max-age=0")).await), "tidegate; fwd=request; stored");
    assert_eq!(backend.count(), 5);

    let gateway = shared(&backend, "http: false").await;
    gateway.send(&ask("no-store")).await;
    let answer = gateway.send(&ask("no-store")).await;
    assert_eq!((backend.count(), answer.header("cache-status"), answer.header("age")), (6, None, None));
}

#[tokio::test]
async fn an_answer_is_good_for_its_time_and_models_have_times_of_their_own() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let pools = format!(
        "models: {{ short: {{ pool: main }}, never: {{ pool: main }}, '*': {{ pool: main }} }}\n{}",
        pool_of(&[&backend])
    );
    let cache = "  - prompt_cache: { scope: global, for: 1h, models: { short: 300ms, never: 0 } }\n";
    let gateway = Gateway::start(&format!("{pools}filters:\n{cache}")).await;
    for model in ["short", "never", "other"] {
        gateway.send(&Request::chat(model)).await;
    }
    assert!(is_hit(&gateway.send(&Request::chat("short")).await));
    assert_eq!(status(&gateway.send(&Request::chat("never")).await), "tidegate; fwd=bypass; detail=model");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!is_hit(&gateway.send(&Request::chat("short")).await));
    assert!(is_hit(&gateway.send(&Request::chat("other")).await));
}

#[tokio::test]
async fn an_old_answer_is_given_while_a_new_one_is_fetched_behind_it() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "for: 200ms, stale_while_revalidate: 1m").await;
    backend.push(Script::chat("old")).always(Script::chat("new"));
    gateway.send(&Request::chat("m")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stale = gateway.send(&Request::chat("m")).await;
    assert_eq!(stale.json()["choices"][0]["message"]["content"], "old");
    assert_eq!(status(&stale), "tidegate; hit; ttl=-1; detail=stale-while-revalidate");
    backend.seen(1).await;
    for _ in 0..50 {
        let answer = gateway.send(&Request::chat("m")).await;
        if answer.json()["choices"][0]["message"]["content"] == "new" {
            gateway.metric_is("tidegate_cache_stores_total", &[], backend.count() as f64).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the new answer never came: {}", gateway.log.text());
}

#[tokio::test]
async fn a_backend_that_is_out_is_bridged_by_old_answers_that_say_so() {
    let backend = Backend::start().await;
    let file = config(&backend, &[], "{ scope: global, for: 100ms, stale_if_error: 1m }");
    let gateway = Gateway::start(&file.replace("health: off", "health: off\n    retries: 0")).await;
    backend.push(Script::chat("old"));
    gateway.send(&Request::chat("m")).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    backend
        .push(Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"))
        .push(Script::status("503 Busy", "{}"));
    for said in [500, 503] {
        let stale = gateway.send(&Request::chat("m")).await;
        let told = format!("tidegate; fwd=stale; fwd-status={said}; ttl=-1; detail=stale-if-error");
        assert_eq!((stale.status, status(&stale)), (200, told.as_str()));
        assert_eq!(stale.json()["choices"][0]["message"]["content"], "old");
    }
    backend.push(Script::status("400 Bad Request", "{\"error\":{\"message\":\"yours\"}}"));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 400, "a client's own mistake is no outage");
    backend.push(Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"));
    assert_eq!(gateway.send(&Request::chat("another")).await.status, 500, "nothing is kept for it");
    for (control, stands_in) in [("no-cache", false), ("max-age=0", false), ("no-cache, stale-if-error=60", true)] {
        backend.push(Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"));
        let answer = gateway.send(&Request::chat("m").header("cache-control", control)).await;
        assert_eq!(answer.status == 200, stands_in, "{control}: {}", answer.status);
    }
    drop(backend);
    let stale = gateway.send(&Request::chat("m").header("x-request-id", "out")).await;
    assert!(!status(&stale).contains("fwd-status"), "nobody has said any: {}", status(&stale));
    assert_eq!((stale.status, stale.json()["choices"][0]["message"]["content"].as_str()), (200, Some("old")));
    assert!(status(&stale).ends_with("detail=stale-if-error"));
    assert!(gateway.log.request("out").await["error"].is_string(), "the outage is told in the log");
}

#[tokio::test]
async fn only_what_comes_out_the_same_is_kept_where_the_file_says_so() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = shared(&backend, "cache: deterministic").await;
    let ask = |more: &str| Request::post("/v1/chat/completions", format!("{{\"model\":\"m\",\"messages\":[]{more}}}"));
    assert_eq!(status(&gateway.send(&ask("")).await), "tidegate; fwd=bypass; detail=not-deterministic");
    for more in [",\"temperature\":0", ",\"seed\":7", ",\"temperature\":0.0,\"top_p\":1"] {
        assert_eq!(status(&gateway.send(&ask(more)).await), "tidegate; fwd=miss; stored", "{more}");
    }
    assert!(!is_hit(&gateway.send(&ask(",\"temperature\":0.1,\"seed\":null")).await));
}

#[tokio::test]
async fn what_is_kept_survives_a_reload_and_is_free_of_tokens() {
    let (backend, key) = (Backend::start().await, Key::new("a"));
    backend.always(Script::chat("hello"));
    let limits = "  - limits: [{ per: org, tokens: 100/h }]\n  - prompt_cache: { for: 1h }\n";
    let file = format!("{}{}{limits}", pool_of(&[&backend]), filters(&[(&key, "org: one")]));
    let gateway = Gateway::start(&file).await;
    let body = json!({ "model": "m", "messages": [], "max_tokens": 10 }).to_string();
    let ask = || Request::post("/v1/chat/completions", body.clone()).bearer(&key.key);
    gateway.send(&ask().header("x-request-id", "first")).await;
    gateway.log.request("first").await;
    let mut left = Vec::new();
    for id in ["one", "two", "three", "four"] {
        let answer = gateway.send(&ask().header("x-request-id", id)).await;
        left.push(answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap());
        // What a hit has reserved has been given back when its line is written.
        gateway.log.request(id).await;
    }
    assert_eq!(backend.count(), 1);
    assert!(left.iter().all(|tokens| *tokens >= left[0]), "hits cost nothing: {left:?}");
    gateway.rewrite(&file.replace("for: 1h", "for: 2h"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert!(is_hit(&gateway.send(&ask()).await));
}

#[tokio::test]
async fn renewals_are_charged_to_nobody_and_limited_by_nobody() {
    let (backend, key) = (Backend::start().await, Key::new("a"));
    let limits = "  - limits: [{ per: key, requests: 2/month, tokens: 100/month }, { per: global, in_flight: 1 }]\n";
    let cache = "  - prompt_cache: { for: 100ms, stale_while_revalidate: 1h }\n";
    let file = format!("{}{}{limits}{cache}", pool_of(&[&backend]), filters(&[(&key, "org: one")]));
    let gateway = Gateway::start(&file).await;
    backend.push(Script::chat("old")).always(Script::chat("new"));
    let ask = |id: &str| Request::chat("m").bearer(&key.key).header("x-request-id", id);
    gateway.send(&ask("first")).await;
    gateway.log.request("first").await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    // With it all its requests of the month are gone: its renewal asks nobody.
    assert!(is_hit(&gateway.send(&ask("second")).await));
    let renewal = gateway.log.line(|line| line["notes"]["cache"] == "renewal").await;
    assert_eq!((renewal["status"].as_u64(), backend.count()), (Some(200), 2), "{renewal}");
    assert!(renewal["key_id"].is_null() && renewal["org"].is_null(), "it is nobody's: {renewal}");
    assert_eq!(gateway.send(&ask("third")).await.openai_error(429)["code"], "insufficient_quota");
    let said = gateway.admin("/admin/spenders?by=key&of=tokens").await.json();
    assert_eq!(said["spenders"][0]["tokens"], 8, "those of the first answer: {said}");
    let left = gateway.admin("/admin/limits/key:k0").await.json();
    let of = |kind: &str| {
        let buckets = left["buckets"].as_array().unwrap().iter();
        buckets.filter(|bucket| bucket["kind"] == kind).map(|bucket| bucket["left"].clone()).next()
    };
    assert_eq!((of("requests"), of("tokens")), (Some(json!(0)), Some(json!(92))), "{left}");
}

#[tokio::test]
async fn a_ranking_is_kept_whole_and_one_of_other_documents_is_another() {
    let backend = Backend::start().await;
    let ranked = json!({ "id": "rank-1", "model": "m", "usage": { "total_tokens": 12 },
        "results": [{ "index": 1, "relevance_score": 0.9 }, { "index": 0, "relevance_score": 0.1 }] });
    backend.always(Script::json(ranked.to_string()));
    let gateway = shared(&backend, "").await;
    let ask = |documents: Value, more: &str| {
        let body = json!({ "model": "m", "query": "tides", "documents": documents }).to_string();
        Request::post("/v1/rerank", format!("{}{more}}}", &body[..body.len() - 1]))
    };
    let first = gateway.send(&ask(json!(["a", "b"]), "")).await;
    assert_eq!((status(&first), first.json()), ("tidegate; fwd=miss; stored", ranked.clone()));
    let again = gateway.send(&ask(json!(["a", "b"]), "")).await;
    assert!(is_hit(&again), "{}", status(&again));
    let mut told = again.json();
    assert!(told["id"].as_str().unwrap().len() > "rank-".len() + 20, "{told}");
    told["id"] = "rank-1".into();
    assert_eq!(told, ranked);
    for (documents, more) in [(json!(["b", "a"]), ""), (json!(["a"]), ""), (json!(["a", "b"]), ",\"top_n\":1")] {
        assert!(!is_hit(&gateway.send(&ask(documents, more)).await));
    }
    assert_eq!(backend.count(), 4);
}
