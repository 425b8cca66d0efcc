//! Which tokens are good, and why the others are not.

use super::super::Reason;
use super::sign::{SECRET, Signer, at, claims, claims_but};
use super::*;
use crate::caller::Caller;
use crate::filters::limits::OwnLimits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A filter that knows one key of each kind, by its algorithm's name.
fn all() -> ([Signer; 3], Jwt) {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk(signer.algorithm())).collect();
    (signers, filter_with(json!({ "keys": keys }), settings()))
}

/// One that knows this key by the name `k`.
fn knowing(signer: &Signer, settings: Value) -> Jwt {
    filter_with(json!({ "keys": [signer.jwk("k")] }), settings)
}

async fn caller(filter: &Jwt, token: &str) -> Option<Arc<Caller>> {
    let mut exchange = exchange_with("{}", &[("authorization", &format!("Bearer {token}"))]);
    filter.request(&mut exchange).await.expect("no fault");
    exchange.caller().cloned()
}

#[tokio::test]
async fn a_token_of_each_algorithm_lets_in_twice() {
    let (signers, filter) = all();
    for signer in &signers {
        let token = signer.token(signer.algorithm(), &claims());
        for _ in 0..2 {
            assert_eq!(user(&filter, &token).await.as_deref(), Some("ann"), "{}", signer.algorithm());
        }
    }
    assert_eq!((filter.tokens.good.get(), filter.tokens.remembered.get()), (3, 3));
    let settings = json!({
        "issuer": "https://issuer.example", "audience": ["tidegate"], "algorithms": ["HS256"], "secret": SECRET,
    });
    let shared = filter_with(json!({}), settings);
    assert_eq!(user(&shared, &Signer::secret(SECRET.as_bytes()).token("any", &claims())).await.as_deref(), Some("ann"));
}

#[tokio::test]
async fn a_token_for_one_of_several_audiences_is_meant_for_us() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings());
    for good in [json!("other"), json!(["x", "tidegate"])] {
        assert!(user(&filter, &key.token("k", &claims_but("aud", good))).await.is_some());
    }
    for bad in [json!("x"), json!(["x"]), json!([]), json!(7), json!([["tidegate"]]), Value::Null, json!("tidegate ")] {
        assert_eq!(reason(&filter, &key.token("k", &claims_but("aud", bad))).await, "audience");
    }
    for bad in [json!("https://issuer.example/"), json!(["https://issuer.example"]), Value::Null] {
        assert_eq!(reason(&filter, &key.token("k", &claims_but("iss", bad))).await, "issuer");
    }
}

#[tokio::test]
async fn a_token_holds_from_when_to_when_it_says_give_or_take_the_clocks() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings());
    for (name, offset) in [("exp", -20), ("exp", 1), ("nbf", 20), ("iat", 20), ("nbf", -1)] {
        let token = key.token("k", &claims_but(name, json!(at(offset))));
        assert!(user(&filter, &token).await.is_some(), "{name} {offset}");
    }
    for (name, offset, why) in
        [("exp", -31, "expired"), ("nbf", 40, "early"), ("iat", 40, "early"), ("exp", -9999, "expired")]
    {
        assert_eq!(
            reason(&filter, &key.token("k", &claims_but(name, json!(at(offset))))).await,
            why,
            "{name} {offset}"
        );
    }
    for endless in [Value::Null, json!("never"), json!(-1), json!(1e300)] {
        assert_eq!(reason(&filter, &key.token("k", &claims_but("exp", endless))).await, "expired");
    }
    assert_eq!(reason(&filter, &key.token("k", &claims_but("nbf", json!("soon")))).await, "malformed");
}

#[tokio::test]
async fn a_token_is_not_remembered_beyond_its_time() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings_with("clock_skew", json!("0s")));
    let token = key.token("k", &claims_but("exp", json!(at(10))));
    let now = u64::try_from(at(0)).expect("after 1970");
    assert!(filter.caller(&token, now).await.is_ok() && filter.caller(&token, now + 8).await.is_ok());
    assert_eq!(filter.caller(&token, now + 12).await.err(), Some(super::super::No::Token(Reason::Expired)));
}

