//! `trusted_headers`: who sends a request, as a trusted proxy says in headers.
//!
//! A proxy that has already found out who somebody is (single sign-on, a mesh) may say so in headers. They count only on
//! requests that one of `trusted_proxies` hands over; from anybody else they are what a stranger claims about himself.
//! Either way they end here: no backend sees them.

use crate::credential::{self, Otherwise, Unknown};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::services::Services;
use crate::tenants::{Names, Tenants};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// The longest name that is taken from a header, in bytes.
const LONGEST: usize = 256;

/// Believes what a trusted proxy says about who somebody is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The header that names the user.
    pub user: Option<String>,
    /// The header that names the user's team.
    pub team: Option<String>,
    /// The header that names the organisation.
    pub org: Option<String>,
    /// What becomes of a request that comes past the proxies, or without the user (the organisation, where no header
    /// names a user): `refuse` (401), or `next`.
    pub otherwise: Otherwise,
    /// What becomes of names that the file's `tenants` does not have: `refuse` (403), or `accept` them as labels.
    pub unknown: Unknown,
}

impl Default for Settings {
    fn default() -> Self {
        let name = |name: &str| Some(name.to_owned());
        Self {
            user: name("x-user-id"),
            team: name("x-team-id"),
            org: name("x-org-id"),
            otherwise: Otherwise::default(),
            unknown: Unknown::default(),
        }
    }
}

/// See the module.
pub struct TrustedHeaders {
    user: Option<HeaderName>,
    team: Option<HeaderName>,
    org: Option<HeaderName>,
    all: Vec<HeaderName>,
    otherwise: Otherwise,
    unknown: Unknown,
    tenants: Option<Arc<Tenants>>,
}

#[async_trait]
impl Filter for TrustedHeaders {
    fn needs_body(&self) -> bool {
        false
    }

    fn identifies(&self) -> Option<Otherwise> {
        Some(self.otherwise)
    }

    fn keeps(&self) -> &[HeaderName] {
        &self.all
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        if exchange.caller().is_some() {
            return Ok(Verdict::Continue);
        }
        if exchange.is_vouched_for() {
            match self.names(exchange.headers()) {
                Ok(Some(names)) => {
                    let caller = credential::named(self.tenants.as_deref(), &names, None, self.unknown);
                    return Ok(match caller {
                        Ok(caller) => credential::admit(exchange, Arc::new(caller)),
                        Err(unknown) => Verdict::Answer(unknown.refusal().reply(exchange.endpoint(), exchange.id())),
                    });
                }
                Ok(None) => {}
                Err(Unclear) => {
                    let message = "The headers that say who sends this request are not as they must be.";
                    return Ok(credential::refuse(exchange, "not_identified", message));
                }
            }
        }
        match self.otherwise {
            Otherwise::Next => Ok(Verdict::Continue),
            Otherwise::Refuse => {
                let message = "Requests are taken here from those whom the gateway's own proxy has identified.";
                Ok(credential::refuse(exchange, "not_identified", message))
            }
        }
    }
}

/// A header that is there twice, or holds what is no name.
struct Unclear;

impl TrustedHeaders {
    fn names(&self, headers: &HeaderMap) -> std::result::Result<Option<Names>, Unclear> {
        let [user, team, org] = [&self.user, &self.team, &self.org].map(|name| named(headers, name.as_ref()));
        let names = Names { user: user?, team: team?, org: org?, service: None };
        let known = if self.user.is_some() { names.user.is_some() } else { names.org.is_some() };
        Ok(known.then_some(names))
    }
}

fn named(headers: &HeaderMap, name: Option<&HeaderName>) -> std::result::Result<Option<Arc<str>>, Unclear> {
    let Some(name) = name else { return Ok(None) };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| Unclear)?.trim();
    if values.next().is_some() || value.len() > LONGEST || value.chars().any(char::is_control) {
        return Err(Unclear);
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

impl Plugin for TrustedHeaders {
    const NAME: &'static str = "trusted_headers";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let mut name = |path: &str, text: Option<String>| {
            let name = HeaderName::from_bytes(text?.as_bytes()).ok();
            if name.is_none() {
                faults.push(SettingsError::at(path, "this is not the name of a header"));
            }
            name
        };
        let user = name("user", settings.user);
        let (team, org) = (name("team", settings.team), name("org", settings.org));
        if faults.is_empty() && user.is_none() && org.is_none() {
            faults.push(SettingsError::at("user", "neither `user` nor `org` names a header: nobody could be told"));
        }
        let all = [&user, &team, &org].into_iter().flatten().cloned().collect();
        let (otherwise, unknown, tenants) = (settings.otherwise, settings.unknown, services.tenants.clone());
        if faults.is_empty() { Ok(Self { user, team, org, all, otherwise, unknown, tenants }) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::exchange_with;
    use serde_json::json;

    fn filter(settings: serde_json::Value) -> TrustedHeaders {
        let settings = serde_json::from_value(settings).expect("well-formed");
        TrustedHeaders::new(settings, &Services::none()).expect("meant")
    }

    async fn judged(filter: &TrustedHeaders, headers: &[(&str, &str)], vouched: bool) -> (bool, Option<String>) {
        let mut exchange = exchange_with("{}", headers);
        if vouched {
            exchange.vouch();
        }
        let verdict = filter.request(&mut exchange).await.expect("no fault");
        (matches!(verdict, Verdict::Continue), exchange.caller().map(|it| format!("{:?} {:?}", it.user, it.org)))
    }

    #[tokio::test]
    async fn a_trusted_proxy_says_who_somebody_is_and_nobody_else_does() {
        let headers = [("x-user-id", "ann"), ("x-org-id", "acme")];
        let caller = r#"Some("ann") Some("acme")"#.to_owned();
        assert_eq!(judged(&filter(json!({})), &headers, true).await, (true, Some(caller)));
        assert_eq!(judged(&filter(json!({})), &headers, false).await, (false, None));
        assert_eq!(judged(&filter(json!({ "otherwise": "next" })), &headers, false).await, (true, None));
    }

    #[tokio::test]
    async fn what_could_be_read_in_two_ways_is_refused() {
        let long = "a".repeat(LONGEST + 1);
        for bad in
            [&[("x-user-id", "ann"), ("x-user-id", "bob")][..], &[("x-user-id", &*long)], &[("x-user-id", "a\tb")]]
        {
            assert_eq!(judged(&filter(json!({ "otherwise": "next" })), bad, true).await, (false, None), "{bad:?}");
        }
        assert_eq!(judged(&filter(json!({})), &[("x-user-id", " "), ("x-org-id", "acme")], true).await, (false, None));
    }

    #[test]
    fn a_filter_that_could_tell_nobody_is_a_fault() {
        let fault = |settings| {
            let settings = serde_json::from_value(settings).expect("well-formed");
            TrustedHeaders::new(settings, &Services::none()).err().expect("a fault")[0].path.clone()
        };
        assert_eq!(fault(json!({ "user": null, "org": null })), "user");
        assert_eq!(fault(json!({ "team": "a b" })), "team");
    }
}
