//! An issuer that comes, goes, changes its keys and lies.

use super::sign::{Signer, claims};
use super::*;
use crate::outbound::{Bounds, Outbound};
use crate::services::Shared;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::time::Instant;

/// What the issuer says; none: nothing, ever.
#[derive(Default)]
struct Scripted {
    says: Mutex<Option<Result<Value, String>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn say(&self, answer: Result<Value, &str>) {
        *self.says.lock().expect("no panic") = Some(answer.map_err(str::to_owned));
    }

    fn show(&self, signer: &Signer, id: &str) {
        self.say(Ok(json!({ "keys": [signer.jwk(id)] })));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Outbound for Scripted {
    async fn get(&self, _: &str, _: Bounds) -> Result<Bytes, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let says = self.says.lock().expect("no panic").clone();
        match says {
            Some(answer) => answer.map(|set| set.to_string().into()),
            None => std::future::pending().await,
        }
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }
}

fn services(issuer: &Arc<Scripted>) -> Services {
    Services { shared: Shared { outbound: issuer.clone(), ..Shared::default() }, ..Services::none() }
}

fn build(services: &Services, cooldown: &str) -> Jwt {
    let jwks = json!({ "url": "https://issuer.example/jwks", "cooldown": cooldown });
    Jwt::new(serde_json::from_value(settings_with("jwks", jwks)).expect("well-formed"), services)
        .unwrap_or_else(|faults| panic!("{faults:?}"))
}

async fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !what() {
        assert!(Instant::now() < end, "it never came to that");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_key_that_an_issuer_takes_into_use_is_fetched_when_it_shows_and_the_old_one_goes() {
    let (issuer, old, new) = (Arc::new(Scripted::default()), Signer::ed25519(), Signer::p256());
    issuer.show(&old, "1");
    let filter = build(&services(&issuer), "50ms");
    assert_eq!(user(&filter, &old.token("1", &claims())).await.as_deref(), Some("ann"));
    issuer.show(&new, "2");
    tokio::time::sleep(Duration::from_millis(400)).await;
    // The first that names it waits for it, and is let in.
    assert_eq!(user(&filter, &new.token("2", &claims())).await.as_deref(), Some("ann"));
    assert_eq!(issuer.asked(), 2);
    // A token that was remembered as good is judged again, since its key is gone.
    assert_eq!(reason(&filter, &old.token("1", &claims())).await, "unknown_key");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_each_cooldown() {
    let (issuer, key) = (Arc::new(Scripted::default()), Signer::ed25519());
    issuer.show(&key, "1");
    let filter = Arc::new(build(&services(&issuer), "10s"));
    assert!(user(&filter, &key.token("1", &claims())).await.is_some());
    let begin = Instant::now();
    for n in 0..500 {
        assert_eq!(reason(&filter, &key.token(&format!("x{n}"), &claims())).await, "unknown_key");
    }
    assert_eq!(issuer.asked(), 1);
    assert!(begin.elapsed() < Duration::from_secs(8), "nobody waits for what will not come: {:?}", begin.elapsed());
}

#[tokio::test]
async fn without_any_keys_it_is_not_the_tokens_fault() {
    let (issuer, key) = (Arc::new(Scripted::default()), Signer::ed25519());
    issuer.say(Err("connection refused"));
    let filter = build(&services(&issuer), "50ms");
    until(|| issuer.asked() == 1).await;
    let token = key.token("1", &claims());
    assert_eq!(presented(&filter, &token).await, (Err(503), Some("no_keys".to_owned())));
    // What is wrong with a token by itself is told as ever.
    assert_eq!(reason(&filter, "a.b.c").await, "malformed");
    issuer.show(&key, "1");
    until(|| issuer.asked() >= 2).await;
    let end = Instant::now() + Duration::from_secs(5);
    while presented(&filter, &token).await.0 != Ok(Some("ann".to_owned())) {
        assert!(Instant::now() < end, "the token was never taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_or_lies_takes_nothing_from_those_who_are_known() {
    let (issuer, key) = (Arc::new(Scripted::default()), Signer::ed25519());
    issuer.show(&key, "1");
    let filter = build(&services(&issuer), "20ms");
    assert!(user(&filter, &key.token("1", &claims())).await.is_some());
    for lie in
        [Err("refused"), Ok(json!("<html>")), Ok(json!({ "keys": [] })), Ok(json!({ "keys": [{ "kty": "oct" }] }))]
    {
        issuer.say(lie);
        let before = issuer.asked();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(reason(&filter, &key.token("9", &claims())).await, "unknown_key");
        until(|| issuer.asked() > before).await;
        let mut fresh = claims();
        fresh["jti"] = json!(before);
        assert!(user(&filter, &key.token("1", &fresh)).await.is_some());
    }
}

#[tokio::test]
async fn an_issuer_that_hangs_keeps_nobody_waiting_for_long() {
    let (issuer, key) = (Arc::new(Scripted::default()), Signer::ed25519());
    let filter = Arc::new(build(&services(&issuer), "1s"));
    until(|| issuer.asked() == 1).await;
    let token = key.token("1", &claims());
    let many: Vec<_> = (0..200)
        .map(|_| {
            let (filter, token) = (filter.clone(), token.clone());
            tokio::spawn(async move {
                let begin = Instant::now();
                (presented(&filter, &token).await, begin.elapsed())
            })
        })
        .collect();
    let mut waited = 0;
    for one in many {
        let (judged, after) = one.await.expect("no panic");
        assert_eq!(judged.0, Err(503));
        waited += usize::from(after > Duration::from_millis(900));
        assert!(after < Duration::from_secs(4), "{after:?}");
    }
    assert!(waited <= 64, "{waited} were kept waiting at a time");
    assert_eq!(issuer.asked(), 1, "one fetch at a time");
}

#[tokio::test]
async fn a_reload_while_the_issuer_is_away_loses_no_key_and_what_is_not_used_any_more_ends() {
    let (issuer, key) = (Arc::new(Scripted::default()), Signer::ed25519());
    issuer.show(&key, "1");
    let services = services(&issuer);
    let filter = build(&services, "50ms");
    assert!(user(&filter, &key.token("1", &claims())).await.is_some());
    issuer.say(Err("refused"));
    let (same, other_pace) = (build(&services, "50ms"), build(&services, "60ms"));
    drop(filter);
    for filter in [&same, &other_pace] {
        assert!(user(filter, &key.token("1", &claims())).await.is_some());
    }
    drop((same, other_pace));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = issuer.asked();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(issuer.asked(), asked, "nobody needs the keys any more");
}
