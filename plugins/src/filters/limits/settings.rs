//! Limits as they are written, and as they are meant.

use super::rate::{Amount, Rate};
use super::scope::Scopes;
use crate::filter::SettingsError;
use crate::store::Quota;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// How much whom may have: a list of limits. All limits of a request are decided together, so that a refusal by one
/// spends nothing of the others. See [guide-limits.md](guide-limits.md).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Settings(pub(super) Vec<Entry>);

/// One limit, or several for the same subjects.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose bucket: `key`, `user`, `team`, `org`, `ip`, `model` or `global`, or a list of two of them.
    pub per: Scopes,
    /// Requests.
    #[serde(default)]
    pub requests: Option<Rate>,
    /// Tokens of prompts and answers together.
    #[serde(default)]
    pub tokens: Option<Rate>,
    /// Tokens of prompts.
    #[serde(default)]
    pub prompt_tokens: Option<Rate>,
    /// Tokens of answers.
    #[serde(default)]
    pub completion_tokens: Option<Rate>,
    /// Bytes of the bodies of requests and answers.
    #[serde(default)]
    pub bytes: Option<Rate>,
    /// Requests that are being answered at one time.
    #[serde(default)]
    pub in_flight: Option<Amount>,
    /// The most at once of `requests`, or of the only rate there is. Absent: as many as one window of the rate has.
    #[serde(default)]
    pub burst: Option<Amount>,
    /// The models it is for, `*` at the end as a wildcard. Absent: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// What it is called in messages, logs and metrics. Absent: after `per`.
    #[serde(default)]
    pub name: Option<String>,
    /// Count and log what it would refuse, but refuse nothing.
    #[serde(default)]
    pub shadow: bool,
    /// Those who have no such subject (no user is known, no address): `exempt`, or `shared`, one bucket for all of them.
    #[serde(default)]
    pub anonymous: Anonymous,
}

/// What becomes of callers without a subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anonymous {
    /// The limit is not for them.
    #[default]
    Exempt,
    /// They share one bucket.
    Shared,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Requests,
    Tokens,
    PromptTokens,
    CompletionTokens,
    Bytes,
    InFlight,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::PromptTokens => "prompt_tokens",
            Self::CompletionTokens => "completion_tokens",
            Self::Bytes => "bytes",
            Self::InFlight => "in_flight",
        }
    }

    /// For messages.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::PromptTokens => "prompt tokens",
            Self::CompletionTokens => "completion tokens",
            Self::InFlight => "requests at a time",
            other => other.name(),
        }
    }

    pub(super) fn is_tokens(self) -> bool {
        matches!(self, Self::Tokens | Self::PromptTokens | Self::CompletionTokens)
    }
}

/// One limit as meant: of one kind.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    pub(super) kind: Kind,
    pub(super) quota: Quota,
    /// The rate as written, or the number in flight.
    pub(super) text: String,
    pub(super) label: Arc<str>,
}

impl Entry {
    /// The limits of one entry, at `path`.
    pub(super) fn meant(&self, path: &str, faults: &mut Vec<SettingsError>) -> Vec<Meant> {
        if let Some(fault) = self.per.fault() {
            faults.push(SettingsError::at(format!("{path}.per"), fault));
        }
        let rates: Vec<(Kind, &Rate)> = [
            (Kind::Requests, &self.requests),
            (Kind::Tokens, &self.tokens),
            (Kind::PromptTokens, &self.prompt_tokens),
            (Kind::CompletionTokens, &self.completion_tokens),
            (Kind::Bytes, &self.bytes),
        ]
        .into_iter()
        .filter_map(|(kind, rate)| Some((kind, rate.as_ref()?)))
        .collect();
        if rates.is_empty() && self.in_flight.is_none() {
            let message =
                "it limits nothing: say requests, tokens, prompt_tokens, completion_tokens, bytes or in_flight";
            faults.push(SettingsError::at(path, message));
        }
        let bursts = rates.iter().find(|(kind, _)| *kind == Kind::Requests).or(rates.first()).map(|(kind, _)| *kind);
        let is_clear = rates.len() == 1 || bursts == Some(Kind::Requests);
        if self.burst.is_some() && !is_clear {
            let fault = SettingsError::at(format!("{path}.burst"), "it is not clear which of the rates it is for");
            faults.push(fault.help("give each rate an entry of its own"));
        }
        let mut meant = Vec::new();
        for (kind, rate) in rates {
            let burst = self.burst.filter(|_| bursts == Some(kind)).map_or(rate.count, |burst| burst.0);
            match Quota::rate(rate.count, rate.window, burst) {
                Some(quota) => meant.push(self.one(kind, quota, rate.text.clone())),
                None => {
                    let message = "a rate allows at least one and at most 1G/s, and its burst at most 30 days' worth";
                    faults.push(SettingsError::at(format!("{path}.{}", kind.name()), message));
                }
            }
        }
        match self.in_flight {
            Some(Amount(0)) => {
                let fault = SettingsError::at(format!("{path}.in_flight"), "nobody could ever get in");
                faults.push(fault.help("1 is the least"));
            }
            Some(Amount(most)) => meant.push(self.one(Kind::InFlight, Quota::InFlight { most }, most.to_string())),
            None => {}
        }
        meant
    }

    fn one(&self, kind: Kind, quota: Quota, text: String) -> Meant {
        let name = self.name.clone().unwrap_or_else(|| self.per.to_string());
        Meant { kind, quota, text, label: format!("{name}/{}", kind.name()).into() }
    }

    /// What must not change for the buckets to stay after a reload. Whether it refuses or only counts is not part.
    pub(super) fn id(&self, meant: &Meant) -> Arc<str> {
        let (models, label) = (self.models.join(","), &meant.label);
        format!("{label} {} {:?} {:?} [{models}]", self.per, meant.quota, self.anonymous).into()
    }
}
