use super::*;
use crate::caller::Caller;
use crate::credential::SUBPROTOCOL;
use crate::filters::limits::OwnLimits;
use crate::keys::{ManagedKeys, NewKey, Record, Secret};
use crate::testing;
use crate::when::When;
use serde_json::json;

fn filter() -> (ApiKey, String) {
    let new = KeyHasher::new(None).generate().expect("the system has randomness");
    let settings = json!({ "keys": [{ "id": "k1", "hash": new.hash().to_string(), "user": "ann", "org": "acme" }] });
    let settings = serde_json::from_value(settings).expect("well-formed");
    (ApiKey::new(settings, &Services::none()).expect("meant"), new.secret().to_owned())
}

async fn status(filter: &ApiKey, headers: &[(&str, &str)]) -> (Option<u16>, Option<Arc<Caller>>) {
    let mut exchange = testing::exchange_with("{}", headers);
    let verdict = filter.request(&mut exchange).await.expect("no fault of ours");
    let status = match verdict {
        Verdict::Answer(reply) => Some(reply.status.as_u16()),
        _ => None,
    };
    (status, exchange.caller().cloned())
}

#[tokio::test]
async fn a_known_key_lets_in_wherever_sdks_put_it() {
    let (filter, key) = filter();
    let (bearer, protocol) = (format!("Bearer {key}"), format!("realtime, {SUBPROTOCOL}{key}"));
    for header in [("authorization", &*bearer), ("x-api-key", &*key), ("sec-websocket-protocol", &*protocol)] {
        let (status, caller) = status(&filter, &[header]).await;
        assert_eq!(status, None, "{}", header.0);
        assert_eq!(caller.and_then(|caller| caller.user.clone()).as_deref(), Some("ann"));
    }
    let (both, _) = status(&filter, &[("authorization", &bearer), ("x-api-key", &key)]).await;
    assert_eq!(both, None);
}

#[tokio::test]
async fn anything_else_is_refused_without_being_said_back() {
    let (filter, key) = filter();
    let (bearer, basic) = (format!("Bearer {key}"), format!("Basic {key}"));
    let mut typo = key.clone();
    typo.replace_range(10..11, if &key[10..11] == "a" { "b" } else { "a" });
    let long = "k".repeat(10_000);
    for headers in [
        &[][..],
        &[("authorization", &*basic)],
        &[("x-api-key", &*typo)],
        &[("x-api-key", &*long)],
        &[("authorization", &*bearer), ("x-api-key", "other")],
        &[("authorization", &*bearer), ("authorization", "Bearer other")],
    ] {
        let (status, caller) = status(&filter, headers).await;
        assert_eq!((status, caller.is_none()), (Some(401), true), "{headers:?}");
    }
}

#[test]
fn all_faults_in_the_settings_are_told_at_once() {
    let settings = json!({ "keys": [{ "id": "a", "hash": "sk-plain" }, { "id": "a", "hash": "0" }] });
    let settings = serde_json::from_value(settings).expect("well-formed");
    let faults = ApiKey::new(settings, &Services::none()).err().expect("faults");
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["keys[0].hash", "keys[1].id", "keys[1].hash"]);
    assert!(!faults.iter().any(|fault| fault.message.contains("sk-plain")));
}

#[test]
fn a_key_in_the_place_of_its_hash_or_entry_is_told_where_it_stands_and_not_said_back() {
    let key = KeyHasher::new(None).generate().expect("the system has randomness").secret().to_owned();
    let (hash, services) = ("0".repeat(64), Services::none());
    let named = |key: &str| json!({ key: "ann" });
    for (settings, expected) in [
        (json!({ "keys": [key, { "id": "b", "hash": key }] }), &["keys[0]", "keys[1].hash"][..]),
        (json!({ "keys": key }), &["keys"]),
        (json!(key), &[""]),
        (json!({ "keys": named(&key) }), &["keys"]),
        (json!({ "keys": [named(&key)] }), &["keys[0]"]),
        (json!({ "keys": [{ "id": "a", "hash": { "plain": key } }] }), &["keys[0].hash.plain"]),
        (json!({ "keys": [{ "id": key, "hash": hash }] }), &["keys[0].id"]),
        (
            json!({ "keys": [{ "id": "a", "hash": key, "metadata": { "x": format!("is {key}") } }, { "id": "a", "hash": "0" }] }),
            &["keys[0].hash", "keys[0].metadata.x", "keys[1].id", "keys[1].hash"],
        ),
        // Keys that are not of our making are known by where they stand.
        (json!({ "keys": ["sk-plain-secret"] }), &["keys[0]"]),
        (json!({ "keys": [{ "id": "a", "hash": "sk-plain-secret" }] }), &["keys[0].hash"]),
        (json!({ "keys": "sk-plain-secret" }), &["keys"]),
    ] {
        let faults = crate::Registry::built_in().filter("api_key", settings.clone(), &services).expect("is there");
        let faults = faults.err().expect("faults");
        assert_eq!(faults.iter().map(|fault| &*fault.path).collect::<Vec<_>>(), expected, "{settings}");
        let said = format!("{faults:?}");
        assert!(!said.contains(&key) && !said.contains("secret\""), "{said}");
        let mends = said.contains("`tidegate keys hash`") && said.contains("`tidegate keys new`");
        assert!(mends || expected == ["keys"] && !settings.to_string().contains(&key), "{said}");
    }
}

