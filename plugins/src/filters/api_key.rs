//! `api_key`: who sends a request, told by a key.
//!
//! Keys are looked up by their keyed hash, so that neither the file nor the memory holds them and a comparison tells
//! nothing by the time it takes. The key is taken from `Authorization: Bearer`, `x-api-key` (Anthropic's SDKs) or the
//! realtime subprotocol `openai-insecure-api-key.<key>` (browsers). It never travels further than this filter.

use crate::exchange::{Caller, Exchange};
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::keys::{self, KeyHash, KeyHasher};
use crate::reply::Refusal;
use crate::services::Services;
use async_trait::async_trait;
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest key that is looked at, in bytes: more is no key, and not worth hashing.
const LONGEST: usize = 512;

/// Where browsers put the key, since they cannot set headers on a WebSocket.
const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// Lets in whoever has a key, and says who that is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The keys, one entry each, as `tidegate keys new` prints them.
    pub keys: Vec<Key>,
    /// A file with more of them: a list like `keys`. Relative to the configuration file.
    pub keys_file: Option<PathBuf>,
}

/// One key: its hash, and who has it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// A name for the key itself, for logs. Unique.
    pub id: String,
    /// The key's hash, 64 hexadecimal digits. Never the key.
    pub hash: String,
    /// Whose it is.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's team.
    #[serde(default)]
    pub team: Option<String>,
    /// The organisation: the tenant, for filters that keep tenants apart.
    #[serde(default)]
    pub org: Option<String>,
    /// The models it may ask for, `*` at the end as a wildcard. Absent: all.
    #[serde(default)]
    pub models: Option<Vec<String>>,
}

/// See the module.
pub struct ApiKey {
    hasher: KeyHasher,
    callers: HashMap<KeyHash, Arc<Caller>>,
}

#[async_trait]
impl Filter for ApiKey {
    fn needs_body(&self) -> bool {
        false
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let caller = match presented(exchange.headers()) {
            Presented::One(key) => self.caller(key),
            Presented::None => return Ok(refuse(exchange, "Send an API key: 'Authorization: Bearer KEY'.")),
            Presented::Several => return Ok(refuse(exchange, "Send one API key, not several.")),
        };
        let Some(caller) = caller else {
            return Ok(refuse(exchange, "This API key is not known here. Check it, or ask for a new one."));
        };
        exchange.identify(caller);
        Ok(Verdict::Continue)
    }
}

impl ApiKey {
    fn caller(&self, key: &str) -> Option<Arc<Caller>> {
        // A typo is found before any lookup; what is not a key at all costs nothing.
        if key.len() > LONGEST || keys::looks_ours(key) && !keys::checksum_ok(key) {
            return None;
        }
        self.callers.get(&self.hasher.hash(key)).cloned()
    }
}

fn refuse(exchange: &Exchange, message: &str) -> Verdict {
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
    let reply = refusal.reply(exchange.endpoint(), exchange.id());
    Verdict::Answer(reply.header(header::WWW_AUTHENTICATE, "Bearer"))
}

enum Presented<'a> {
    None,
    One(&'a str),
    Several,
}

/// The key in a request's headers. Two different ones are a fault: which of them was meant must not depend on who
/// looks. An SDK that sends the same key in two headers means one.
fn presented(headers: &HeaderMap) -> Presented<'_> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let value = value.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let plain = headers.get_all("x-api-key").iter().map(|value| value.to_str().ok().map(str::trim));
    let subprotocol = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL))
        .map(Some);
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Presented::Several;
    }
    let mut found = None;
    for key in bearer.chain(plain).chain(subprotocol) {
        // A header that carries no key at all (another scheme, binary) is a key that nobody knows.
        let key = key.unwrap_or_default();
        if found.is_some_and(|first| first != key) {
            return Presented::Several;
        }
        found = Some(key);
    }
    found.map_or(Presented::None, Presented::One)
}

impl Plugin for ApiKey {
    const NAME: &'static str = "api_key";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let from_file = settings.keys_file.as_deref().map_or_else(Vec::new, |path| {
            services.files.read(path).map_err(|error| error.to_string()).and_then(keys_in).unwrap_or_else(|error| {
                faults.push(SettingsError::at("keys_file", format!("{}: {error}", path.display())));
                Vec::new()
            })
        });
        if settings.keys.is_empty() && from_file.is_empty() && faults.is_empty() {
            let help = "`tidegate keys new` prints a key and its entry";
            faults.push(SettingsError::at("keys", "there is no key, so nobody could get in").help(help));
        }
        let own = settings.keys.into_iter().enumerate().map(|(i, key)| (format!("keys[{i}]"), key));
        let filed = from_file.into_iter().map(|key| ("keys_file".to_owned(), key));
        let mut callers = HashMap::new();
        let mut ids = std::collections::HashSet::new();
        for (path, key) in own.chain(filed) {
            if !ids.insert(key.id.clone()) {
                faults.push(SettingsError::at(format!("{path}.id"), format!("the id '{}' is taken", key.id)));
            }
            let Some(hash) = KeyHash::from_hex(&key.hash) else {
                let help = "keys are never written down: `tidegate keys new` prints a key and its hash";
                let message = format!("key '{}': the hash must be 64 hexadecimal digits", key.id);
                faults.push(SettingsError::at(format!("{path}.hash"), message).help(help));
                continue;
            };
            if callers.insert(hash, Arc::new(key.caller())).is_some() {
                faults.push(SettingsError::at(format!("{path}.hash"), "another entry has the same hash"));
            }
        }
        if faults.is_empty() {
            Ok(Self { hasher: KeyHasher::new(services.pepper.as_deref()), callers })
        } else {
            Err(faults)
        }
    }
}

impl Key {
    fn caller(self) -> Caller {
        Caller {
            key: Some(self.id.into()),
            user: self.user.map(Into::into),
            team: self.team.map(Into::into),
            org: self.org.map(Into::into),
            models: self.models.map(|models| models.into_iter().map(Into::into).collect()),
            ..Caller::default()
        }
    }
}

fn keys_in(value: serde_json::Value) -> std::result::Result<Vec<Key>, String> {
    serde_path_to_error::deserialize(value).map_err(|error| format!("at {}: {}", error.path(), error.inner()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;

    fn filter() -> (ApiKey, String) {
        let new = KeyHasher::new(None).generate().expect("the system has randomness");
        let settings =
            json!({ "keys": [{ "id": "k1", "hash": new.hash().to_string(), "user": "ann", "org": "acme" }] });
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
            assert_eq!((status, caller), (Some(401), None), "{headers:?}");
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
}
