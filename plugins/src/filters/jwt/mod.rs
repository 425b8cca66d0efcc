//! `jwt`: who sends a request, told by a token that an issuer has signed (RFC 7519).
//!
//! How a token may be signed is for the file to say, never for the token: each key is bound to one algorithm, there is no
//! `none`, and a shared secret comes from the file alone. Tokens that were good are remembered by the keyed hash of all
//! their bytes until they expire, so that most requests cost no signature. The reason of a refusal goes to the log; the
//! bearer is told that the token is not accepted, and nothing else.

mod claims;
mod issuer;
mod key;
mod metrics;
mod reason;
mod settings;
mod token;

use crate::caller::Caller;
use crate::credential::{self, Otherwise, Unknown, Words};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::reply::Refusal;
use crate::services::Services;
use crate::tenants::{Tenants, UnknownTenant};
use async_trait::async_trait;
use claims::Expected;
use http::StatusCode;
use issuer::{Issuer, Pace, Version};
use key::{Key, Keys};
use metrics::Tokens;
use moka::future::Cache;
use settings::Paths;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use token::Token;

pub use issuer::Issuers;
pub use key::Algorithm;
pub use metrics::{FETCHED, FETCHED_HELP, FETCHES, FETCHES_HELP, KEYS, KEYS_HELP, Metrics, TOKENS, TOKENS_HELP};
pub use reason::Reason;
pub use settings::{Claims, Jwks, Settings};

/// How long a token is remembered at most.
const LONGEST_MEMORY: Duration = Duration::from_secs(3600);

const WORDS: Words = Words {
    code: "invalid_token",
    none: "Send a token: 'Authorization: Bearer TOKEN'.",
    several: "Send one token, not several.",
};

/// See the module.
pub struct Jwt {
    expected: Expected,
    algorithms: Vec<Algorithm>,
    paths: Paths,
    source: Source,
    secret: Option<Key>,
    otherwise: Otherwise,
    unknown: Unknown,
    tenants: Option<Arc<Tenants>>,
    remembered: Cache<[u8; 32], Good>,
    /// What tokens are hashed with, other each time: whoever sees a hash cannot tell whether it is a token's.
    hash_key: [u8; 32],
    tokens: Tokens,
}

/// Why nobody is let in.
#[derive(Debug, PartialEq, Eq)]
enum No {
    /// The token is no good.
    Token(Reason),
    /// It is, but for somebody who is not known here.
    Tenant(UnknownTenant),
}

impl From<Reason> for No {
    fn from(reason: Reason) -> Self {
        Self::Token(reason)
    }
}

/// Where the public keys are.
enum Source {
    None,
    File(Version),
    Issuer(Arc<Issuer>),
}

/// A token that was good.
#[derive(Clone)]
struct Good {
    caller: Arc<Caller>,
    /// In seconds since 1970.
    expires: u64,
    /// With which version of the keys.
    version: u64,
}

#[async_trait]
impl Filter for Jwt {
    fn needs_body(&self) -> bool {
        false
    }

    fn identifies(&self) -> Option<Otherwise> {
        Some(self.otherwise)
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let token = match credential::one(exchange, self.otherwise, &WORDS) {
            ControlFlow::Continue(token) if self.otherwise == Otherwise::Next && !self.is_ours(token) => {
                return Ok(Verdict::Continue);
            }
            ControlFlow::Continue(token) => token,
            ControlFlow::Break(verdict) => return Ok(verdict),
        };
        match self.caller(token, now()).await {
            Ok(caller) => Ok(credential::admit(exchange, caller)),
            Err(no) => Ok(self.turn_away(exchange, &no)),
        }
    }
}

impl Jwt {
    /// Whether this looks like one of our issuer's tokens, where others may be somebody else's. Believes the token: what
    /// is ours by its own word is judged here.
    fn is_ours(&self, token: &str) -> bool {
        let claimed = || Token::read(token).ok()?.claims().ok()?["iss"].as_str().map(str::to_owned);
        let looks = token.len() > token::LONGEST || credential::looks_like_a_token(token);
        looks && claimed().is_none_or(|issuer| *issuer == *self.expected.issuer)
    }

    /// The answer to a token that lets nobody in; why it does not is for the log.
    fn turn_away(&self, exchange: &mut Exchange, no: &No) -> Verdict {
        let reason = match no {
            No::Token(reason) => *reason,
            No::Tenant(_) => Reason::Tenant,
        };
        self.tokens.refused(reason);
        exchange.note("jwt", reason.label());
        match no {
            No::Token(Reason::NoKeys) => unavailable(exchange),
            No::Token(_) => refuse(exchange, "This token is not accepted here. Get a new one, or ask the operator."),
            No::Tenant(unknown) => Verdict::Answer(unknown.refusal().reply(exchange.endpoint(), exchange.id())),
        }
    }