fn record(id: &str, secrets: &[(&NewKey, Option<i64>)], settings: serde_json::Value) -> Record {
    let mut key: Key = serde_json::from_value(settings).expect("well-formed");
    key.id = id.to_owned();
    let secret = |(key, until): &(&NewKey, Option<i64>)| {
        let until = until.map(|after| When::from_unix(When::now().unix() + after));
        Secret { hash: key.hash(), created: When::now(), until }
    };
    Record { key, created: When::now(), revoked: None, secrets: secrets.iter().map(secret).collect() }
}

async fn code(filter: &ApiKey, key: &NewKey) -> String {
    let mut exchange = testing::exchange_with("{}", &[("authorization", &format!("Bearer {}", key.secret()))]);
    match filter.request(&mut exchange).await.expect("no fault of ours") {
        Verdict::Answer(reply) => {
            let crate::reply::Body::Whole(body) = reply.body else { panic!("an error is whole") };
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            format!("{} {}", reply.status.as_u16(), body["error"]["code"].as_str().unwrap_or_default())
        }
        _ => exchange.caller().and_then(|caller| caller.key.as_deref().map(str::to_owned)).expect("a caller"),
    }
}

#[tokio::test]
async fn managed_keys_let_in_as_they_are_now() {
    let hasher = KeyHasher::new(None);
    let [one, other, stranger] = std::array::from_fn(|_| hasher.generate().expect("randomness"));
    let keys = Arc::new(ManagedKeys::default());
    let (tenants, _) = crate::tenants::Tenants::read(json!({ "acme": { "users": ["ann"] } }), &OwnLimits::default());
    let services = Services { managed_keys: Some(keys.clone()), tenants: Some(Arc::new(tenants)), ..Services::none() };
    let settings = serde_json::from_value(json!({ "managed": true })).expect("well-formed");
    let filter = ApiKey::new(settings, &services).expect("meant");
    assert_eq!(code(&filter, &one).await, "503 keys_not_read");

    let ann = json!({ "id": "", "user": "ann" });
    keys.replace(vec![record("a", &[(&one, None)], ann.clone())]);
    assert_eq!(code(&filter, &one).await, "a");
    assert_eq!(code(&filter, &stranger).await, "401 invalid_api_key");

    // Rotated: both, then the new one only.
    keys.replace(vec![record("a", &[(&one, Some(60)), (&other, None)], ann.clone())]);
    assert_eq!((code(&filter, &one).await, code(&filter, &other).await), ("a".into(), "a".into()));
    keys.replace(vec![record("a", &[(&one, Some(0)), (&other, None)], ann.clone())]);
    assert_eq!((code(&filter, &one).await, code(&filter, &other).await), ("401 api_key_expired".into(), "a".into()));

    let revoked = Record { revoked: Some(When::now()), ..record("a", &[(&one, None)], ann) };
    keys.replace(vec![revoked, record("b", &[(&other, None)], json!({ "id": "", "user": "gone" }))]);
    assert_eq!(code(&filter, &one).await, "401 api_key_revoked");
    assert_eq!(code(&filter, &other).await, "403 unknown_tenant");
    assert_eq!(keys.count(When::now()), [1, 0, 0, 1]);
}

#[tokio::test]
async fn a_managed_key_that_has_the_id_of_one_in_the_file_lets_nobody_in() {
    let hasher = KeyHasher::new(None);
    let [of_file, stored, other] = std::array::from_fn(|_| hasher.generate().expect("randomness"));
    let keys = Arc::new(ManagedKeys::default());
    let services = Services { managed_keys: Some(keys.clone()), ..Services::none() };
    let settings =
        json!({ "managed": true, "keys": [{ "id": "a", "hash": of_file.hash().to_string(), "org": "acme" }] });
    let filter = ApiKey::new(serde_json::from_value(settings).expect("well-formed"), &services).expect("meant");
    let settings = |org| json!({ "id": "", "org": org });
    keys.replace(vec![
        record("a", &[(&stored, None)], settings("globex")),
        record("b", &[(&other, None)], settings("x")),
    ]);
    assert_eq!((code(&filter, &of_file).await, code(&filter, &other).await), ("a".into(), "b".into()));
    assert_eq!(code(&filter, &stored).await, "401 invalid_api_key");
    assert_eq!((services.views.has_key("a"), services.views.has_key("b")), (true, false));
}

#[test]
fn managed_keys_need_a_place_to_be_kept() {
    let settings = serde_json::from_value(json!({ "managed": true })).expect("well-formed");
    let faults = ApiKey::new(settings, &Services::none()).err().expect("a fault");
    assert_eq!(faults[0].path, "managed");
}
