//! `api_key`: who sends a request, told by a key.
//!
//! Keys are looked up by their keyed hash, so that neither the file nor the memory holds them and a comparison tells
//! nothing by the time it takes. The key is taken from `Authorization: Bearer`, `x-api-key` (Anthropic's SDKs) or the
//! realtime subprotocol `openai-insecure-api-key.<key>` (browsers). It never travels further than this filter.
//!
//! Keys stand in the file, or are managed: made and revoked while the gateway runs, and looked up in memory all the same.

mod table;

use crate::credential::{self, LONGEST_KEY, Otherwise, Words};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::keys::{self, Follow, Key, KeyHash, KeyHasher};
use crate::registry;
use crate::reply::Refusal;
use crate::services::Services;
use async_trait::async_trait;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use table::{Entry, Managed, Missing, Table};

const WORDS: Words = Words {
    code: "invalid_api_key",
    none: "Send an API key: 'Authorization: Bearer KEY'.",
    several: "Send one API key, not several.",
};

/// When to come back if nobody has read yet which keys there are.
const SOON: Duration = Duration::from_secs(1);

/// Lets in whoever has a key, and says who that is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The keys, one entry each, as `tidegate keys new` prints them.
    pub keys: Vec<Key>,
    /// A file with more of them: a list like `keys`. Relative to the configuration file.
    pub keys_file: Option<PathBuf>,
    /// Also let in by the managed keys: those that `tidegate keys new` and the admin listener keep in `storage`.
    pub managed: bool,
    /// What becomes of a request that carries no key of ours: `refuse` (401), or `next`: the next filter says who sends it.
    /// A key of our own making that is not known is refused always.
    pub otherwise: Otherwise,
}

/// See the module.
pub struct ApiKey {
    hasher: KeyHasher,
    table: Arc<Table>,
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

    fn takes_managed_keys(&self) -> bool {
        self.table.has_managed()
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let key = match credential::one(exchange, self.otherwise, &WORDS) {
            ControlFlow::Continue(key) => key,
            ControlFlow::Break(verdict) => return Ok(verdict),
        };
        let leave = self.otherwise == Otherwise::Next;
        Ok(match self.find(key) {
            Ok(entry) => admit(exchange, entry),
            Err(missing) if leave && missing.may_be_anothers(key) => Verdict::Continue,
            Err(Missing::Unknown) => {
                let message = "This API key is not known here. Check it, or ask for a new one.";
                credential::refuse(exchange, WORDS.code, message)
            }
            Err(Missing::NotRead) => {
                let message = "The keys that are let in cannot be read yet. Try again soon.";
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "keys_not_read", message);
                Verdict::Answer(refusal.retry_after(SOON).reply(exchange.endpoint(), exchange.id()))
            }
        })
    }
}

impl Missing {
    /// Whether another filter may know who has this.
    fn may_be_anothers(&self, key: &str) -> bool {
        match self {
            Self::Unknown => !keys::looks_ours(key),
            // Any key may be among those that have not been read, but a token is none.
            Self::NotRead => credential::looks_like_a_token(key),
        }
    }
}

impl ApiKey {
    fn find(&self, key: &str) -> std::result::Result<Entry, Missing> {
        // A typo is found before any lookup; what is not a key at all costs nothing.
        if key.len() > LONGEST_KEY || keys::looks_ours(key) && !keys::checksum_ok(key) {
            return Err(Missing::Unknown);
        }
        self.table.find(&self.hasher.hash(key))
    }
}

/// Says whose key it is, and lets it in if it is one that may come in now.
fn admit(exchange: &mut Exchange, entry: Entry) -> Verdict {
    let refusal = entry.refusal();
    // The log knows whose it was even if it lets nobody in.
    exchange.identify(entry.caller);
    refusal.map_or(Verdict::Continue, |refusal| answer(exchange, &refusal))
}

fn answer(exchange: &Exchange, refusal: &Refusal) -> Verdict {
    let reply = refusal.reply(exchange.endpoint(), exchange.id());
    Verdict::Answer(match refusal.status {
        StatusCode::UNAUTHORIZED => reply.header(header::WWW_AUTHENTICATE, "Bearer"),
        _ => reply,
    })
}

impl Plugin for ApiKey {
    const NAME: &'static str = "api_key";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let from_file = settings.keys_file.as_deref().map_or_else(Vec::new, |path| {
            let read = services.files.read(path).map_err(|error| vec![SettingsError::at("", error.to_string())]);
            read.and_then(keys_in).unwrap_or_else(|errors| {
                let of_file = |error: SettingsError| {
                    let at = if error.path.is_empty() { String::new() } else { format!("at {}: ", error.path) };
                    let message = format!("{}: {at}{}", path.display(), error.message);
                    SettingsError { path: "keys_file".to_owned(), message, help: error.help }
                };
                faults.extend(errors.into_iter().map(of_file));
                Vec::new()
            })
        });
        if settings.managed && services.managed_keys.is_none() {
            let help = "say where they are kept: `storage: { path: tidegate.db }` at the top of the file";
            faults.push(SettingsError::at("managed", "there is no `storage` to keep managed keys in").help(help));
        }
        if settings.keys.is_empty() && from_file.is_empty() && !settings.managed && faults.is_empty() {
            let help = "`tidegate keys new` prints a key and its entry";
            faults.push(SettingsError::at("keys", "there is no key, so nobody could get in").help(help));
        }
        let own = settings.keys.into_iter().enumerate().map(|(i, key)| (format!("keys[{i}]"), key));
        let filed = from_file.into_iter().map(|key| ("keys_file".to_owned(), key));
        let mut entries = HashMap::new();
        let mut ids = std::collections::HashSet::new();
        for (path, key) in own.chain(filed) {
            let caller = key.checked(&path, services.tenants.as_deref(), &services.own_limits, &mut faults);
            if !ids.insert(key.id.clone()) {
                faults.push(SettingsError::at(format!("{path}.id"), format!("the id '{}' is taken", key.id)));
            }
            let Some(hash) = KeyHash::from_hex(&key.hash) else {
                let message = format!("key '{}': the hash must be 64 hexadecimal digits", key.id);
                faults.push(SettingsError::at(format!("{path}.hash"), message).help(keys::PLAIN_KEY_HELP));
                continue;
            };
            if entries.insert(hash, Entry::of(caller)).is_some() {
                faults.push(SettingsError::at(format!("{path}.hash"), "another entry has the same hash"));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let ids = Arc::new(ids);
        let known = services.managed_keys.as_ref().filter(|_| settings.managed);
        let managed = known.map(|known| {
            services.own_limits.expect();
            let managed = Managed::new(services.tenants.clone(), services.own_limits.clone(), ids.clone());
            let managed = Arc::new(managed);
            known.follow(&(managed.clone() as Arc<dyn Follow>));
            managed
        });
        let table = Arc::new(Table::new(entries, ids, managed));
        services.views.add_keys(table.clone());
        Ok(Self { hasher: KeyHasher::new(services.pepper.as_deref()), table, otherwise: settings.otherwise })
    }
}

fn keys_in(value: serde_json::Value) -> std::result::Result<Vec<Key>, Vec<SettingsError>> {
    registry::judged(value, |keys, _| Ok(keys))
}

#[cfg(test)]
mod tests;