#[tokio::test]
async fn what_a_token_says_about_its_signature_is_not_believed() {
    let (signers, filter) = all();
    let [rsa, p256, ed] = &signers;
    let head = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    // Nothing signs nothing.
    for none in ["none", "None", "NONE", ""] {
        let unsigned = rsa.token_of(&head(none, "RS256"), &claims());
        assert_eq!(reason(&filter, &unsigned).await, "algorithm", "{none}");
        let (signed, _) = unsigned.rsplit_once('.').expect("three parts");
        assert_eq!(reason(&filter, &format!("{signed}.")).await, "algorithm");
    }
    // Another algorithm than the key is for.
    for (alg, kid, signer) in [("RS256", "ES256", rsa), ("ES256", "EdDSA", p256), ("EdDSA", "RS256", ed)] {
        assert_eq!(reason(&filter, &signer.token_of(&head(alg, kid), &claims())).await, "unknown_key");
    }
    for alg in ["HS256", "HS512", "RS512", "PS256", "ES384", "rs256"] {
        assert_eq!(reason(&filter, &rsa.token_of(&head(alg, "RS256"), &claims())).await, "algorithm", "{alg}");
    }
    // Another key under a known name, and a name that nobody has.
    assert_eq!(reason(&filter, &Signer::p256().token("ES256", &claims())).await, "signature");
    assert_eq!(reason(&filter, &ed.token("EdDSB", &claims())).await, "unknown_key");
    let crit = json!({ "alg": "EdDSA", "kid": "EdDSA", "crit": ["b64"], "b64": false });
    assert_eq!(reason(&filter, &ed.token_of(&crit, &claims())).await, "critical");
    let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","alg":"none","kid":"EdDSA"}"#);
    let token = ed.token("EdDSA", &claims());
    assert_eq!(reason(&filter, &format!("{twice}.{}", token.split_once('.').expect("parts").1)).await, "malformed");
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    let rsa = Signer::rsa();
    let jwk = rsa.jwk("k");
    let mut settings = settings_with("secret", json!(SECRET));
    settings["algorithms"] = json!(["RS256", "HS256"]);
    let filter = knowing(&rsa, settings);
    // Everything an attacker knows of the public key, used as the secret.
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().expect("a modulus")).expect("base 64");
    for guess in [jwk.to_string().as_bytes(), jwk["n"].as_str().expect("a modulus").as_bytes(), &modulus, b""] {
        assert_eq!(reason(&filter, &Signer::secret(guess).token("k", &claims())).await, "signature");
    }
    // And a set of keys brings no secret in.
    let lying = json!({ "keys": [rsa.jwk("k"), Signer::secret(b"known to all").jwk("h")] });
    let mut settings = settings_with("secret", json!(SECRET));
    settings["algorithms"] = json!(["RS256", "HS256"]);
    let filter = filter_with(lying, settings);
    assert_eq!(reason(&filter, &Signer::secret(b"known to all").token("h", &claims())).await, "signature");
    assert!(user(&filter, &rsa.token("k", &claims())).await.is_some());
}

#[tokio::test]
async fn every_byte_of_a_token_counts() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings());
    let token = key.token("k", &claims());
    for at in (0..token.len()).step_by(3) {
        let mut other = token.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).expect("it is text");
        assert_eq!(presented(&filter, &other).await.0, Err(401), "byte {at}");
        // Remembering the good one does not let the other in.
        assert!(user(&filter, &token).await.is_some());
    }
    for more in [format!("{token}="), format!("{token}A"), format!("{token}."), token[..token.len() - 1].to_owned()] {
        assert_eq!(presented(&filter, &more).await.0, Err(401));
    }
}

