//! `api_key`: who sends a request, told by a key.
//!
//! Keys are looked up by their keyed hash, so that neither the file nor the memory holds them and a comparison tells
//! nothing by the time it takes. The key is taken from `Authorization: Bearer`, `x-api-key` (Anthropic's SDKs) or the
//! realtime subprotocol `openai-insecure-api-key.<key>` (browsers). It never travels further than this filter.

use crate::caller::Caller;
use crate::credential::{self, LONGEST_KEY, Otherwise, Presented};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::keys::{self, KeyHash, KeyHasher};
use crate::services::Services;
use crate::tenants::{self, Level, Names, laying_down};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Lets in whoever has a key, and says who that is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The keys, one entry each, as `tidegate keys new` prints them.
    pub keys: Vec<Key>,
    /// A file with more of them: a list like `keys`. Relative to the configuration file.
    pub keys_file: Option<PathBuf>,
    /// What becomes of a request that carries no key of ours: `refuse` (401), or `next`: the next filter says who sends it.
    /// A key of our own making that is not known is refused always.
    pub otherwise: Otherwise,
}

laying_down! {
    /// One key: its hash, and who has it.
    pub struct Key {
        /// A name for the key itself, for logs. Unique.
        id: String,
        /// The key's hash, 64 hexadecimal digits. Never the key.
        hash: String,
        /// Whose it is.
        #[serde(default)]
        user: Option<String>,
        /// The service it is for, if it is no user's.
        #[serde(default)]
        service: Option<String>,
        /// The user's or the service's team.
        #[serde(default)]
        team: Option<String>,
        /// The organisation: the tenant, for filters that keep tenants apart.
        #[serde(default)]
        org: Option<String>,
    }
}

/// See the module.
pub struct ApiKey {
    hasher: KeyHasher,
    callers: HashMap<KeyHash, Arc<Caller>>,
    otherwise: Otherwise,
}

#[async_trait]
impl Filter for ApiKey {
    fn needs_body(&self) -> bool {
        false
    }

    fn identifies(&self) -> Option<Otherwise> {
        Some(self.otherwise)
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        // A filter above that leaves the others to us has told who this is.
        if exchange.caller().is_some() {
            return Ok(Verdict::Continue);
        }
        let leave = self.otherwise == Otherwise::Next;
        let message = match credential::presented(exchange.headers()) {
            Presented::One(key) => match self.caller(key) {
                Some(caller) => return Ok(credential::admit(exchange, caller)),
                None if leave && !keys::looks_ours(key) => return Ok(Verdict::Continue),
                None => "This API key is not known here. Check it, or ask for a new one.",
            },
            Presented::None if leave => return Ok(Verdict::Continue),
            Presented::None => "Send an API key: 'Authorization: Bearer KEY'.",
            Presented::Several => "Send one API key, not several.",
        };
        Ok(credential::refuse(exchange, "invalid_api_key", message))
    }
}

impl ApiKey {
    fn caller(&self, key: &str) -> Option<Arc<Caller>> {
        // A typo is found before any lookup; what is not a key at all costs nothing.
        if key.len() > LONGEST_KEY || keys::looks_ours(key) && !keys::checksum_ok(key) {
            return None;
        }
        self.callers.get(&self.hasher.hash(key)).cloned()
    }
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
            let caller = key.caller(&path, services, &mut faults);
            if !ids.insert(key.id.clone()) {
                faults.push(SettingsError::at(format!("{path}.id"), format!("the id '{}' is taken", key.id)));
            }
            let Some(hash) = KeyHash::from_hex(&key.hash) else {
                let help = "keys are never written down: `tidegate keys new` prints a key and its hash";
                let message = format!("key '{}': the hash must be 64 hexadecimal digits", key.id);
                faults.push(SettingsError::at(format!("{path}.hash"), message).help(help));
                continue;
            };
            if callers.insert(hash, Arc::new(caller)).is_some() {
                faults.push(SettingsError::at(format!("{path}.hash"), "another entry has the same hash"));
            }
        }
        if faults.is_empty() {
            let hasher = KeyHasher::new(services.pepper.as_deref());
            Ok(Self { hasher, callers, otherwise: settings.otherwise })
        } else {
            Err(faults)
        }
    }
}

impl Key {
    fn names(&self) -> Names {
        let name = |name: &Option<String>| name.as_deref().map(Arc::from);
        Names { org: name(&self.org), team: name(&self.team), user: name(&self.user), service: name(&self.service) }
    }

    /// Who has it; what is wrong with that is reported below `path`.
    fn caller(&self, path: &str, services: &Services, faults: &mut Vec<SettingsError>) -> Caller {
        let own = self.about().tenant(Level::Key, self.id.as_str().into());
        match tenants::caller(services.tenants.as_deref(), &self.names(), Some(own.clone())) {
            Ok(caller) => {
                let above: Vec<_> = caller.tenants.iter().filter(|tenant| tenant.level != Level::Key).collect();
                faults.extend(tenants::beyond(path, &own, &above));
                caller
            }
            Err(unknown) => {
                let path = unknown.setting().map_or_else(|| path.to_owned(), |setting| format!("{path}.{setting}"));
                let fault = SettingsError { help: unknown.help, ..SettingsError::at(path, unknown.message) };
                faults.push(fault);
                Caller::default()
            }
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
        let (bearer, protocol) = (format!("Bearer {key}"), format!("realtime, {}{key}", credential::SUBPROTOCOL));
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
}
