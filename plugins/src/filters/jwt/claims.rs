//! What a token claims: for whom it is, how long, and who its bearer is.

use super::reason::Reason;
use super::settings::Paths;
use crate::caller::Priority;
use crate::filters::limits::Own;
use crate::tenants::{Flags, Level, Metadata, Names, Tenant};
use serde_json::Value;
use std::sync::Arc;

/// The longest name that is taken from a claim, in bytes.
const LONGEST: usize = 256;

/// Later than any token lives: the year 10000.
const LATEST: f64 = 253_402_300_800.0;

/// Where a claim is: names within names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<Box<str>>);

impl Path {
    /// Reads `sub`, `realm_access.tenant`, or a JSON pointer (RFC 6901).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let steps: Vec<Box<str>> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~").into()).collect(),
            None => text.split('.').map(Into::into).collect(),
        };
        (!steps.iter().any(|step| step.is_empty())).then_some(Self(steps))
    }

    fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        let within = |value: &'a Value, step: &str| match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            value => value.get(step),
        };
        self.0.iter().try_fold(claims, |value, step| within(value, step)).filter(|value| !value.is_null())
    }
}

/// What holds for every token of an issuer.
pub(super) struct Expected {
    pub(super) issuer: Box<str>,
    pub(super) audience: Vec<String>,
    /// Seconds that clocks may differ.
    pub(super) skew: u64,
}

/// Judges issuer, audience and times. Returns when the token expires, in seconds since 1970.
pub(super) fn judge(claims: &Value, expected: &Expected, now: u64) -> Result<u64, Reason> {
    if claims["iss"].as_str() != Some(&*expected.issuer) {
        return Err(Reason::Issuer);
    }
    let meant = |audience: &Value| audience.as_str().is_some_and(|one| expected.audience.iter().any(|it| it == one));
    let fits = match &claims["aud"] {
        Value::Array(several) => several.iter().any(meant),
        one => meant(one),
    };
    if !fits {
        return Err(Reason::Audience);
    }
    let expires = seconds(&claims["exp"]).ok_or(Reason::Expired)?;
    if now >= expires.saturating_add(expected.skew) {
        return Err(Reason::Expired);
    }
    for name in ["nbf", "iat"] {
        if let Some(value) = claims.get(name) {
            let from = seconds(value).ok_or(Reason::Malformed)?;
            if from > now.saturating_add(expected.skew) {
                return Err(Reason::Early);
            }
        }
    }
    Ok(expires)
}

/// A number of seconds since 1970, a fraction left out.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_f64().filter(|number| (0.0..LATEST).contains(number))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within bounds")]
    let whole = number as u64;
    Some(whole)
}

/// Who the bearer is, by the names that the token gives, and what the token lays down for itself.
pub(super) fn names(claims: &Value, paths: &Paths) -> Result<(Names, Option<Tenant>), Reason> {
    let there = |path: &Path| path.find(claims).ok_or(Reason::Claim);
    let maybe = |path: &Option<Path>| path.as_ref().and_then(|path| path.find(claims)).map(name).transpose();
    let must = |path: &Option<Path>| path.as_ref().map(|path| there(path).and_then(name)).transpose();
    let models = paths.models.as_ref().map(|path| there(path).and_then(models)).transpose()?;
    let priority = paths.priority.as_ref().and_then(|path| path.find(claims)).map(priority).transpose()?;
    let names = Names {
        user: Some(name(there(&paths.user)?)?),
        team: maybe(&paths.team)?,
        org: must(&paths.org)?,
        service: None,
    };
    let own = (models.is_some() || priority.is_some()).then(|| Tenant {
        level: Level::Key,
        name: "token".into(),
        models,
        priority,
        metadata: Metadata::new(),
        flags: Flags::new(),
        expires: None,
        disabled: false,
        limits: Own::default(),
    });
    Ok((names, own))
}

/// A name, or a number that stands for one.
fn name(value: &Value) -> Result<Arc<str>, Reason> {
    let text = match value {
        Value::String(text) => text.as_str().into(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string().into(),
        _ => return Err(Reason::Claim),
    };
    let text: Arc<str> = text;
    let good = !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(Reason::Claim) }
}

/// From 0, the last, to 9, the first.
fn priority(value: &Value) -> Result<Priority, Reason> {
    value.as_u64().and_then(|priority| Priority::new(u8::try_from(priority).ok()?)).ok_or(Reason::Claim)
}

/// A list of models, or a text with blanks between them.
fn models(value: &Value) -> Result<Vec<Arc<str>>, Reason> {
    match value {
        Value::String(text) => Ok(text.split_ascii_whitespace().map(Into::into).collect()),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(Into::into).ok_or(Reason::Claim)).collect(),
        _ => Err(Reason::Claim),
    }
}
