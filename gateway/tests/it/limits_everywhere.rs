//! Every route is limited: whatever is asked for, and whatever becomes of it, is a request.

use serde_json::json;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key, pool_of};
use crate::websocket::{accept, handshake, open};

const FORM: &str = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--b--\r\n";

fn form(path: &str) -> Request {
    Request::post(path, FORM).without("content-type").header("content-type", "multipart/form-data; boundary=b")
}

fn post(path: &str, body: &str) -> Request {
    Request::post(path, body.to_owned())
}

/// What is asked for, and the status it gets while there is something left.
fn all() -> Vec<(Request, u16)> {
    let call = |path: &str| (post(path, r#"{"model":"m","input":"x","prompt":"x","messages":[],"max_tokens":1}"#), 200);
    vec![
        call("/v1/chat/completions"),
        call("/v1/completions"),
        call("/v1/embeddings"),
        call("/v1/responses"),
        call("/v1/rerank"),
        call("/v1/messages"),
        call("/v1/messages/count_tokens"),
        call("/tokenize"),
        (form("/v1/audio/transcriptions"), 200),
        (form("/v1/images/edits"), 200),
        (Request::get("/v1/files"), 200),
        (Request::get("/v1/models"), 200),
        (Request::get("/v1/models/m"), 200),
        (Request::get("/v1/models/none"), 404),
        (post("/v1/chat/completions", r#"{"model":"none","messages":[]}"#), 404),
        (post("/v1/chat/completions", r#"{"model":"n","messages":[]}"#), 403),
        (post("/v1/chat/completions", "{"), 400),
        (post("/v1/chat/completions", "{}"), 400),
        (Request::get("/v1/chat/completions"), 405),
        (Request::get("/nothing/here"), 404),
        (Request::get("/v1/realtime?model=m"), 400),
        (handshake("/v1/realtime?model=none"), 404),
    ]
}

fn config(backend: &Backend, key: &Key, limits: &str) -> String {
    format!(
        "{}other_paths: {{ pool: main }}\nmodels: {{ m: {{ pool: main }}, n: {{ pool: main }} }}\nfilters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\", models: [m, none] }} ] }}\n  - limits: [ {limits} ]\n",
        pool_of(&[backend]),
        key.hash
    )
}

async fn left(gateway: &Gateway) -> u64 {
    let buckets = gateway.admin("/admin/limits/global").await.json();
    buckets["buckets"][0]["left"].as_u64().unwrap()
}

/// The limits filter is asked before a body is read, or, where it counts tokens, after.
const EARLY: &str = "{ per: global, requests: 1k/h }";
const LATE: &str = "{ per: global, requests: 1k/h }, { per: global, tokens: 1M/h }";

#[tokio::test]
async fn every_request_counts_as_one_whatever_becomes_of_it() {
    for limits in [EARLY, LATE] {
        let (backend, key) = (Backend::start().await, Key::new("k"));
        let gateway = Gateway::start(&config(&backend, &key, limits)).await;
        let usage = json!({ "prompt_tokens": 1, "total_tokens": 1 });
        backend.handle(move |_| Script::json(json!({ "data": [], "usage": usage }).to_string()));
        for (at, (request, status)) in all().into_iter().enumerate() {
            let asked = String::from_utf8_lossy(&request.bytes()[..40]).into_owned();
            if request.target() == "/v1/files" && limits == EARLY {
                // A key that is kept to models may not use paths on which the model cannot be told.
                assert_eq!(gateway.send(&request.bearer(&key.key)).await.status, 403, "{asked}");
            } else if request.target() != "/v1/files" {
                assert_eq!(gateway.send(&request.bearer(&key.key)).await.status, status, "{asked}");
            } else {
                gateway.send(&request.bearer(&key.key)).await;
            }
            assert_eq!(left(&gateway).await, 999 - at as u64, "{asked}");
        }
        let before = left(&gateway).await;
        backend.push(Script::websocket_echo(&accept(), None));
        let _open = open(&gateway, &handshake("/v1/realtime?model=m").bearer(&key.key)).await;
        assert_eq!(left(&gateway).await, before - 1);
        // A stranger is told so, whatever it asks for, and takes nothing from those who are known.
        for (request, _) in all() {
            assert_eq!(gateway.send(&request).await.status, 401);
        }
        assert_eq!(left(&gateway).await, before - 1);
    }
}

#[tokio::test]
async fn every_request_is_refused_when_nothing_is_left() {
    for limits in ["{ per: global, requests: 1/h }", "{ per: global, requests: 1/h }, { per: global, tokens: 1M/h }"] {
        let (backend, key) = (Backend::start().await, Key::new("k"));
        let gateway = Gateway::start(&config(&backend, &key, limits)).await;
        assert_eq!(gateway.send(&Request::get("/nothing").bearer(&key.key)).await.status, 404);
        for (request, _) in all() {
            let asked = String::from_utf8_lossy(&request.bytes()[..40]).into_owned();
            let refused = gateway.send(&request.bearer(&key.key)).await;
            assert_eq!(refused.status, 429, "{asked}");
            assert!(refused.header("retry-after").is_some() && refused.header("x-ratelimit-limit-requests").is_some());
        }
        assert_eq!(gateway.send(&handshake("/v1/realtime?model=m").bearer(&key.key)).await.status, 429);
        assert_eq!(backend.count(), 0);
    }
}
