//! The settings of `jwt`, as written and as meant.

use super::claims::Path as ClaimPath;
use super::key::Algorithm;
use crate::credential::{Otherwise, Unknown};
use crate::duration::Span;
use crate::filter::SettingsError;
use schemars::JsonSchema;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The most that clocks may differ.
const MOST_SKEW: Duration = Duration::from_secs(600);

/// RFC 7518 section 3.2: no shorter than the hash.
const SHORTEST_SECRET: usize = 32;

/// Lets in whoever has a token (JWT) that an issuer has signed, and says who that is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Who issues the tokens: exactly what they have as `iss`.
    pub issuer: String,
    /// For whom they must be meant: one of these in `aud`.
    #[schemars(length(min = 1))]
    pub audience: Vec<String>,
    /// How they may be signed. Nothing else is taken, whatever a token says about itself.
    #[schemars(length(min = 1))]
    pub algorithms: Vec<Algorithm>,
    /// The issuer's public keys, for `RS256`, `ES256` and `EdDSA`.
    #[serde(default)]
    pub jwks: Option<Jwks>,
    /// The secret shared with the issuer, for `HS256` alone; at least 32 bytes.
    #[serde(default)]
    pub secret: Option<String>,
    /// How far the issuer's clock may be from ours.
    #[serde(default = "thirty_seconds")]
    pub clock_skew: Span,
    /// Where tokens say who somebody is.
    #[serde(default)]
    pub claims: Claims,
    /// What becomes of a request that carries no token, or one of another issuer: `refuse` (401), or `next`: the next
    /// filter says who sends it. A token of this issuer that is no good is refused always.
    #[serde(default)]
    pub otherwise: Otherwise,
    /// What becomes of names that the file's `tenants` does not have: `refuse` (403), or `accept` them as labels.
    #[serde(default)]
    pub unknown: Unknown,
    /// The most tokens that are remembered as good; each until it expires, at most for an hour.
    #[serde(default = "ten_thousand")]
    pub remembered: u64,
}

fn thirty_seconds() -> Span {
    Span(Duration::from_secs(30))
}

fn ten_thousand() -> u64 {
    10_000
}

/// Where the issuer's public keys are: a URL, or a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// Where they are fetched. `https://`, or `http://` within a private network.
    #[serde(default)]
    pub url: Option<String>,
    /// A file that holds them, instead of `url`; relative to the configuration file, read again on SIGHUP.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// How often they are fetched again.
    #[serde(default = "five_minutes")]
    pub refresh: Span,
    /// The least time between two fetches that tokens with an unknown key bring about.
    #[serde(default = "ten_seconds")]
    pub cooldown: Span,
}

fn five_minutes() -> Span {
    Span(Duration::from_secs(300))
}

fn ten_seconds() -> Span {
    Span(Duration::from_secs(10))
}

/// Where tokens say who somebody is: a claim's name, names within names (`realm_access.tenant`), or a JSON pointer
/// (`/https:~1~1example.com~1org`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Claims {
    /// The user. A token must have it.
    pub user: String,
    /// The team. A token may lack it.
    pub team: Option<String>,
    /// The organisation. Where this is set a token must have it.
    pub org: Option<String>,
    /// The models it may ask for, `*` at the end as a wildcard: a list, or a text with blanks between them. Where this is
    /// set a token must have it; absent: all.
    pub models: Option<String>,
    /// The priority, from 0, the last, to 9, the first. A token may lack it.
    pub priority: Option<String>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { user: "sub".to_owned(), team: None, org: None, models: None, priority: None }
    }
}

/// The claims, found.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) user: ClaimPath,
    pub(super) team: Option<ClaimPath>,
    pub(super) org: Option<ClaimPath>,
    pub(super) models: Option<ClaimPath>,
    pub(super) priority: Option<ClaimPath>,
}

impl Settings {
    /// What cannot be meant.
    pub(super) fn faults(&self) -> Vec<SettingsError> {
        let mut faults = Vec::new();
        let mut fault = |path: &str, message: &str| faults.push(SettingsError::at(path, message));
        if self.issuer.is_empty() {
            fault("issuer", "the issuer is empty");
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            fault("audience", "name at least one audience: a token for somebody else must not get in here");
        }
        let shared = self.algorithms.contains(&Algorithm::HS256);
        let public = self.algorithms.iter().any(|algorithm| *algorithm != Algorithm::HS256);
        if self.algorithms.is_empty() {
            fault("algorithms", "name at least one: no token could get in");
        }
        match &self.secret {
            None if shared => fault("secret", "HS256 needs the secret that is shared with the issuer"),
            Some(_) if !shared => fault("secret", "a secret is for HS256, which is not among `algorithms`"),
            Some(secret) if secret.len() < SHORTEST_SECRET => {
                fault("secret", "shorter than 32 bytes: it can be guessed")
            }
            _ => {}
        }
        match &self.jwks {
            None if public => fault("jwks", "these algorithms need the issuer's public keys"),
            Some(_) if !public => fault("jwks", "HS256 alone needs no public keys"),
            Some(jwks) => jwks.faults(&mut fault),
            None => {}
        }
        if self.clock_skew.0 > MOST_SKEW {
            fault("clock_skew", "more than 10m: expired tokens would be good for too long");
        }
        faults
    }
}

impl Jwks {
    fn faults(&self, fault: &mut impl FnMut(&str, &str)) {
        match (&self.url, &self.file) {
            (Some(url), None) => {
                if let Err(reason) = judge(url) {
                    fault("jwks.url", reason);
                }
            }
            (None, Some(_)) => {}
            _ => fault("jwks", "give either `url` or `file`"),
        }
        for (name, span) in [("jwks.refresh", self.refresh), ("jwks.cooldown", self.cooldown)] {
            if span.0.is_zero() {
                fault(name, "cannot be 0: the issuer would be asked without a pause");
            }
        }
    }
}

/// Whether keys may be fetched from there: whoever could change them on the way could let in anybody.
fn judge(url: &str) -> Result<(), &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "this is not a URL")?;
    let host = uri.host().ok_or("this URL has no host")?;
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_private(host) => Ok(()),
        Some("http") => Err("use https: keys that come in plain text through a public network may be anybody's"),
        _ => Err("expected a URL that begins with https://"),
    }
}

fn is_private(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => {
            !host.contains('.') || [".local", ".internal", ".svc", ".localhost"].iter().any(|end| host.ends_with(end))
        }
    }
}

impl Claims {
    /// The paths, or what is wrong with them.
    pub(super) fn paths(&self, faults: &mut Vec<SettingsError>) -> Option<Paths> {
        let mut path = |name: &str, text: &Option<String>| {
            let path = ClaimPath::parse(text.as_deref()?);
            if path.is_none() {
                let message = "expected a claim such as sub, realm_access.tenant or /https:~1~1example.com~1org";
                faults.push(SettingsError::at(format!("claims.{name}"), message));
            }
            path
        };
        let user = path("user", &Some(self.user.clone()));
        let (team, org) = (path("team", &self.team), path("org", &self.org));
        let (models, priority) = (path("models", &self.models), path("priority", &self.priority));
        Some(Paths { user: user?, team, org, models, priority })
    }
}
