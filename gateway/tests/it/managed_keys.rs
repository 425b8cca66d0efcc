//! Keys that are made, rotated and revoked while the gateway runs, by the command line and by the admin listener.

mod store;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection as Store, TransactionBehavior};
use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Folder, Gateway, Key, Metrics, command, pool_of};
use crate::websocket::{accept, frame, handshake, open};

const TOKEN: &str = "admin-token-of-the-test";
const TENANTS: &str =
    "tenants:\n  acme:\n    models: [llama*]\n    teams: { research: { users: [ann] } }\n    services: [ci]\n";

fn config(backend: &Backend, rest: &str) -> String {
    format!(
        "{}admin: {{ listen: \"127.0.0.1:$ADMIN\", token: {TOKEN} }}\nstorage: {{ path: store.db }}\nkeys: {{ pepper: of-the-test }}\nfilters:\n  - api_key: {{ managed: true }}\n{rest}",
        pool_of(&[backend]),
    )
}

struct Rig {
    backend: Backend,
    gateway: Gateway,
}

impl Rig {
    async fn new(rest: &str) -> Self {
        let backend = Backend::start().await;
        let gateway = Gateway::start(&config(&backend, rest)).await;
        Self { backend, gateway }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.gateway.folder.path().join(name)
    }

    /// `tidegate keys ...`, and what it printed on standard output.
    fn keys(&self, arguments: &[&str]) -> String {
        let (said, output) = self.try_keys(arguments);
        assert!(output, "{said}");
        said.lines().next().unwrap_or_default().to_owned()
    }

    fn try_keys(&self, arguments: &[&str]) -> (String, bool) {
        let file = self.file("gateway.yaml").display().to_string();
        let output = command(&[&["keys"], arguments, &["--config", &file]].concat());
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }

    async fn admin(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::new(method, path).bearer(TOKEN).header("connection", "close").body(body);
        Connection::open(self.gateway.admin_address()).await.exchange(&request).await
    }

