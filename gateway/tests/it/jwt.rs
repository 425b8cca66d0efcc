//! Tokens of an issuer that comes and goes, changes its keys, hangs and lies.

#[path = "../../../plugins/src/filters/jwt/tests/sign.rs"]
mod sign;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::sign::{SECRET, Signer, at, claims, claims_but};
use crate::backend::{Backend, Script};
use crate::certs::Certs;
use crate::client::{Answer, Request};
use crate::gateway::{Folder, Gateway, Key, command, free_port, pool_of};

/// The issuer of the tests' tokens shows these keys.
fn shows(issuer: &Backend, signers: &[(&Signer, &str)]) {
    let keys: Vec<Value> = signers.iter().map(|(signer, id)| signer.jwk(id)).collect();
    issuer.always(Script::json(json!({ "keys": keys }).to_string()));
}

/// A gateway that fetches its keys from there; `more` are further settings of the filter.
fn config(url: &str, backend: &Backend, more: &str) -> String {
    format!(
        "{}filters:\n  - jwt:\n      issuer: https://issuer.example\n      audience: [tidegate]\n      \
         algorithms: [RS256, ES256, EdDSA]\n      jwks: {{ url: {url}/jwks, cooldown: 300ms }}\n{more}",
        pool_of(&[backend])
    )
}

async fn gateway(issuer: &Backend, backend: &Backend, more: &str) -> Gateway {
    Gateway::start(&config(issuer.url(), backend, more)).await
}

async fn chat(gateway: &Gateway, token: &str) -> Answer {
    gateway.send(&Request::chat("m").bearer(token)).await
}

