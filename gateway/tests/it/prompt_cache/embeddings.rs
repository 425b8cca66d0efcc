//! Embeddings are kept input by input.

use super::*;
use crate::gateway::Folder;

/// Answers with the vectors of its three inputs.
fn embeds(backend: &Backend) {
    backend.handle(|seen| {
        let (asked, base64) = (seen.json()["input"].clone(), seen.json()["encoding_format"] == "base64");
        let inputs = asked.as_array().cloned().unwrap_or_else(|| vec![asked]);
        let vector = |text: &Value| match base64 {
            true => json!({ "a": "AADAPw==", "b": "AAAgQA==", "c": "AABgQA==" })[text.as_str().unwrap()].clone(),
            false => json!({ "a": [1.5], "b": [2.5], "c": [3.5] })[text.as_str().unwrap()].clone(),
        };
        let data: Vec<Value> = inputs
            .iter()
            .enumerate()
            .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
            .collect();
        let usage = json!({ "prompt_tokens": 2 * data.len(), "total_tokens": 2 * data.len() });
        Script::json(json!({ "object": "list", "data": data, "model": "tiny-random", "usage": usage }).to_string())
    });
}

fn ask(input: Value, format: &str) -> Request {
    let body = json!({ "model": "m", "input": input, "encoding_format": format });
    Request::post("/v1/embeddings", body.to_string())
}

fn vectors(answer: &Answer) -> Vec<Value> {
    let data = answer.json()["data"].as_array().unwrap().clone();
    assert!(data.iter().enumerate().all(|(at, item)| item["index"] == at), "{data:?}");
    data.into_iter().map(|item| item["embedding"].clone()).collect()
}

#[tokio::test]
async fn embeddings_are_asked_for_input_by_input() {
    let backend = Backend::start().await;
    embeds(&backend);
    let gateway = shared(&backend, "").await;
    let first = gateway.send(&ask(json!(["a", "b"]), "float")).await;
    assert_eq!((vectors(&first), status(&first)), (vec![json!([1.5]), json!([2.5])], "tidegate; fwd=miss; stored"));
    let mixed = gateway.send(&ask(json!(["c", "b", "a"]), "float")).await;
    assert_eq!(backend.seen(1).await.json()["input"], json!(["c"]));
    assert_eq!(vectors(&mixed), [json!([3.5]), json!([2.5]), json!([1.5])]);
    assert_eq!(mixed.json()["usage"], json!({ "prompt_tokens": 6, "total_tokens": 6 }));
    assert_eq!(status(&mixed), "tidegate; fwd=partial; stored; detail=\"2 of 3 kept\"");
    let kept = gateway.send(&ask(json!(["b", "c"]), "base64")).await;
    assert_eq!(vectors(&kept), ["AAAgQA==", "AABgQA=="]);
    assert!(is_hit(&kept) && kept.json()["model"] == first.json()["model"] && kept.json()["object"] == "list");
    let one = gateway.send(&ask(json!("a"), "float")).await;
    assert_eq!((vectors(&one), backend.count()), (vec![json!([1.5])], 2));
    let short = json!({ "model": "m", "input": "a", "dimensions": 1 });
    gateway.send(&Request::post("/v1/embeddings", short.to_string())).await;
    assert_eq!(backend.count(), 3, "another size is another vector");
}

#[tokio::test]
async fn inputs_that_are_in_the_file_are_not_asked_for_after_a_restart() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    embeds(&backend);
    let settings = format!("file: {{ path: {} }}", folder.path().join("answers.db").display());
    let mut gateway = shared(&backend, &settings).await;
    gateway.send(&ask(json!(["a", "b"]), "float")).await;
    gateway.signal("TERM");
    gateway.ended(Duration::from_secs(20)).await;
    let gateway = shared(&backend, &settings).await;
    let mixed = gateway.send(&ask(json!(["b", "c", "a"]), "base64")).await;
    assert_eq!(vectors(&mixed), ["AAAgQA==", "AABgQA==", "AADAPw=="]);
    assert_eq!(backend.seen(1).await.json()["input"], json!(["c"]));
    assert_eq!(status(&mixed), "tidegate; fwd=partial; stored; detail=\"2 of 3 kept\"");
}