#[tokio::test]
async fn garbage_is_refused_and_what_is_too_long_not_looked_at() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings());
    let array = format!("{}.{}.", URL_SAFE_NO_PAD.encode("[]"), URL_SAFE_NO_PAD.encode("{}"));
    for garbage in ["", ".", "..", "...", "a.b.c", "tg-abc", "eyJ.e30.", "e30.e30.", &array, "\u{e9}.\u{e9}.\u{e9}"] {
        assert_eq!(presented(&filter, garbage).await.0, Err(401), "{garbage}");
    }
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(5000));
    assert_eq!(presented(&filter, &format!("{deep}.{deep}.{deep}")).await.0, Err(401));
    assert_eq!(reason(&filter, &"e".repeat(100_000)).await, "too_long");
    let long = claims_but("pad", json!("x".repeat(20_000)));
    assert_eq!(reason(&filter, &key.token("k", &long)).await, "too_long");
    // A list is no set of claims.
    assert_eq!(reason(&filter, &key.token("k", &json!([1]))).await, "malformed");
}

#[tokio::test]
async fn claims_say_who_it_is_where_the_file_says_they_do() {
    let key = Signer::ed25519();
    let paths = json!({ "user": "uid", "team": "team", "org": "tenant.id", "models": "/models" });
    let filter = knowing(&key, settings_with("claims", paths));
    let who = caller(&filter, &key.token("k", &claims())).await.expect("it is let in");
    let names = [&who.user, &who.team, &who.org].map(|name| name.as_deref());
    assert_eq!(names, [Some("7"), Some("red"), Some("acme")]);
    assert!(who.may_use("m") && who.may_use("llama-3") && !who.may_use("other"));
    let text = caller(&filter, &key.token("k", &claims_but("models", json!(" m  x ")))).await.expect("it is let in");
    assert!(text.may_use("x") && !text.may_use("llama-3"));
    assert!(caller(&filter, &key.token("k", &claims_but("team", Value::Null))).await.is_some(), "a team may lack");
    for (name, value) in [
        ("uid", Value::Null),
        ("uid", json!(1.5)),
        ("uid", json!("")),
        ("uid", json!("a\nb")),
        ("uid", json!("x".repeat(300))),
        ("team", json!(["red"])),
        ("tenant", json!("acme")),
        ("tenant", Value::Null),
        ("models", Value::Null),
        ("models", json!([1])),
        ("models", json!(true)),
    ] {
        assert_eq!(reason(&filter, &key.token("k", &claims_but(name, value.clone()))).await, "claim", "{name} {value}");
    }
}

#[tokio::test]
async fn a_priority_is_one_of_those_there_are() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings_with("claims", json!({ "priority": "prio" })));
    for good in [json!(0), json!(9), Value::Null] {
        assert!(user(&filter, &key.token("k", &claims_but("prio", good))).await.is_some());
    }
    for bad in [json!(10), json!(-1), json!("high"), json!(1.5)] {
        assert_eq!(reason(&filter, &key.token("k", &claims_but("prio", bad))).await, "claim");
    }
}

#[tokio::test]
async fn a_claim_whose_name_has_dots_is_found_by_a_pointer() {
    let key = Signer::ed25519();
    let claims = claims_but("https://example.com/org", json!("acme"));
    let paths = json!({ "org": "/https:~1~1example.com~1org" });
    let filter = knowing(&key, settings_with("claims", paths));
    assert_eq!(caller(&filter, &key.token("k", &claims)).await.and_then(|it| it.org.clone()).as_deref(), Some("acme"));
}