/// Waits for a token to be good: keys are fetched beside the requests.
async fn becomes_good(gateway: &Gateway, token: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while chat(gateway, token).await.status != 200 {
        assert!(Instant::now() < until, "the token was never taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Refused, with the same words for every reason; which it was stands in the log.
async fn refused(gateway: &Gateway, token: &str) -> String {
    let answer = chat(gateway, token).await;
    let error = answer.openai_error(401);
    assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some("invalid_token"), Some("authentication_error")));
    assert_eq!(error["message"], "This token is not accepted here. Get a new one, or ask the operator.");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    assert!(!line.to_string().contains(token), "a token has no place in the log");
    line["notes"]["jwt"].as_str().expect("the log has a reason").to_owned()
}

#[tokio::test]
async fn tokens_of_each_kind_are_good_and_say_who_sends_the_request() {
    let (issuer, backend) = (Backend::start().await, Backend::start().await);
    let signers = [(Signer::rsa(), "r"), (Signer::p256(), "p"), (Signer::ed25519(), "e")];
    let shown: Vec<_> = signers.iter().map(|(signer, id)| (signer, *id)).collect();
    shows(&issuer, &shown);
    let gateway = gateway(&issuer, &backend, "      claims: { team: team, org: tenant.id, models: models }\n").await;
    for (signer, id) in &signers {
        let token = signer.token(id, &claims());
        for request in [
            Request::chat("m").bearer(&token),
            Request::post("/v1/messages", r#"{"model":"llama-3","messages":[]}"#).header("x-api-key", &token),
        ] {
            let answer = gateway.send(&request).await;
            assert_eq!(answer.status, 200, "{id}: {:?}", answer.body);
            let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
            assert_eq!((&line["user"], &line["team"], &line["org"]), (&json!("ann"), &json!("red"), &json!("acme")));
        }
        let error = gateway.send(&Request::chat("other").bearer(&token)).await.openai_error(403);
        assert_eq!(error["code"], "model_not_allowed");
    }
    for n in 0..6 {
        let head = String::from_utf8_lossy(&backend.seen(n).await.head).into_owned();
        assert!(!head.contains("eyJ"), "a token went to a backend: {head}");
    }
    let counted = [("issuer", "https://issuer.example"), ("outcome", "good")];
    gateway.metric_is("tidegate_jwt_tokens_total", &counted, 3.0).await;
    gateway.metric_is("tidegate_jwt_tokens_total", &[("outcome", "remembered")], 6.0).await;
    gateway.metric_is("tidegate_jwks_keys", &[], 3.0).await;
}

#[tokio::test]
async fn a_token_that_is_no_good_is_401_and_only_the_log_says_why() {
    let (issuer, backend) = (Backend::start().await, Backend::start().await);
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    shows(&issuer, &[(&rsa, "r"), (&p256, "p")]);
    let gateway = gateway(&issuer, &backend, "").await;
    becomes_good(&gateway, &rsa.token("r", &claims())).await;
    let head = |alg: &str, id: &str| json!({ "alg": alg, "kid": id });
    let none = rsa.token_of(&head("none", "r"), &claims());
    let modulus = rsa.jwk("r")["n"].as_str().unwrap().to_owned();
    let mut cut = rsa.token("r", &claims());
    cut.truncate(cut.len() - 6);
    for (token, why) in [
        (none.clone(), "algorithm"),
        (format!("{}.", none.rsplit_once('.').unwrap().0), "algorithm"),
        (Signer::secret(modulus.as_bytes()).token("r", &claims()), "algorithm"),
        (rsa.token_of(&head("RS256", "p"), &claims()), "unknown_key"),
        (rsa.token("nobodys", &claims()), "unknown_key"),
        (p256.token("r", &claims()), "unknown_key"),
        (Signer::p256().token("p", &claims()), "signature"),
        (rsa.token("r", &claims_but("exp", json!(at(-60)))), "expired"),
        (rsa.token("r", &claims_but("exp", Value::Null)), "expired"),
        (rsa.token("r", &claims_but("nbf", json!(at(600)))), "early"),
        (rsa.token("r", &claims_but("iat", json!(at(600)))), "early"),
        (rsa.token("r", &claims_but("aud", json!("somebody-else"))), "audience"),
        (rsa.token("r", &claims_but("iss", json!("https://evil.example"))), "issuer"),
        (rsa.token("r", &claims_but("sub", Value::Null)), "claim"),
        (cut, "signature"),
        ("garbage".to_owned(), "malformed"),
        ("eyJhbGciOiJub25lIn0..".to_owned(), "algorithm"),
        ("tg-0123".to_owned(), "malformed"),
    ] {
        assert_eq!(refused(&gateway, &token).await, why, "{token}");
    }
    assert_eq!(gateway.send(&Request::chat("m")).await.openai_error(401)["code"], "invalid_token");
    let messages = Request::post("/v1/messages", r#"{"model":"m"}"#).header("x-api-key", &none);
    assert_eq!(gateway.send(&messages).await.anthropic_error(401)["type"], "authentication_error");
    gateway.metric_is("tidegate_jwt_tokens_total", &[("outcome", "signature")], 2.0).await;
}

#[tokio::test]
async fn a_token_of_100_kb_costs_no_more_than_a_glance() {
    let (issuer, backend) = (Backend::start().await, Backend::start().await);
    let rsa = Signer::rsa();
    shows(&issuer, &[(&rsa, "r")]);
    let more = "limits: { head: 256KiB }\n";
    let gateway = gateway(&issuer, &backend, more).await;
    becomes_good(&gateway, &rsa.token("r", &claims())).await;
    let long = rsa.token("r", &claims_but("pad", json!("x".repeat(75_000))));
    assert!(long.len() > 100_000);
    for token in [long, "e".repeat(100_000), format!("{}.a.b", "a".repeat(100_000)), ".".repeat(100_000)] {
        assert_eq!(refused(&gateway, &token).await, "too_long");
    }
}

#[tokio::test]
async fn a_new_key_is_known_when_it_shows_and_an_old_one_goes() {
    let (issuer, backend) = (Backend::start().await, Backend::start().await);
    let (old, new) = (Signer::ed25519(), Signer::p256());
    shows(&issuer, &[(&old, "1")]);
    let gateway = gateway(&issuer, &backend, "").await;
    becomes_good(&gateway, &old.token("1", &claims())).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    shows(&issuer, &[(&new, "2")]);
    // All that name it wait for one fetch, and all get in.
    let before = issuer.count();
    let token = new.token("2", &claims());
    let answers = join_all((0..20).map(|_| chat(&gateway, &token))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{:?}", answers[0].body);
    assert_eq!(issuer.count() - before, 1);
    assert_eq!(refused(&gateway, &old.token("1", &claims())).await, "unknown_key", "though it was good before");
}

#[tokio::test]
async fn made_up_keys_do_not_make_a_storm_of_fetches() {
    let (issuer, backend) = (Backend::start().await, Backend::start().await);
    let key = Signer::ed25519();
    shows(&issuer, &[(&key, "1")]);
    let gateway = gateway(&issuer, &backend, "").await;
    becomes_good(&gateway, &key.token("1", &claims())).await;
    let (begin, before) = (Instant::now(), issuer.count());
    for n in 0..10 {
        let tokens: Vec<_> = (0..20).map(|m| key.token(&format!("x{n}-{m}"), &claims())).collect();
        let answers = join_all(tokens.iter().map(|token| chat(&gateway, token))).await;
        assert!(answers.iter().all(|answer| answer.status == 401));
    }
    let (fetched, most) = (issuer.count() - before, begin.elapsed().as_millis() / 300 + 2);
    assert!(fetched as u128 <= most, "{fetched} fetches in {:?}", begin.elapsed());
}

#[tokio::test]
async fn the_gateway_starts_while_the_issuer_is_down_and_goes_on_when_it_goes_down() {
    let (port, backend, key) = (free_port(), Backend::start().await, Signer::ed25519());
    let url = format!("http://127.0.0.1:{port}");
    let gateway = Gateway::start(&config(&url, &backend, "")).await;
    let token = key.token("1", &claims());
    let answer = chat(&gateway, &token).await;
    let error = answer.openai_error(503);
    assert_eq!((error["code"].as_str(), answer.header("retry-after")), (Some("identity_unavailable"), Some("1")));
    gateway.log.line(|line| line["url"].as_str().is_some_and(|url| url.ends_with("/jwks"))).await;

    let issuer = Backend::on(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    shows(&issuer, &[(&key, "1")]);
    becomes_good(&gateway, &token).await;

    drop(issuer);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(refused(&gateway, &key.token("2", &claims())).await, "unknown_key");
    let fresh = key.token("1", &claims_but("jti", json!(1)));
    assert_eq!(chat(&gateway, &fresh).await.status, 200);
    // A reload does not forget what it cannot fetch.
    gateway.rewrite(&config(&url, &backend, "      clock_skew: 20s\n"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(chat(&gateway, &key.token("1", &claims_but("jti", json!(2)))).await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tidegate_jwks_fetches_total", &[("outcome", "failed")]) >= 1.0);
}

#[tokio::test]
async fn an_issuer_that_lies_changes_nothing_and_one_that_hangs_keeps_nobody() {
    let (issuer, backend, key) = (Backend::start().await, Backend::start().await, Signer::ed25519());
    shows(&issuer, &[(&key, "1")]);
    let gateway = gateway(&issuer, &backend, "").await;
    becomes_good(&gateway, &key.token("1", &claims())).await;
    let large = format!(r#"{{"keys":[{}]}}"#, format!("{},", key.jwk("2")).repeat(40_000));
    let oct = json!({ "keys": [Signer::secret(b"for all to know, thirty-two bytes").jwk("2")] }).to_string();
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (n, lie) in [
        Script::json("<html>"),
        Script::json(r#"{"keys":[]}"#),
        Script::json(oct),
        Script::json(large),
        Script::new().send(moved),
        Script::new().send("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
        Script::new().send("not even HTTP\r\n\r\n"),
        Script::new().fin(),
    ]
    .into_iter()
    .enumerate()
    {
        issuer.always(lie);
        tokio::time::sleep(Duration::from_millis(350)).await;
        assert_eq!(refused(&gateway, &key.token("2", &claims())).await, "unknown_key", "{n}");
        assert_eq!(chat(&gateway, &key.token("1", &claims_but("jti", json!(n)))).await.status, 200, "{n}");
    }
    issuer.always(Script::new().hang());
    tokio::time::sleep(Duration::from_millis(400)).await;
    let begin = Instant::now();
    assert_eq!(refused(&gateway, &key.token("3", &claims())).await, "unknown_key");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let mut fastest = Duration::MAX;
    for n in 0..3 {
        let begin = Instant::now();
        assert_eq!(chat(&gateway, &key.token("1", &claims_but("jti", json!([n])))).await.status, 200);
        fastest = fastest.min(begin.elapsed());
    }
    assert!(fastest < Duration::from_millis(900), "who is known waits for nothing: {fastest:?}");
}

#[tokio::test]
async fn an_issuer_behind_https_is_believed_if_its_certificate_is() {
    let (certs, folder, backend, key) = (Certs::new(), Folder::new(), Backend::start().await, Signer::ed25519());
    certs.write_to(folder.path());
    let issuer = Backend::start_tls(&certs).await;
    shows(&issuer, &[(&key, "1")]);
    let ca = folder.path().join("ca.pem").display().to_string();
    let gateway = Gateway::start_in(folder, &config(issuer.url(), &backend, ""), &[("SSL_CERT_FILE", &ca)]).await;
    becomes_good(&gateway, &key.token("1", &claims())).await;

    let stranger = Gateway::start(&config(issuer.url(), &backend, "")).await;
    assert_eq!(chat(&stranger, &key.token("1", &claims())).await.status, 503);
    stranger.log.line(|line| line["error"].as_str().is_some_and(|error| error.contains("certificate"))).await;
}

#[tokio::test]
async fn keys_may_be_in_a_file_and_a_secret_in_the_environment() {
    let (backend, key, folder) = (Backend::start().await, Signer::ed25519(), Folder::new());
    let shared = Signer::secret(SECRET.as_bytes());
    folder.write("jwks.json", &json!({ "keys": [key.jwk("1")] }).to_string());
    let config = format!(
        "{}filters:\n  - jwt:\n      issuer: https://issuer.example\n      audience: [tidegate]\n      \
         algorithms: [EdDSA, HS256]\n      jwks: {{ file: jwks.json }}\n      secret: \"${{env:JWT_SECRET}}\"\n",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start_in(folder, &config, &[("JWT_SECRET", SECRET)]).await;
    for (signer, id) in [(&key, "1"), (&shared, "any")] {
        assert_eq!(chat(&gateway, &signer.token(id, &claims())).await.status, 200);
    }
    assert_eq!(
        refused(&gateway, &Signer::secret(b"another secret of thirty-two bytes").token("1", &claims())).await,
        "signature"
    );
    // Read again with the file.
    let other = Signer::ed25519();
    gateway.folder.write("jwks.json", &json!({ "keys": [other.jwk("1")] }).to_string());
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(chat(&gateway, &other.token("1", &claims())).await.status, 200);
    assert_eq!(refused(&gateway, &key.token("1", &claims())).await, "signature");
    let shown =
        command(&["check", &gateway.folder.path().join("gateway.yaml").display().to_string(), "--format", "json"]);
    assert!(!String::from_utf8_lossy(&shown.stdout).contains(SECRET));
}

#[tokio::test]
async fn either_a_token_or_a_key_lets_in_and_each_is_judged_by_its_own() {
    let (issuer, backend, signer, key) =
        (Backend::start().await, Backend::start().await, Signer::ed25519(), Key::new("batch"));
    shows(&issuer, &[(&signer, "1")]);
    let more = format!(
        "      otherwise: next\n  - api_key: {{ keys: [ {{ id: batch, hash: \"{}\", user: batch }} ] }}\n",
        key.hash
    );
    let gateway = gateway(&issuer, &backend, &more).await;
    becomes_good(&gateway, &signer.token("1", &claims())).await;
    let answer = chat(&gateway, &key.key).await;
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    assert_eq!((answer.status, line["user"].as_str()), (200, Some("batch")));
    assert_eq!(refused(&gateway, &signer.token("1", &claims_but("exp", json!(at(-60))))).await, "expired");
    let elsewhere = signer.token("1", &claims_but("iss", json!("https://other.example")));
    for strange in [Key::new("x").key.as_str(), "sk-strange", "tg-typo", &elsewhere] {
        assert_eq!(chat(&gateway, strange).await.openai_error(401)["code"], "invalid_api_key", "{strange}");
    }
    let both = Request::chat("m").bearer(&signer.token("1", &claims())).header("x-api-key", &key.key);
    assert_eq!(gateway.send(&both).await.status, 401);
    assert_eq!(gateway.send(&Request::chat("m")).await.openai_error(401)["code"], "invalid_api_key");
    let socket = Request::get("/v1/realtime?model=m")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let protocol = |token: &str| format!("realtime, openai-insecure-api-key.{token}");
    let bad = socket.clone().header("Sec-WebSocket-Protocol", &protocol(&signer.token("9", &claims())));
    assert_eq!(gateway.send(&bad).await.status, 401);
    let count = backend.count();
    let good = socket.header("Sec-WebSocket-Protocol", &protocol(&signer.token("1", &claims())));
    gateway.send(&good).await;
    let seen = backend.seen(count).await;
    assert_eq!(seen.header("sec-websocket-protocol"), Some("realtime"));
}

#[test]
fn an_order_in_which_nobody_could_get_in_by_one_of_them_is_explained() {
    let folder = Folder::new();
    let key = "{ keys: [ { id: a, hash: \"0000000000000000000000000000000000000000000000000000000000000000\" } ] }";
    let jwt = "{ issuer: i, audience: [a], algorithms: [EdDSA], jwks: { url: \"https://i.example\" } }";
    let pools = "pools: { main: { backends: [\"http://127.0.0.1:1\"] } }\n";
    let text = format!("filters:\n  - api_key: {key}\n  - jwt: {jwt}\n{pools}");
    let file = folder.write("gateway.yaml", &text);
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("nobody could get in by `jwt`: `api_key` above it refuses them"), "{said}");
    assert!(said.contains("set `otherwise: next` on `api_key`") && said.contains("gateway.yaml:3"), "{said}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_about_who_it_is_counts_and_reaches_no_backend() {
    let (backend, key) = (Backend::start().await, Key::new("batch"));
    let filters = format!(
        "filters:\n  - trusted_headers: {{ user: x-auth-user, team: null, otherwise: next }}\n  \
         - api_key: {{ keys: [ {{ id: batch, hash: \"{}\", user: batch }} ] }}\n",
        key.hash
    );
    let request = Request::chat("m").header("X-Auth-User", "ann").header("X-Org-Id", "acme");
    let config = format!("trusted_proxies: [127.0.0.1]\n{}{filters}", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let answer = gateway.send(&request).await;
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    assert_eq!((answer.status, &line["user"], &line["org"]), (200, &json!("ann"), &json!("acme")));
    let twice = request.clone().header("X-Auth-User", "bob");
    assert_eq!(gateway.send(&twice).await.openai_error(401)["code"], "not_identified");
    let by_key = gateway.send(&Request::chat("m").header("X-Org-Id", "acme").bearer(&key.key)).await;
    let line = gateway.log.request(by_key.header("x-request-id").unwrap()).await;
    assert_eq!((by_key.status, &line["user"], &line["org"]), (200, &json!("batch"), &Value::Null));

    let gateway = Gateway::start(&format!("{}{filters}", pool_of(&[&backend]))).await;
    assert_eq!(gateway.send(&request).await.openai_error(401)["code"], "invalid_api_key");
    assert_eq!(gateway.send(&request.bearer(&key.key)).await.status, 200);
    for n in 0..3 {
        let seen = backend.seen(n).await;
        assert_eq!((seen.header("x-auth-user"), seen.header("x-org-id")), (None, None), "request {n}");
    }
}