    async fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin("GET", "/metrics", &Value::Null).await.text())
    }

    async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let start = Instant::now();
        while self.metrics().await.sum(name, labels) != value {
            assert!(start.elapsed() < Duration::from_secs(4), "{name} is not {value}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn status(&self, key: &str) -> u16 {
        self.gateway.send(&Request::chat("llama").bearer(key)).await.status
    }

    /// Waits for a key to be answered so; returns how long that took.
    async fn becomes(&self, key: &str, status: u16) -> Duration {
        let start = Instant::now();
        while self.status(key).await != status {
            assert!(start.elapsed() < Duration::from_secs(3), "it is not {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    /// Twenty requests on one connection, none refused, none held up by what takes the store half a second at least.
    async fn serves(&self, key: &str) {
        let mut connection = self.gateway.connect().await;
        for _ in 0..20 {
            let start = Instant::now();
            let answer = connection.exchange(&Request::chat("llama").bearer(key)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
        }
    }
}

fn within_a_second(took: Duration) {
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn what_the_command_line_makes_and_revokes_holds_within_a_second_on_open_connections_too() {
    let rig = Rig::new(TENANTS).await;
    let key = rig.keys(&["new", "--id", "anns", "--user", "ann", "--expires-in", "90d", "--metadata", "cost=42"]);
    within_a_second(rig.becomes(&key, 200).await);
    let mut open = rig.gateway.connect().await;
    let request = Request::chat("llama").bearer(&key).header("x-request-id", "by-ann");
    assert_eq!(open.exchange(&request).await.status, 200);
    let line = rig.gateway.log.request("by-ann").await;
    assert_eq!([&line["key_id"], &line["user"], &line["team"], &line["org"]], ["anns", "ann", "research", "acme"]);
    assert_eq!(open.exchange(&Request::chat("qwen").bearer(&key)).await.status, 403);

    assert!(rig.keys(&["list"]).contains("id"));
    let (listed, _) = rig.try_keys(&["list"]);
    assert!(listed.contains("anns") && listed.contains("active") && listed.contains("ann"), "{listed}");
    let (shown, _) = rig.try_keys(&["show", "anns", "--format", "json"]);
    let shown: Value = serde_json::Deserializer::from_str(&shown).into_iter().next().unwrap().unwrap();
    assert_eq!((&shown["metadata"]["cost"], &shown["state"]), (&json!("42"), &json!("active")));
    assert!(!shown.to_string().contains(&key) && shown["hash"].is_null());

    rig.keys(&["revoke", "anns"]);
    let revoked = Instant::now();
    loop {
        let answer = open.exchange(&Request::chat("llama").bearer(&key)).await;
        if answer.status == 401 {
            assert_eq!(answer.openai_error(401)["code"], "api_key_revoked");
            break;
        }
        within_a_second(revoked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    within_a_second(revoked.elapsed());
    rig.metric_is("tidegate_managed_keys", &[("state", "revoked")], 1.0).await;
    assert!(!rig.gateway.log.text().contains(&key), "a key in the log");
}

#[tokio::test]
async fn the_command_line_says_what_is_wrong() {
    let rig = Rig::new(TENANTS).await;
    for (arguments, expected) in [
        (&["new", "--user", "anna"][..], "there is no user `anna`"),
        (&["new"], "no owner"),
        (&["new", "--user", "ann", "--expires", "2020-01-01"], "2020-01-01T00:00:00Z has passed"),
        (&["new", "--user", "anna", "--expires", "2020-01-01"], "has passed: it would let nobody in; there is no user"),
        (&["new", "--user", "ann", "--expires-in", "0s"], "has passed"),
        (&["new", "--user", "ann", "--model", "gpt-4"], "may not use `gpt-4`"),
        (&["new", "--user", "ann", "--priority", "10"], "from 0 to 9"),
        (&["show", "nobody"], "there is no key nobody"),
        (&["revoke", "nobody"], "there is no key nobody"),
        (&["rotate", "nobody"], "there is no key nobody"),
    ] {
        let (said, ok) = rig.try_keys(arguments);
        assert!(!ok && said.contains(expected), "{arguments:?}: {said}");
    }
    rig.keys(&["new", "--id", "one", "--user", "ann"]);
    assert!(rig.try_keys(&["new", "--id", "one", "--user", "ann"]).0.contains("of this id already"));
    let output = command(&["keys", "list"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("which store?"));
}

#[tokio::test]
async fn the_admin_listener_makes_shows_rotates_and_revokes_and_each_holds_when_it_is_answered() {
    let rig = Rig::new(TENANTS).await;
    let made = rig.admin("POST", "/admin/keys", &json!({ "service": "ci", "priority": 2, "id": "k/1" })).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/admin/keys/k%2F1")), "{}", made.text());
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let key = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(rig.status(&key).await, 200);

    let shown = rig.admin("GET", "/admin/keys/k%2F1", &Value::Null).await;
    assert_eq!((&shown.json()["service"], &shown.json()["priority"]), (&json!("ci"), &json!(2)));
    assert!(!shown.text().contains(&key) && shown.json().get("key").is_none());

    let rotated = rig.admin("POST", "/admin/keys/k%2F1/rotate", &json!({ "overlap": "1s" })).await;
    let other = rotated.json()["key"].as_str().unwrap().to_owned();
    assert_ne!(other, key);
    assert_eq!((rig.status(&key).await, rig.status(&other).await), (200, 200));
    rig.becomes(&key, 401).await;
    let over = rig.gateway.send(&Request::chat("llama").bearer(&key)).await;
    assert_eq!(over.openai_error(401)["code"], "api_key_expired");
    assert_eq!(rig.status(&other).await, 200);
    // Without an overlap in the request it is that of the file, a day.
    let again = rig.admin("POST", "/admin/keys/k%2F1/rotate", &Value::Null).await;
    let last = again.json()["key"].as_str().unwrap().to_owned();
    assert_eq!((rig.status(&other).await, rig.status(&last).await), (200, 200));

    let gone = rig.admin("DELETE", "/admin/keys/k%2F1", &Value::Null).await;
    assert_eq!((gone.status, &gone.json()["state"]), (200, &json!("revoked")));
    assert_eq!((rig.status(&other).await, rig.status(&last).await), (401, 401));
    let anthropic = Request::post("/v1/messages", r#"{"model":"llama","max_tokens":1,"messages":[]}"#);
    let answer = rig.gateway.send(&anthropic.header("x-api-key", &last)).await;
    assert_eq!(answer.anthropic_error(401)["type"], "authentication_error");
    assert_eq!(rig.admin("POST", "/admin/keys/k%2F1/rotate", &Value::Null).await.status, 409);
}

#[tokio::test]
async fn what_the_admin_listener_cannot_do_it_says_as_a_problem() {
    let rig = Rig::new(TENANTS).await;
    let wrong = json!({ "user": "ann", "models": ["gpt-4", "llama-3", "qwen"] });
    let answer = rig.admin("POST", "/admin/keys", &wrong).await;
    assert_eq!((answer.status, answer.header("content-type")), (422, Some("application/problem+json")));
    let at: Vec<_> = answer.json()["errors"].as_array().unwrap().iter().map(|error| error["at"].clone()).collect();
    assert_eq!(at, ["models[0]", "models[2]"], "all at once");
    let wrong = json!({
        "user": "zoe", "models": ["gpt*", 5, {}], "priority": 11, "limits": [{ "requests": "500/min" }, { "requests": "x" }],
        "expires": "tomorrow", "metadata": { "a": 1, "b": "2" }, "none": true
    });
    let answer = rig.admin("POST", "/admin/keys", &wrong).await;
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    let mut at: Vec<_> = errors.iter().map(|error| error["at"].as_str().unwrap()).collect();
    at.sort_unstable();
    let all = ["expires", "limits[1]", "metadata.a", "models[1]", "models[2]", "none", "priority", "user"];
    assert_eq!((answer.status, &at[..]), (422, &all[..]), "{}", answer.text());
    let twice = r#"{ "user": "ann", "metadata": { "a": "1", "a": "2" } }"#;
    let request = Request::new("POST", "/admin/keys").bearer(TOKEN).header("connection", "close").body(twice);
    let answer = Connection::open(rig.gateway.admin_address()).await.exchange(&request).await;
    assert!(answer.status == 400 && answer.text().contains("`a` is there twice"), "{}", answer.text());
    for (method, path, body, status) in [
        ("POST", "/admin/keys", json!({ "user": "ann", "expires": "2020-01-01" }), 422),
        ("POST", "/admin/keys", json!({ "user": "nobody" }), 422),
        ("POST", "/admin/keys", json!({ "user": "ann", "hash": "0" }), 422),
        ("POST", "/admin/keys", json!({ "user": "ann", "admin": true }), 422),
        ("POST", "/admin/keys", json!({ "user": "ann", "id": "" }), 422),
        ("POST", "/admin/keys", json!([1]), 400),
        ("POST", "/admin/keys", Value::Null, 400),
        ("POST", "/admin/keys/none/rotate", Value::Null, 404),
        ("POST", "/admin/keys/none/rotate", json!({ "overlap": "soon" }), 400),
        ("DELETE", "/admin/keys/none", Value::Null, 404),
        ("GET", "/admin/keys/none", Value::Null, 404),
        ("GET", "/admin/keys?limit=0", Value::Null, 400),
        ("GET", "/admin/keys?limit=x", Value::Null, 400),
        ("PUT", "/admin/keys", Value::Null, 405),
    ] {
        let answer = rig.admin(method, path, &body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let stranger = Request::get("/admin/keys").header("connection", "close");
    assert_eq!(Connection::open(rig.gateway.admin_address()).await.exchange(&stranger).await.status, 401);
    // Without a token of its own nobody manages keys, whoever can connect.
    let open = Gateway::start(&config(&rig.backend, TENANTS).replace(&format!(", token: {TOKEN}"), "")).await;
    assert_eq!(open.admin("/admin/keys").await.status, 403);
    assert_eq!(open.admin("/admin/keys/x/rotate").await.status, 403);
}

#[tokio::test]
async fn an_id_that_a_key_in_the_file_has_is_no_other_keys() {
    let (backend, in_file) = (Backend::start().await, Key::new("mine"));
    let with = |id: &str| {
        let entry =
            format!("api_key: {{ managed: true, keys: [ {{ id: {id}, hash: \"{}\", org: acme }} ] }}", in_file.hash);
        config(&backend, "")
            .replace("api_key: { managed: true }", &entry)
            .replace("keys: { pepper: of-the-test }\n", "")
    };
    let gateway = Gateway::start(&with("mine")).await;
    let rig = Rig { backend: Backend::start().await, gateway };
    let taken = rig.admin("POST", "/admin/keys", &json!({ "id": "mine", "org": "globex" })).await;
    assert_eq!((taken.status, taken.header("content-type")), (409, Some("application/problem+json")));
    let (said, ok) = rig.try_keys(&["new", "--id", "mine", "--org", "globex"]);
    assert!(!ok && said.contains("a key in the file has this id"), "{said}");

    // The file gets the id of a key in the store: its own lets in, and everybody is told.
    let stored = rig.keys(&["new", "--id", "stored", "--org", "globex"]);
    rig.becomes(&stored, 200).await;
    rig.gateway.rewrite(&with("stored"));
    let warning = "managed keys have the ids of keys in the file, and let nobody in: stored";
    let reloaded = rig.admin("POST", "/admin/reload", &Value::Null).await;
    assert!(reloaded.status == 200 && reloaded.text().contains(warning), "{}", reloaded.text());
    assert_eq!((rig.status(&in_file.key).await, rig.status(&stored).await), (200, 401));
    let checked = command(&["check", &rig.file("gateway.yaml").display().to_string()]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(warning) && checked.contains("tidegate keys revoke"), "{checked}");
    rig.keys(&["revoke", "stored"]);
    let checked = command(&["check", &rig.file("gateway.yaml").display().to_string()]);
    assert!(!String::from_utf8_lossy(&checked.stdout).contains(warning));
}

#[tokio::test]
async fn an_overlap_lasts_at_least_as_long_as_was_asked_for() {
    let rig = Rig::new(TENANTS).await;
    for (id, overlap) in [("a", "500ms"), ("b", "1s")] {
        let made = rig.admin("POST", "/admin/keys", &json!({ "user": "ann", "id": id })).await.json();
        let begun = Instant::now();
        let answer = rig.admin("POST", &format!("/admin/keys/{id}/rotate"), &json!({ "overlap": overlap })).await;
        assert_eq!(answer.status, 200);
        let least = tidegate_config::parse_duration(overlap).unwrap();
        rig.becomes(made["key"].as_str().unwrap(), 401).await;
        assert!(begun.elapsed() >= least, "{overlap}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let rig = Rig::new("").await;
    for id in ["d", "b", "a", "e", "c"] {
        assert_eq!(rig.admin("POST", "/admin/keys", &json!({ "id": id })).await.status, 201);
    }
    let (mut after, mut pages) = (String::new(), Vec::new());
    loop {
        let page = rig.admin("GET", &format!("/admin/keys?limit=2&after={after}"), &Value::Null).await.json();
        let ids: Vec<_> = page["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
        pages.push(ids.concat());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, ["ab", "cd", "e"]);
}

#[tokio::test]
async fn a_key_made_elsewhere_stands_in_the_file_by_its_peppered_hash() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    let file =
        folder.write("pepper.yaml", "keys: { pepper: salt-and }\npools: { p: { backends: [http://127.0.0.1:1] } }");
    let printed = command(&["keys", "new", "--id", "mine", "--service", "ci", "--config", &file.display().to_string()]);
    let (key, entry) = (String::from_utf8(printed.stdout).unwrap(), String::from_utf8(printed.stderr).unwrap());
    let entry: String =
        entry.lines().skip_while(|line| !line.starts_with("- ")).map(|line| format!("      {line}\n")).collect();
    assert!(entry.contains("service: ci"), "{entry}");
    let config = |pepper: &str| {
        let pool = pool_of(&[&backend]);
        format!("{pool}keys: {{ pepper: \"{pepper}\" }}\nfilters:\n  - api_key:\n      keys:\n{entry}")
    };
    for (pepper, status) in [("salt-and", 200), ("other", 401)] {
        let gateway = Gateway::start(&config(pepper)).await;
        assert_eq!(gateway.send(&Request::chat("m").bearer(key.trim())).await.status, status, "{pepper}");
    }
}

#[tokio::test]
async fn a_revoked_key_ends_a_conversation_whether_it_asks_for_a_turn_or_only_goes_on_talking() {
    let rig = Rig::new("").await;
    rig.backend.handle(|_| Script::websocket_echo(&accept(), None));
    let events =
        [("a", r#"{"type":"response.create"}"#), ("b", r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#)];
    for (id, event) in events {
        let made = rig.admin("POST", "/admin/keys", &json!({ "id": id, "user": "x" })).await.json();
        let key = made["key"].as_str().unwrap();
        let mut connection = open(&rig.gateway, &handshake("/v1/realtime?model=m").bearer(key)).await;
        connection.send(frame(1, event.as_bytes())).await;
        assert!(!connection.raw().await.is_empty(), "it is let in");
        assert_eq!(rig.admin("DELETE", &format!("/admin/keys/{id}"), &Value::Null).await.status, 200);
        // What is no turn may pass for half a second longer.
        let mut heard = Vec::new();
        let told = |heard: &[u8]| memchr::memmem::find(heard, b"invalid_api_key").is_some();
        while !told(&heard) {
            connection.send(frame(1, event.as_bytes())).await;
            heard.extend_from_slice(&connection.raw().await);
        }
        while !connection.raw().await.is_empty() {}
        rig.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    }
}

#[tokio::test]
async fn a_managed_key_may_bring_limits_that_are_no_more_than_its_owners() {
    let rig =
        Rig::new(&format!("  - limits: []\n{}", TENANTS.replace("[ann]", "{ ann: { limits: [{ requests: 9/h }] } }")))
            .await;
    let more = json!({ "user": "ann", "limits": [{ "requests": "10/h" }] });
    let refused = rig.admin("POST", "/admin/keys", &more).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["at"]), (422, &json!("limits[0].requests")));
    let wanted = json!({ "id": "one", "user": "ann", "limits": [{ "requests": "2/h" }] });
    let made = rig.admin("POST", "/admin/keys", &wanted).await.json();
    assert_eq!(made["limits"], json!([{ "requests": "2/h" }]));
    let mut key = made["key"].as_str().unwrap().to_owned();
    for status in [200, 200, 429] {
        assert_eq!(rig.status(&key).await, status);
    }
    // Another secret is the same key.
    key = rig.admin("POST", "/admin/keys/one/rotate", &Value::Null).await.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(rig.status(&key).await, 429);
}

#[tokio::test]
async fn a_key_that_lets_nobody_in_says_so_and_each_change_is_in_the_log() {
    for (taken, filter) in [
        (true, "api_key: { managed: true }".to_owned()),
        (false, format!("api_key: {{ keys: [{{ id: f, hash: {} }}] }}", "0".repeat(64))),
    ] {
        let backend = Backend::start().await;
        let text = config(&backend, "").replace("api_key: { managed: true }", &filter);
        let rig = Rig { gateway: Gateway::start(&text).await, backend };
        let made = rig.admin("POST", "/admin/keys", &json!({ "id": "k1", "user": "ann", "org": "acme" })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let warning = made.json()["warning"].as_str().map(str::to_owned);
        assert_eq!(warning.is_some_and(|text| text.contains("managed: true")), !taken, "{}", made.text());
        assert_eq!(rig.status(made.json()["key"].as_str().unwrap()).await == 200, taken);
        rig.admin("POST", "/admin/keys/k1/rotate", &Value::Null).await;
        rig.admin("DELETE", "/admin/keys/k1", &Value::Null).await;
        for how in ["made", "rotated", "revoked"] {
            let line = rig.gateway.log.line(|line| line["key_id"] == "k1" && line["how"] == how).await;
            assert_eq!(line["message"], "a managed key was changed");
        }
        assert!(!rig.gateway.log.text().contains(made.json()["key"].as_str().unwrap()));
    }
}