#[tokio::test]
async fn keys_that_are_for_something_else_are_left_out() {
    let key = Signer::ed25519();
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("RS256")),
        ("alg", json!(1)),
        ("key_ops", json!(["sign"])),
        ("x", json!("AAAA")),
    ] {
        let mut jwk = key.jwk("k");
        jwk[name] = value.clone();
        let set = json!({ "keys": [jwk, Signer::p256().jwk("other")] });
        assert_eq!(
            reason(&filter_with(set, settings()), &key.token("k", &claims())).await,
            "unknown_key",
            "{name} {value}"
        );
    }
    // Points that anybody can sign for.
    for (first, rest, last) in [(0, 0, 0), (1, 0, 0), (1, 0, 0x80), (0xec, 0xff, 0x7f), (0xee, 0xff, 0xff)] {
        let mut point = [rest; 32];
        (point[0], point[31]) = (first, last);
        let weak = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": URL_SAFE_NO_PAD.encode(point) });
        let set = json!({ "keys": [weak, Signer::p256().jwk("other")] });
        let forged = [&[1][..], &[0; 63]].concat();
        let token = key.token("k", &claims());
        let token = format!("{}.{}", token.rsplit_once('.').expect("parts").0, URL_SAFE_NO_PAD.encode(forged));
        assert_eq!(reason(&filter_with(set, settings()), &token).await, "unknown_key", "{point:?}");
    }
    let nameless = key.token_of(&json!({ "alg": "EdDSA" }), &claims());
    assert!(user(&knowing(&key, settings()), &nameless).await.is_some(), "the only one of its kind");
    let two = json!({ "keys": [key.jwk("a"), Signer::ed25519().jwk("b")] });
    assert_eq!(reason(&filter_with(two, settings()), &nameless).await, "unknown_key");
}

#[tokio::test]
async fn whom_it_does_not_know_it_leaves_to_others_if_it_is_told_to() {
    let key = Signer::ed25519();
    let filter = knowing(&key, settings_with("otherwise", json!("next")));
    let elsewhere = key.token("k", &claims_but("iss", json!("https://other.example")));
    for others in ["tg-0123", "sk-a.b.c", &elsewhere] {
        assert_eq!(presented(&filter, others).await, (Ok(None), None), "{others}");
    }
    let mut nobody = exchange_with("{}", &[]);
    assert!(matches!(filter.request(&mut nobody).await, Ok(Verdict::Continue)));
    // What is ours by its own word is judged, and what is no token at all but looks like one too.
    assert_eq!(reason(&filter, &key.token("k", &claims_but("exp", json!(at(-99))))).await, "expired");
    assert_eq!(presented(&filter, "eyJ.x.y").await.0, Err(401));
    assert_eq!(user(&filter, &key.token("k", &claims())).await.as_deref(), Some("ann"));
}

#[tokio::test]
async fn a_token_is_found_wherever_sdks_put_it() {
    let key = Signer::ed25519();
    let (filter, token) = (knowing(&key, settings()), key.token("k", &claims()));
    let protocol = format!("realtime, openai-insecure-api-key.{token}");
    for header in [("x-api-key", &*token), ("sec-websocket-protocol", &*protocol)] {
        let mut exchange = exchange_with("{}", &[header]);
        assert!(matches!(filter.request(&mut exchange).await, Ok(Verdict::Continue)), "{}", header.0);
    }
    let two = [("authorization", &*format!("Bearer {token}")), ("x-api-key", "other")];
    assert!(matches!(filter.request(&mut exchange_with("{}", &two)).await, Ok(Verdict::Answer(_))));
}

