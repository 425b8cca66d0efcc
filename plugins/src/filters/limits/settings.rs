//! Limits as they are written, and as they are meant.

use super::rate::{Amount, MoneyRate, Rate, Window};
use super::scope::Scopes;
use crate::filter::SettingsError;
use crate::prices::Prices;
use crate::store::{Calendar, MAX_BUDGET, Quota};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// How much whom may have: a list of limits. All limits of a request are decided together, so that a refusal by one
/// spends nothing of the others. See [guide-limits.md](guide-limits.md).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Settings(pub(super) Vec<Entry>);

/// One limit, or several for the same subjects.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose bucket: `key`, `user`, `service`, `team`, `org`, `ip`, `model`, `route` or `global`, or a list of two.
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
    /// Money, by the file's `prices`.
    #[serde(default)]
    pub cost: Option<MoneyRate>,
    /// Requests that are being answered at one time.
    #[serde(default)]
    pub in_flight: Option<Amount>,
    /// The most at once of `requests`, or of the only rate there is. Absent: as many as one window of the rate has.
    #[serde(default)]
    pub burst: Option<Amount>,
    /// Where the days, weeks and months of its budgets begin: a time zone such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub zone: String,
    /// What an answer from a cache takes of tokens and money: `free`, or `full`, as if a backend had given it. It
    /// counts as a request either way.
    #[serde(default)]
    pub cache_hits: CacheHits,
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

fn utc() -> String {
    "UTC".to_owned()
}

/// What an answer from a cache takes of tokens and money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheHits {
    /// Nothing.
    #[default]
    Free,
    /// As much as when a backend gave it.
    Full,
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
    Cost,
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
            Self::Cost => "cost",
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
            Self::Cost => "money",
            other => other.name(),
        }
    }

    /// Whether it counts what only the end of the answer tells.
    pub(super) fn is_usage(self) -> bool {
        self.is_tokens() || self == Self::Cost
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
    pub(super) calendar: Option<Arc<Calendar>>,
    /// What one of its units stands for: money is counted in thousands where it comes fast.
    pub(super) scale: u64,
    /// The rate as written, or the number in flight.
    pub(super) text: String,
    pub(super) label: Arc<str>,
    /// What must not change for its buckets to stay.
    pub(super) id: Arc<str>,
}

/// Money that comes faster than this, in thousand millionths a second, is counted in millionths: rates of it are kept
/// to a thousandth.
const FAST_MONEY: u64 = 60_000_000;

/// Reads one entry.
pub(super) struct Reader<'a> {
    pub(super) entry: &'a Entry,
    pub(super) path: &'a str,
    pub(super) prices: &'a Prices,
    pub(super) faults: &'a mut Vec<SettingsError>,
}

