//! The credential that a request carries, wherever SDKs put it: `Authorization: Bearer`, `x-api-key` (Anthropic's SDKs)
//! or the realtime subprotocol `openai-insecure-api-key.<key>` (browsers). It never travels further than the filter that
//! reads it.

use crate::caller::Caller;
use crate::exchange::Exchange;
use crate::filter::Verdict;
use crate::reply::Refusal;
use crate::tenants::{self, Names, Tenant, Tenants, UnknownTenant, standing};
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Where browsers put the key, since they cannot set headers on a WebSocket.
pub const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// What becomes of a request that an identity filter cannot tell, because it carries no credential of that kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// It is refused (401).
    #[default]
    Refuse,
    /// The next filter is asked: where several may say who somebody is, all but the last have this.
    Next,
}

/// What a request presents.
#[derive(Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// Nothing.
    None,
    /// This, in one place or in several.
    One(&'a str),
    /// Two different ones: which was meant must not depend on who looks.
    Several,
}

/// The credential in a request's headers. An SDK that sends the same one in two headers means one.
pub fn presented(headers: &HeaderMap) -> Presented<'_> {
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

/// How a filter speaks of the credentials that it judges.
pub struct Words {
    /// The code of its refusals.
    pub code: &'static str,
    /// To those who have sent none.
    pub none: &'static str,
    /// To those who have sent several.
    pub several: &'static str,
}

/// The one credential that a request presents; or what becomes of a request that somebody else has told already, or that
/// presents none, or several.
pub fn one<'e>(exchange: &'e Exchange, otherwise: Otherwise, words: &Words) -> ControlFlow<Verdict, &'e str> {
    // A filter above that leaves the others to us has told who this is.
    if exchange.caller().is_some() {
        return ControlFlow::Break(Verdict::Continue);
    }
    match presented(exchange.headers()) {
        Presented::One(credential) => ControlFlow::Continue(credential),
        Presented::None if otherwise == Otherwise::Next => ControlFlow::Break(Verdict::Continue),
        Presented::None => ControlFlow::Break(refuse(exchange, words.code, words.none)),
        Presented::Several => ControlFlow::Break(refuse(exchange, words.code, words.several)),
    }
}

/// The longest key that is looked at, in bytes; tokens are longer.
pub const LONGEST_KEY: usize = 512;

/// Whether a credential looks like a JSON Web Token: three parts, of which the first begins as JSON does in base 64.
/// Keys of ours never do.
pub fn looks_like_a_token(credential: &str) -> bool {
    credential.starts_with("ey") && credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Lets in whoever a credential has told, unless it or somebody above it is let in no more.
pub fn admit(exchange: &mut Exchange, caller: Arc<Caller>) -> Verdict {
    let refusal = standing::refusal(&caller);
    // The log knows who it was, also where it is refused.
    exchange.identify(caller);
    refusal.map_or(Verdict::Continue, |refusal| Verdict::Answer(refusal.reply(exchange.endpoint(), exchange.id())))
}

/// What becomes of a name that the section `tenants` does not have, if there is one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The request is refused (403).
    #[default]
    Refuse,
    /// It is a label, as without that section; what is known above it (its organisation, its team) holds.
    Accept,
}

/// Who carries these names, where others than this file give them out. `own` is what the credential itself lays down.
///
/// # Errors
/// Which of them is not known.
pub fn named(
    tenants: Option<&Tenants>,
    names: &Names,
    own: Option<Tenant>,
    unknown: Unknown,
) -> Result<Caller, UnknownTenant> {
    let error = match tenants::caller(tenants, names, own.clone()) {
        Err(error) if unknown == Unknown::Accept => error,
        settled => return settled,
    };
    let (team, org) = (names.team.clone(), names.org.clone());
    let fewer = [Names { team, org: org.clone(), ..Names::default() }, Names { org, ..Names::default() }];
    let known = fewer.iter().find_map(|fewer| tenants::caller(tenants, fewer, own.clone()).ok());
    let known = match known {
        Some(known) => known,
        None => tenants::caller(None, names, own).map_err(|_| error)?,
    };
    let name = |known: &Option<Arc<str>>, said: &Option<Arc<str>>| known.as_ref().or(said.as_ref()).cloned();
    Ok(Caller {
        user: name(&known.user, &names.user),
        service: name(&known.service, &names.service),
        team: name(&known.team, &names.team),
        org: name(&known.org, &names.org),
        ..known
    })
}

/// The answer to whoever cannot be told: 401 in its own protocol.
pub fn refuse(exchange: &Exchange, code: &'static str, message: &str) -> Verdict {
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, code, message);
    let reply = refusal.reply(exchange.endpoint(), exchange.id());
    Verdict::Answer(reply.header(header::WWW_AUTHENTICATE, "Bearer"))
}
