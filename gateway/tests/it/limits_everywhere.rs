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

/// One backend whose answers tell their usage; the key of a user, that of a service, and a cache that they share.
struct House {
    gateway: Gateway,
    backend: Backend,
    keys: [Key; 2],
}

const USER: usize = 0;
const SERVICE: usize = 1;

impl House {
    async fn new(limits: &str) -> Self {
        let (backend, keys) = (Backend::start().await, [Key::new("a"), Key::new("s")]);
        backend.handle(|_| {
            let choice =
                json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
            let usage = json!({ "prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50 });
            Script::json(
                json!({ "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage }).to_string(),
            )
        });
        let gateway = Gateway::start(&format!(
            "{}other_paths: {{ pool: main }}\nmodels: {{ m: {{ pool: main }}, n: {{ pool: main }} }}\nprices: {{ models: {{ \"*\": {{ request: 2 }} }} }}\nfilters:\n  - api_key: {{ keys: [ {{ id: a, hash: \"{}\", org: acme, user: ann }}, {{ id: s, hash: \"{}\", org: acme, service: nightly }} ] }}\n  - limits: [ {limits} ]\n  - prompt_cache: {{ scope: global }}\n",
            pool_of(&[&backend]),
            keys[0].hash,
            keys[1].hash
        ))
        .await;
        Self { gateway, backend, keys }
    }

    /// The status of each, asked one after the other: whose key, and a path or a model.
    async fn statuses(&self, asked: &[(usize, &str)]) -> Vec<u16> {
        let mut statuses = Vec::new();
        for (key, what) in asked {
            let request = if what.starts_with('/') { Request::get(what) } else { Request::chat(what) };
            statuses.push(self.gateway.send(&request.bearer(&self.keys[*key].key)).await.status);
        }
        statuses
    }

    /// What is left of each kind once all requests are settled.
    async fn left(&self, kinds: [&str; 3]) -> [f64; 3] {
        self.gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        let seen = self.gateway.admin("/admin/limits/global").await.json();
        kinds.map(|kind| {
            let buckets = seen["buckets"].as_array().unwrap();
            let bucket = buckets.iter().find(|bucket| bucket["kind"] == kind).unwrap();
            assert_eq!(bucket["reserved"].as_f64(), Some(0.0), "{bucket}");
            bucket["left"].as_f64().unwrap()
        })
    }
}

const EACH: &str = "per: global, requests: 100/day, tokens: 10k/day, cost: 100/day";
const KINDS: [&str; 3] = ["requests", "tokens", "cost"];

#[tokio::test]
async fn an_answer_from_a_cache_is_a_request_and_costs_no_tokens_and_no_money() {
    let house = House::new(&format!("{{ {EACH} }}")).await;
    assert_eq!(house.statuses(&[(USER, "m"), (USER, "m"), (SERVICE, "m")]).await, [200; 3]);
    assert_eq!(house.backend.count(), 1, "the others were answered from the cache");
    assert_eq!(house.left(KINDS).await, [97.0, 9_950.0, 98.0]);
}

#[tokio::test]
async fn an_answer_from_a_cache_is_paid_for_where_the_file_says_so() {
    let house = House::new(&format!("{{ {EACH}, cache_hits: full }}")).await;
    assert_eq!(house.statuses(&[(USER, "m"), (USER, "m"), (SERVICE, "m")]).await, [200; 3]);
    assert_eq!(house.backend.count(), 1);
    assert_eq!(house.left(KINDS).await, [97.0, 9_850.0, 94.0]);
}

#[tokio::test]
async fn an_answer_from_a_cache_is_refused_when_nothing_is_left() {
    let house = House::new("{ per: key, requests: 1/h }").await;
    assert_eq!(house.statuses(&[(USER, "m"), (USER, "m"), (SERVICE, "m"), (SERVICE, "m")]).await, [200, 429, 200, 429]);
    assert_eq!(house.backend.count(), 1);
}

#[tokio::test]
async fn each_route_has_a_bucket_and_all_other_paths_are_one() {
    let house = House::new("{ per: route, requests: 2/h }").await;
    let asked = [
        (USER, "m"),
        (SERVICE, "m"),
        (USER, "m"),
        (USER, "n"),
        (USER, "/v1/models"),
        (USER, "/nothing"),
        (USER, "/v1/files"),
    ];
    assert_eq!(house.statuses(&asked).await, [200, 200, 429, 200, 200, 404, 429]);
}

#[tokio::test]
async fn a_limit_per_service_is_for_services_whatever_they_ask_for() {
    let house = House::new("{ per: service, requests: 2/h }").await;
    let asked = [
        (SERVICE, "m"),
        (SERVICE, "/nothing"),
        (SERVICE, "n"),
        (SERVICE, "/v1/models"),
        (USER, "m"),
        (USER, "m"),
        (USER, "m"),
    ];
    assert_eq!(house.statuses(&asked).await, [200, 404, 429, 429, 200, 200, 200]);
}

#[tokio::test]
async fn a_limit_per_service_and_route() {
    let house = House::new("{ per: [service, route], requests: 1/h }").await;
    let asked = [
        (SERVICE, "m"),
        (SERVICE, "n"),
        (SERVICE, "/nothing"),
        (SERVICE, "m"),
        (SERVICE, "/v1/models"),
        (USER, "m"),
        (USER, "m"),
    ];
    assert_eq!(house.statuses(&asked).await, [200, 200, 404, 429, 429, 200, 200]);
}

#[tokio::test]
async fn a_limit_per_service_and_model_is_for_requests_that_name_one() {
    let house = House::new("{ per: [service, model], requests: 1/h }").await;
    let asked = [
        (SERVICE, "m"),
        (SERVICE, "n"),
        (SERVICE, "m"),
        (SERVICE, "/nothing"),
        (SERVICE, "/nothing"),
        (USER, "m"),
        (USER, "m"),
    ];
    assert_eq!(house.statuses(&asked).await, [200, 200, 429, 404, 404, 200, 200]);
}

#[tokio::test]
async fn a_limit_per_service_and_address() {
    let house = House::new("{ per: [service, ip], requests: 1/h }").await;
    let asked = [(SERVICE, "m"), (SERVICE, "n"), (USER, "m"), (USER, "m")];
    assert_eq!(house.statuses(&asked).await, [200, 429, 200, 200]);
}

#[tokio::test]
async fn a_limit_per_route_and_key() {
    let house = House::new("{ per: [route, key], requests: 1/h }").await;
    let asked = [
        (SERVICE, "m"),
        (USER, "m"),
        (SERVICE, "m"),
        (USER, "m"),
        (USER, "/nothing"),
        (SERVICE, "/nothing"),
        (USER, "/nothing"),
    ];
    assert_eq!(house.statuses(&asked).await, [200, 200, 429, 429, 404, 404, 429]);
}

#[tokio::test]
async fn a_limit_per_route_and_organisation() {
    let house = House::new("{ per: [route, org], requests: 1/h }").await;
    let asked = [(SERVICE, "m"), (USER, "m"), (USER, "n"), (USER, "/nothing"), (SERVICE, "/v1/models")];
    assert_eq!(house.statuses(&asked).await, [200, 429, 200, 404, 429]);
}

#[tokio::test]
async fn a_limit_per_route_and_user_and_one_per_route_and_address() {
    let house = House::new("{ per: [route, user], requests: 1/h }, { per: [ip, route], requests: 3/h }").await;
    let asked = [(USER, "m"), (USER, "m"), (SERVICE, "m"), (SERVICE, "m"), (SERVICE, "m"), (SERVICE, "n")];
    assert_eq!(house.statuses(&asked).await, [200, 429, 200, 200, 429, 200]);
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