#[test]
fn settings_that_let_in_nobody_or_anybody_are_faults() {
    let paths = |settings: Value| -> Vec<String> {
        let services = Services { files: Arc::new(OneFile(json!({ "keys": [] }))), ..Services::none() };
        let settings = serde_json::from_value(settings).expect("well-formed");
        Jwt::new(settings, &services).err().unwrap_or_default().into_iter().map(|fault| fault.path).collect()
    };
    let url = |url: &str| settings_with("jwks", json!({ "url": url }));
    assert!(paths(url("https://issuer.example/jwks")).is_empty() && paths(url("http://keycloak:8080/jwks")).is_empty());
    assert_eq!(paths(url("http://issuer.example/jwks")), ["jwks.url"]);
    assert_eq!(paths(url("ftp://issuer.example/jwks")), ["jwks.url"]);
    assert_eq!(paths(settings()), ["jwks.file"], "a set without a key");
    assert_eq!(paths(settings_with("jwks", json!({}))), ["jwks"]);
    assert_eq!(paths(settings_with("jwks", Value::Null)), ["jwks"]);
    assert_eq!(paths(settings_with("algorithms", json!(["HS256"]))), ["secret", "jwks", "jwks.file"]);
    let mut all = url("https://issuer.example/jwks");
    all["issuer"] = json!("");
    all["audience"] = json!([]);
    all["algorithms"] = json!(["HS256", "RS256"]);
    all["secret"] = json!("too short");
    all["clock_skew"] = json!("1h");
    all["claims"] = json!({ "org": "a..b" });
    assert_eq!(paths(all), ["issuer", "audience", "secret", "clock_skew", "claims.org"]);
    assert!(serde_json::from_value::<super::super::Settings>(settings_with("algorithms", json!(["none"]))).is_err());
}

mod tenants {
    use super::*;
    use crate::tenants::Tenants;

    /// Acme has ann, who may use what begins with m; gone is disabled, and anybody may be in open.
    fn filter(key: &Signer, unknown: &str) -> Jwt {
        let (tenants, faults) = Tenants::read(
            json!({
                "acme": { "models": ["m*"], "users": { "ann": null } },
                "gone": { "disabled": true, "users": { "ann": null } },
                "open": { "users": { "*": null } },
            }),
            &OwnLimits::default(),
        );
        assert!(faults.is_empty(), "{faults:?}");
        let services = Services {
            files: Arc::new(OneFile(json!({ "keys": [key.jwk("k")] }))),
            tenants: Some(Arc::new(tenants)),
            ..Services::none()
        };
        let mut settings = settings_with("claims", json!({ "org": "org", "models": "models" }));
        settings["unknown"] = json!(unknown);
        Jwt::new(serde_json::from_value(settings).expect("well-formed"), &services)
            .unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn token(key: &Signer, user: &str, org: &str) -> String {
        let mut claims = claims_but("org", json!(org));
        claims["sub"] = json!(user);
        key.token("k", &claims)
    }

    #[tokio::test]
    async fn whose_token_it_is_is_looked_up_and_the_strictest_of_all_rules_holds() {
        let key = Signer::ed25519();
        let filter = filter(&key, "refuse");
        for _ in 0..2 {
            let who = caller(&filter, &token(&key, "ann", "acme")).await.expect("she is let in");
            assert!(who.may_use("m") && !who.may_use("llama-3"), "the token says llama*, its organisation does not");
            assert_eq!(who.key, None);
        }
        assert_eq!(presented(&filter, &token(&key, "bob", "open")).await.0, Ok(Some("bob".to_owned())));
        for (user, org) in [("bob", "acme"), ("ann", "elsewhere")] {
            let refused = (Err(403), Some("tenant".to_owned()));
            assert_eq!(presented(&filter, &token(&key, user, org)).await, refused, "{user} {org}");
        }
        for _ in 0..2 {
            assert_eq!(presented(&filter, &token(&key, "ann", "gone")).await.0, Err(403), "remembered or not");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_taken_as_a_label_does_not_get_past_what_is_known_above_it() {
        let key = Signer::ed25519();
        let filter = filter(&key, "accept");
        let who = caller(&filter, &token(&key, "bob", "acme")).await.expect("he is let in");
        assert_eq!((who.user.as_deref(), who.org.as_deref()), (Some("bob"), Some("acme")));
        assert!(who.may_use("m") && !who.may_use("llama-3"));
        assert_eq!(presented(&filter, &token(&key, "bob", "gone")).await.0, Err(403));
        let who = caller(&filter, &token(&key, "bob", "elsewhere")).await.expect("he is let in");
        assert_eq!(who.org.as_deref(), Some("elsewhere"));
        assert!(who.may_use("llama-3"), "as the token says, and nobody else does");
    }
}