impl Reader<'_> {
    fn fault(&mut self, setting: &str, message: impl Into<String>, help: Option<&str>) {
        let path = if setting.is_empty() { self.path.to_owned() } else { format!("{}.{setting}", self.path) };
        let fault = SettingsError::at(path, message);
        self.faults.push(help.map_or(fault.clone(), |help| fault.help(help)));
    }

    /// The limits of the entry.
    pub(super) fn meant(&mut self) -> Vec<Meant> {
        let entry = self.entry;
        if let Some(fault) = entry.per.fault() {
            self.fault("per", fault, None);
        }
        let rates: Vec<(Kind, &Rate)> = [
            (Kind::Requests, entry.requests.as_ref()),
            (Kind::Tokens, entry.tokens.as_ref()),
            (Kind::PromptTokens, entry.prompt_tokens.as_ref()),
            (Kind::CompletionTokens, entry.completion_tokens.as_ref()),
            (Kind::Cost, entry.cost.as_ref().map(|cost| &cost.0)),
            (Kind::Bytes, entry.bytes.as_ref()),
        ]
        .into_iter()
        .filter_map(|(kind, rate)| Some((kind, rate?)))
        .collect();
        if rates.is_empty() && entry.in_flight.is_none() {
            let message =
                "it limits nothing: say requests, tokens, prompt_tokens, completion_tokens, cost, bytes or in_flight";
            self.fault("", message, None);
        }
        let is_rate = |(_, rate): &&(Kind, &Rate)| matches!(rate.window, Window::Any(_));
        let bursts = rates.iter().filter(is_rate).find(|(kind, _)| *kind == Kind::Requests);
        let bursts = bursts.or(rates.iter().find(is_rate)).map(|(kind, _)| *kind);
        let is_clear = rates.iter().filter(is_rate).count() == 1 || bursts == Some(Kind::Requests);
        if entry.burst.is_some() && bursts.is_none() {
            self.fault("burst", "a budget has no burst: all of it is there from the beginning", Some("leave it out"));
        } else if entry.burst.is_some() && !is_clear {
            let help = "give each rate an entry of its own";
            self.fault("burst", "it is not clear which of the rates it is for", Some(help));
        }
        let mut meant = Vec::new();
        for (kind, rate) in rates {
            let burst = entry.burst.filter(|_| bursts == Some(kind)).map(|burst| burst.0);
            meant.extend(match rate.window {
                Window::Any(window) => self.rate(kind, rate, window, burst),
                Window::Calendar(period) => self.budget(kind, rate, period),
            });
        }
        meant.extend(self.in_flight());
        meant
    }

    fn rate(&mut self, kind: Kind, rate: &Rate, window: Duration, burst: Option<u64>) -> Option<Meant> {
        let is_money = kind == Kind::Cost;
        let scale = if is_money && rate.count / window.as_secs().max(1) > FAST_MONEY { 1000 } else { 1 };
        // A burst of money is in whole units of the currency, as the rate is.
        let burst = burst.map_or(Some(rate.count), |burst| {
            if is_money { burst.checked_mul(crate::prices::NANOS) } else { Some(burst) }
        });
        let quota = burst.and_then(|burst| Quota::rate(rate.count / scale, window, burst / scale));
        if quota.is_none() {
            let message = match is_money {
                true => {
                    "a rate of money allows something, at most a million a second, and its burst at most 30 days' worth"
                }
                false => "a rate allows at least one and at most 1G/s, and its burst at most 30 days' worth",
            };
            self.fault(kind.name(), message, None);
        }
        let label = format!("{}/{}", self.name(), kind.name());
        Some(self.one(kind, quota?, None, scale, rate.text.clone(), label))
    }

    fn budget(&mut self, kind: Kind, rate: &Rate, period: crate::store::Period) -> Option<Meant> {
        if !(1..=MAX_BUDGET).contains(&rate.count) {
            let most = if kind == Kind::Cost { "10 million of a currency" } else { "10 thousand million million" };
            self.fault(kind.name(), format!("a budget allows something, and at most {most}"), None);
            return None;
        }
        match Calendar::new(period, &self.entry.zone) {
            Ok(calendar) => {
                let quota = Quota::Budget { most: rate.count, period };
                let label = format!("{}/{}/{}", self.name(), kind.name(), period.name());
                Some(self.one(kind, quota, Some(Arc::new(calendar)), 1, rate.text.clone(), label))
            }
            Err(message) => {
                self.fault("zone", message, Some("take a name of the IANA database, such as Europe/Berlin"));
                None
            }
        }
    }

    fn in_flight(&mut self) -> Option<Meant> {
        let Amount(most) = self.entry.in_flight?;
        if most == 0 {
            self.fault("in_flight", "nobody could ever get in", Some("1 is the least"));
            return None;
        }
        let label = format!("{}/{}", self.name(), Kind::InFlight.name());
        Some(self.one(Kind::InFlight, Quota::InFlight { most }, None, 1, most.to_string(), label))
    }

    fn name(&self) -> String {
        self.entry.name.clone().unwrap_or_else(|| self.entry.per.to_string())
    }

    fn one(
        &self,
        kind: Kind,
        quota: Quota,
        calendar: Option<Arc<Calendar>>,
        scale: u64,
        text: String,
        label: String,
    ) -> Meant {
        let Entry { per, models, anonymous, zone, .. } = self.entry;
        // Whether it refuses or only counts is not part of it. Neither is how much a budget allows: who has spent half
        // of a small one has spent a quarter of one twice as large.
        let quantity = match &quota {
            Quota::Budget { .. } if kind == Kind::Cost => format!("{zone} {}", self.prices.currency()),
            Quota::Budget { .. } => zone.clone(),
            quota => format!("{quota:?}"),
        };
        let id = format!("{label} {per} {quantity} {anonymous:?} [{}]", models.join(",")).into();
        let text = if kind == Kind::Cost { self.with_currency(&text) } else { text };
        Meant { kind, quota, calendar, scale, text, label: label.into(), id }
    }

    /// `200 USD/month`.
    fn with_currency(&self, text: &str) -> String {
        let (amount, window) = text.split_once('/').unwrap_or((text, ""));
        format!("{} {}/{window}", amount.trim(), self.prices.currency())
    }
}