    /// Who the bearer is, remembered or found out.
    async fn caller(&self, token: &str, now: u64) -> std::result::Result<Arc<Caller>, No> {
        if token.len() > token::LONGEST {
            return Err(Reason::TooLong.into());
        }
        let hash = *blake3::keyed_hash(&self.hash_key, token.as_bytes()).as_bytes();
        let version = self.source.current();
        if let Some(good) = self.remembered.get(&hash).await
            && now < good.expires
            && version.as_ref().is_none_or(|version| version.number == good.version)
        {
            self.tokens.remembered.inc();
            return Ok(good.caller);
        }
        let token = Token::read(token)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Reason::Algorithm.into());
        }
        let version = self.verify(&token, version).await?;
        let claims = token.claims()?;
        let expires = claims::judge(&claims, &self.expected, now)?;
        let (names, own) = claims::names(&claims, &self.paths)?;
        let caller = credential::named(self.tenants.as_deref(), &names, own, self.unknown).map_err(No::Tenant)?;
        // A token has no name of its own to be kept apart by.
        let caller = Arc::new(Caller { key: None, ..caller });
        let good = Good { caller: caller.clone(), expires, version };
        if now < expires {
            self.remembered.insert(hash, good).await;
        }
        self.tokens.good.inc();
        Ok(caller)
    }

    /// Whether the signature is what it must be. The version of the keys that it was judged by.
    async fn verify(&self, token: &Token<'_>, version: Option<Version>) -> std::result::Result<u64, Reason> {
        let (signed, signature) = token.signature()?;
        if token.algorithm == Algorithm::HS256 {
            self.secret.as_ref().ok_or(Reason::UnknownKey)?.verify(signed, &signature)?;
            return Ok(version.map_or(0, |version| version.number));
        }
        let mut version = version.ok_or(Reason::UnknownKey)?;
        let id = token.key.as_deref();
        if version.keys.find(token.algorithm, id).is_none()
            && let Source::Issuer(issuer) = &self.source
        {
            version = issuer.look_again().await;
        }
        match version.keys.find(token.algorithm, id) {
            Some(key) => key.verify(signed, &signature).map(|()| version.number),
            None if version.number == 0 => Err(Reason::NoKeys),
            None => Err(Reason::UnknownKey),
        }
    }
}

impl Source {
    fn current(&self) -> Option<Version> {
        match self {
            Self::None => None,
            Self::File(version) => Some(version.clone()),
            Self::Issuer(issuer) => Some(issuer.current()),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn refuse(exchange: &Exchange, message: &str) -> Verdict {
    credential::refuse(exchange, WORDS.code, message)
}

/// It is not the bearer's fault that nobody can tell here whether the token is good.
fn unavailable(exchange: &Exchange) -> Verdict {
    let message = "Tokens cannot be judged here at the moment. Try again.";
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "identity_unavailable", message);
    Verdict::Answer(refusal.retry_after(Duration::from_secs(1)).reply(exchange.endpoint(), exchange.id()))
}

impl Plugin for Jwt {
    const NAME: &'static str = "jwt";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = settings.faults();
        let paths = settings.claims.paths(&mut faults);
        let mut hash_key = [0; 32];
        if let Err(error) = getrandom::fill(&mut hash_key) {
            faults.push(SettingsError::at("", format!("the system has no randomness: {error}")));
        }
        let filed = settings.jwks.as_ref().and_then(|jwks| jwks.file.as_deref()).and_then(|path| {
            let read = services.files.read(path).map_err(|error| error.to_string()).and_then(|set| Keys::read(&set));
            let fault = |error| SettingsError::at("jwks.file", format!("{}: {error}", path.display()));
            read.map_err(|error| faults.push(fault(error))).ok()
        });
        let (true, Some(paths)) = (faults.is_empty(), paths) else { return Err(faults) };
        let issuers = &services.shared.issuers;
        let source = match (&settings.jwks, filed) {
            (_, Some(keys)) => Source::File(Version { keys: Arc::new(keys), number: 1 }),
            (Some(Jwks { url: Some(url), refresh, cooldown, .. }), None) => {
                let pace = Pace { refresh: refresh.0, cooldown: cooldown.0 };
                Source::Issuer(issuers.at(url, &settings.issuer, pace, &services.shared.outbound))
            }
            _ => Source::None,
        };
        let remembered = Cache::builder().max_capacity(settings.remembered).time_to_live(LONGEST_MEMORY).build();
        Ok(Self {
            tokens: issuers.metrics.tokens(&settings.issuer),
            secret: settings.secret.as_deref().map(Key::secret),
            expected: Expected {
                issuer: settings.issuer.into(),
                audience: settings.audience,
                skew: settings.clock_skew.0.as_secs(),
            },
            algorithms: settings.algorithms,
            paths,
            source,
            otherwise: settings.otherwise,
            unknown: settings.unknown,
            tenants: services.tenants.clone(),
            remembered,
            hash_key,
        })
    }
}

#[cfg(test)]
mod tests;