#[tokio::test]
async fn an_input_that_stands_twice_in_a_batch_is_asked_for_once() {
    let backend = Backend::start().await;
    embeds(&backend);
    let gateway = shared(&backend, "").await;
    let batch = ask(json!(["a", "b", "a", "a"]), "float");
    let first = gateway.send(&batch).await;
    assert_eq!(vectors(&first), [json!([1.5]), json!([2.5]), json!([1.5]), json!([1.5])]);
    assert_eq!(backend.seen(0).await.json()["input"], json!(["a", "b"]));
    assert_eq!(status(&first), "tidegate; fwd=miss; stored");
    assert_eq!(first.json()["usage"]["prompt_tokens"], 8, "as if all had been asked for");
    let again = gateway.send(&batch).await;
    assert!(is_hit(&again));
    assert_eq!((vectors(&again), again.json()["usage"].clone()), (vectors(&first), first.json()["usage"].clone()));
    let mixed = gateway.send(&ask(json!(["c", "b", "c"]), "float")).await;
    assert_eq!(vectors(&mixed), [json!([3.5]), json!([2.5]), json!([3.5])]);
    assert_eq!(status(&mixed), "tidegate; fwd=partial; stored; detail=\"1 of 3 kept\"");
    assert_eq!(backend.seen(1).await.json()["input"], json!(["c"]));
}

#[tokio::test]
async fn vectors_in_another_order_are_kept_by_their_index_and_what_is_not_kept_is_not_said_to_be() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    let item = |index: usize, vector: f64| json!({ "object": "embedding", "index": index, "embedding": [vector] });
    let answer = |data: Value| Script::json(json!({ "object": "list", "model": "m", "data": data }).to_string());
    backend.push(answer(json!([item(1, 2.5), item(0, 1.5)])));
    let first = gateway.send(&ask(json!(["a", "b"]), "float")).await;
    assert_eq!(status(&first), "tidegate; fwd=miss; stored");
    let again = gateway.send(&ask(json!(["a", "b"]), "float")).await;
    assert!(is_hit(&again), "{}", status(&again));
    assert_eq!(vectors(&again), [json!([1.5]), json!([2.5])]);
    backend.push(answer(json!([item(0, 1.5)]))).push(answer(json!([item(0, 3.5), item(1, 4.5)])));
    let batch = ask(json!(["c", "d"]), "float");
    assert_eq!(status(&gateway.send(&batch).await), "tidegate; fwd=miss");
    assert_eq!(status(&gateway.send(&batch).await), "tidegate; fwd=miss; stored");
}

#[tokio::test]
async fn old_vectors_stand_in_for_a_backend_that_fails_if_all_of_a_batch_are_there() {
    let backend = Backend::start().await;
    embeds(&backend);
    let file = config(&backend, &[], "{ scope: global, for: 100ms, stale_if_error: 1m }");
    let gateway = Gateway::start(&file.replace("health: off", "health: off\n    retries: 0")).await;
    gateway.send(&ask(json!(["a", "b"]), "float")).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    gateway.send(&ask(json!("c"), "float")).await;
    backend.handle(|_| Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"));
    let stale = gateway.send(&ask(json!(["b", "a"]), "base64")).await;
    assert_eq!((stale.status, vectors(&stale)), (200, vec![json!("AAAgQA=="), json!("AADAPw==")]));
    assert_eq!(status(&stale), "tidegate; fwd=stale; fwd-status=500; ttl=-1; detail=stale-if-error");
    let control = ask(json!(["b", "a"]), "base64").header("cache-control", "no-cache");
    assert_eq!(gateway.send(&control).await.status, 500, "its client takes no old ones");
    assert_eq!(gateway.send(&ask(json!(["b", "a", "d"]), "base64")).await.status, 500, "one of them is not there");
}
