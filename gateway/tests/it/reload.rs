//! Another configuration while the gateway runs: by an operator, by a watched file, and back again.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Gate, Script, finish};
use crate::certs::Certs;
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Folder, Gateway, Key, pool_of};

/// A request on the admin listener, with the token that [`with_token`] sets.
async fn ask(gateway: &Gateway, method: &str, path: &str, body: Option<Value>) -> Answer {
    let request = Request::new(method, path).header("Connection", "close").bearer("op-secret");
    let request = body.map_or(request.clone(), |body| request.body(body.to_string()));
    Connection::open(gateway.admin_address()).await.exchange(&request).await
}

fn with_token(rest: &str) -> String {
    format!("admin: {{ listen: 127.0.0.1:$ADMIN, token: op-secret }}\n{rest}")
}

/// Waits until it holds.
async fn soon<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let until = Instant::now() + Duration::from_secs(15);
    while !holds().await {
        assert!(Instant::now() < until, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn paths(answer: &Value) -> Vec<&str> {
    answer["changes"].as_array().unwrap().iter().map(|change| change["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_reload_answers_with_what_has_changed_and_what_waits_for_a_restart() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&with_token(&pool_of(&[&old]))).await;
    let same = ask(&gateway, "POST", "/admin/reload", None).await.json();
    assert_eq!((&same["outcome"], &same["version"], &same["changes"]), (&json!("unchanged"), &json!(1), &json!([])));

    let keyed = pool_of(&[&new]).replace("backends: [", "backends: [ { url: ").replace("]\n", ", key: k-secret } ]\n");
    gateway.rewrite(&with_token(&format!("{keyed}limits: {{ body: 1MiB }}\ndrain: {{ time: 7s }}\n")));
    let answer = ask(&gateway, "POST", "/admin/reload", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!((&told["outcome"], &told["version"], &told["by"]), (&json!("applied"), &json!(2), &json!("request")));
    assert_eq!(told["restart"], json!(["drain.time"]), "{told}");
    assert!(paths(&told).contains(&"limits.body") && paths(&told).contains(&"pools.main.backends[0].url"), "{told}");
    let change = told["changes"].as_array().unwrap().iter().find(|change| change["path"] == "limits.body").unwrap();
    assert_eq!((&change["from"], &change["to"]), (&json!("32MiB"), &json!("1MiB")));
    assert!(!answer.text().contains("k-secret"), "{}", answer.text());
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((old.count(), new.count()), (0, 1), "the new one is in use when that is answered");

    let line = gateway.log.line(|line| line["message"] == "configuration reloaded" && line["version"] == 2).await;
    assert!(line["changes"].as_str().unwrap().contains("limits.body: \"32MiB\" -> \"1MiB\""), "{line}");
    gateway.log.line(|line| line["settings"] == "drain.time" && line["level"] == "warn").await;
    assert!(!gateway.log.text().contains("k-secret"));
    let metrics = gateway.metrics_with("op-secret").await;
    for (outcome, count) in [("applied", 1.0), ("unchanged", 1.0), ("refused", 0.0)] {
        let labels = [("by", "request"), ("outcome", outcome)];
        assert_eq!(metrics.sum("tidegate_config_reloads_total", &labels), count, "{outcome}");
    }
    assert_eq!(metrics.sum("tidegate_config_last_reload_successful", &[]), 1.0);
    assert!(metrics.sum("tidegate_config_last_reload_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!(metrics.sum("tidegate_config_info", &[("hash", told["hash"].as_str().unwrap())]), 1.0);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_the_answer_names_its_faults() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&with_token(&pool_of(&[&backend]))).await;
    let before = ask(&gateway, "GET", "/admin/config", None).await;
    gateway.rewrite(&with_token("pools: { main: { balnce: round_robin, backends: [http://127.0.0.1:1] } }\nlog: 7\n"));
    let refused = ask(&gateway, "POST", "/admin/reload", None).await;
    assert_eq!((refused.status, refused.header("content-type")), (422, Some("application/problem+json")));
    let faults = refused.json()["faults"].to_string();
    assert!(faults.contains("balnce") && faults.contains("gateway.yaml:3") && faults.contains("log"), "{faults}");
    assert_eq!(ask(&gateway, "GET", "/admin/config", None).await.body, before.body);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let metrics = gateway.metrics_with("op-secret").await;
    assert_eq!(metrics.sum("tidegate_config_last_reload_successful", &[]), 0.0);
    let labels = [("by", "request"), ("outcome", "refused")];
    assert_eq!(metrics.sum("tidegate_config_reloads_total", &labels), 1.0);
}

#[tokio::test]
async fn the_configuration_in_use_is_shown_whole_without_its_secrets() {
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let file = with_token(&format!(
        "{}    cache_salt: some-salt-of-mine\nkeys: {{ pepper: some-pepper }}\nfilters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\" }} ] }}\n",
        pool_of(&[&backend]),
        key.hash
    ));
    let gateway = Gateway::start(&file).await;
    let answer = ask(&gateway, "GET", "/admin/config", None).await;
    let shown = answer.json();
    assert_eq!((&shown["version"], &shown["by"]), (&json!(1), &json!("start")));
    assert_eq!(shown["config"]["limits"]["body"], "32MiB", "defaults are written out");
    assert_eq!(shown["config"]["admin"]["token"], "***");
    assert!(shown["file"].as_str().unwrap().ends_with("gateway.yaml"));
    assert_eq!(ask(&gateway, "GET", "/healthz", None).await.json()["config"], shown["hash"]);
    for secret in ["op-secret", "some-salt", "some-pepper", &key.hash] {
        assert!(!answer.text().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn there_is_a_way_back_to_each_of_the_last_twenty_configurations() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&with_token(&pool_of(&[&old]))).await;
    for n in 0..24 {
        let backend = if n == 0 { &old } else { &new };
        gateway.rewrite(&with_token(&format!("{}limits: {{ headers: {} }}\n", pool_of(&[backend]), 50 + n)));
        assert_eq!(ask(&gateway, "POST", "/admin/reload", None).await.status, 200);
    }
    let history = ask(&gateway, "GET", "/admin/config/history", None).await.json();
    let versions: Vec<_> = history["versions"].as_array().unwrap().iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, (6..=25).rev().map(Value::from).collect::<Vec<_>>());
    for gone in ["5", "26", "x"] {
        let answer = ask(&gateway, "POST", &format!("/admin/config/rollback/{gone}"), None).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")), "{gone}");
    }
    let back = ask(&gateway, "POST", "/admin/config/rollback/6", None).await.json();
    assert_eq!((&back["by"], &back["version"], &back["outcome"]), (&json!("rollback"), &json!(26), &json!("applied")));
    assert_eq!(paths(&back), ["limits.headers"]);
    let shown = ask(&gateway, "GET", "/admin/config", None).await.json();
    assert_eq!(shown["config"]["limits"]["headers"], 54);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    // The file still says what it said, and reading it again takes it.
    let again = ask(&gateway, "POST", "/admin/reload", None).await.json();
    assert_eq!((&again["outcome"], &again["version"]), (&json!("applied"), &json!(27)));
}

#[tokio::test]
async fn going_back_needs_a_token() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let answer = ask(&gateway, "POST", "/admin/config/rollback/1", None).await;
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")));
}

/// The file of a watching gateway before this backend.
fn watching(backend: &Backend) -> String {
    format!("reload: {{ watch: 100ms }}\n{}", pool_of(&[backend]))
}

async fn answers(gateway: &Gateway, backend: &Backend) -> bool {
    let before = backend.count();
    gateway.send(&Request::chat("m")).await.status == 200 && backend.count() > before
}

#[tokio::test]
async fn a_watched_file_is_taken_when_it_changes_and_kept_out_when_it_is_bad() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&watching(&old)).await;
    assert!(answers(&gateway, &old).await);
    let gate = Gate::closed();
    old.push(Script::stream().token("a").wait(&gate).chunk(finish()).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    gateway.rewrite(&watching(&new));
    soon("the changed file is taken", || answers(&gateway, &new)).await;
    gateway.rewrite("pools: {}\n");
    soon("the bad file is refused", || async {
        gateway.metrics().await.sum("tidegate_config_reloads_total", &[("by", "watch"), ("outcome", "refused")]) >= 1.0
    })
    .await;
    assert!(answers(&gateway, &new).await, "and changes nothing");
    gateway.rewrite(&watching(&old));
    soon("a good file counts again", || answers(&gateway, &old)).await;
    gate.open();
    let mut rest = String::new();
    while let Some(piece) = stream.piece().await.unwrap() {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(rest.ends_with("data: [DONE]\n\n"), "who was under way is not disturbed: {rest}");
}

/// What Kubernetes does: the names are links to `..data/NAME`, and `..data` is a link that is replaced in one step.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let data = folder.join(version);
    std::fs::create_dir_all(&data).unwrap();
    for (name, text) in files {
        std::fs::write(data.join(name), text).unwrap();
        drop(std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name)));
    }
    let next = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &next).unwrap();
    std::fs::rename(&next, folder.join("..data")).unwrap();
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_taken_with_the_secrets_it_refers_to() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    let mounted = folder.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    mount(&mounted, "..1", &[("backend-key", "first-key")]);
    let pool = format!(
        "pools:\n  main:\n    health: off\n    backends: [ {{ url: {}, key: \"${{file:mounted/backend-key}}\" }} ]\n",
        backend.url()
    );
    let gateway = Gateway::start_in(folder, &format!("reload: {{ watch: 100ms }}\n{pool}"), &[]).await;
    let sent = async || {
        let number = backend.count();
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        backend.seen(number).await.header("authorization").unwrap().to_owned()
    };
    assert_eq!(sent().await, "Bearer first-key");
    mount(&mounted, "..2", &[("backend-key", "second-key")]);
    soon("the swapped secret is used", || async { sent().await == "Bearer second-key" }).await;
    let line = gateway.log.line(|line| line["message"] == "configuration reloaded" && line["by"] == "watch").await;
    assert_eq!(line["changes"], "pools.main.backends[0].key: \"***\" -> \"***\"", "{line}");
    assert!(!gateway.log.text().contains("second-key"));
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_used_for_the_next_connection() {
    let (backend, first, second) = (Backend::start().await, Certs::new(), Certs::new());
    let folder = Folder::new();
    first.write_to(folder.path());
    let config = format!(
        "listen: {{ address: 127.0.0.1:$PORT, tls: {{ cert: cert.pem, key: key.pem }} }}\nreload: {{ certificates: 100ms }}\n{}",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start_in(folder, &config, &[]).await;
    let trusts = async |certs: &Certs| match Connection::try_open_tls(gateway.address(), certs).await {
        Some(mut connection) => connection.exchange(&Request::chat("m")).await.status == 200,
        None => false,
    };
    let mut old = Connection::open_tls(gateway.address(), &first).await;
    assert!(!trusts(&second).await);
    let folder = gateway.folder.path();
    // Half of it first: no pair, so the old one stays.
    std::fs::write(folder.join("cert.pem"), &second.cert_pem).unwrap();
    gateway.log.line(|line| line["message"].as_str().is_some_and(|text| text.starts_with("certificate refused"))).await;
    assert!(trusts(&first).await && !trusts(&second).await);
    std::fs::write(folder.join("key.pem"), &second.key_pem).unwrap();
    soon("the new certificate is used", || trusts(&second)).await;
    assert!(!trusts(&first).await);
    assert_eq!(old.exchange(&Request::chat("m")).await.status, 200, "connections that are there stay");
    let loads = |outcome| [("outcome", outcome)];
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_certificate_loads_total", &loads("loaded")), 2.0);
    assert!(metrics.sum("tidegate_certificate_expiry_timestamp_seconds", &[]) > 1.7e9);
    assert!(metrics.sum("tidegate_certificate_loads_total", &loads("refused")) >= 1.0);
}

#[tokio::test]
async fn the_log_level_is_changed_by_hand_until_the_file_has_another() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&with_token(&pool_of(&[&backend]))).await;
    let leaves_a_line = async |id: &str| {
        let request = Request::chat("m").header("x-request-id", id);
        assert_eq!(gateway.send(&request).await.status, 200);
        let mark = format!("{id}-mark");
        let failing = Request::post("/v1/chat/completions", "{").header("x-request-id", &mark);
        gateway.send(&failing).await;
        gateway.log.json().iter().any(|line| line["request_id"] == id)
    };
    let change = async |level: Value| ask(&gateway, "PUT", "/admin/log", Some(json!({ "level": level }))).await;
    let answer = change(json!("warn")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = answer.json();
    assert_eq!(
        (&shown["level"], &shown["level_in_file"], &shown["by_hand"]),
        (&json!("warn"), &json!("info"), &json!(true))
    );
    assert!(!leaves_a_line("quiet").await);
    gateway.rewrite(&with_token(&format!("{}answer_headers: false\n", pool_of(&[&backend]))));
    assert_eq!(ask(&gateway, "POST", "/admin/reload", None).await.json()["outcome"], "applied");
    assert_eq!(ask(&gateway, "GET", "/admin/log", None).await.json()["level"], "warn", "about something else");
    assert_eq!(change(Value::Null).await.json()["level"], "info");
    soon("lines come again", || leaves_a_line("loud")).await;
    for (bad, said) in [(json!("loud"), "no log level"), (json!(7), "expected")] {
        let refused = change(bad).await;
        assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/problem+json")));
        assert!(refused.json()["detail"].as_str().unwrap().contains(said), "{}", refused.text());
    }
    let refused = ask(&gateway, "PUT", "/admin/log", Some(json!({}))).await;
    assert_eq!(refused.status, 400, "nothing said is a mistake: {}", refused.text());
    // The last that is said where nothing is said any more, and the first where something is again.
    for (level, from, to) in [(json!("off"), "info", "off"), (json!("warn"), "off", "warn")] {
        assert_eq!(change(level).await.status, 200);
        gateway
            .log
            .line(|line| {
                line["message"].as_str().is_some_and(|text| text.contains("log level"))
                    && line["from"] == from
                    && line["to"] == to
            })
            .await;
    }
    let stranger = Request::new("PUT", "/admin/log").header("Connection", "close").body(r#"{"level":"off"}"#);
    assert_eq!(Connection::open(gateway.admin_address()).await.exchange(&stranger).await.status, 401);
}
