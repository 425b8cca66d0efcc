//! Rates, budgets and amounts as people write them: `60/min`, `40k/min`, `20/s`, `1M/h`; `5M/day`, `200/month`; `200`,
//! `1.5k`, `64KiB`.

use crate::prices::NANOS;
use crate::store::Period;
use crate::units::{scaled, split};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

const WINDOWS: [(&str, u64); 8] =
    [("s", 1), ("sec", 1), ("second", 1), ("min", 60), ("m", 60), ("minute", 60), ("h", 3600), ("hour", 3600)];
const PERIODS: [(&str, Period); 4] =
    [("d", Period::Day), ("day", Period::Day), ("week", Period::Week), ("month", Period::Month)];
const FACTORS: [(&str, u64); 8] = [
    ("", 1),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// So many in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub(super) count: u64,
    pub(super) window: Window,
    /// As it was written, for messages.
    pub(super) text: String,
}

/// So much money in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyRate(pub(super) Rate);

/// What a number is allowed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// Any stretch of time so long: a rate.
    Any(Duration),
    /// A day, a week or a month of the calendar: a budget.
    Calendar(Period),
}

/// A number that may be written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub(super) u64);

fn amount(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a number such as 60, 40k or 1M, not `{}`", text.trim());
    let (number, factor) = split(text, &FACTORS).ok_or_else(expected)?;
    scaled(number, factor).ok_or_else(expected)
}

/// Thousand millionths of whatever the currency is.
fn money(text: &str) -> Result<u64, String> {
    let expected = || format!("expected an amount of money such as 5, 0.50 or 10k, not `{}`", text.trim());
    let (number, factor) = split(text, &FACTORS).ok_or_else(expected)?;
    scaled(number, factor.checked_mul(NANOS).ok_or_else(expected)?).ok_or_else(expected)
}

const RATE: &str = "a rate such as 60/min, 20/s or 1M/h, or a budget such as 5M/day";
const MONEY: &str = "a budget such as 200/month or 0.50/day, or a rate such as 5/h";

fn rate(text: &str) -> Result<Rate, String> {
    per(text, amount, RATE)
}

fn money_rate(text: &str) -> Result<MoneyRate, String> {
    per(text, money, MONEY).map(MoneyRate)
}

fn per(text: &str, count: fn(&str) -> Result<u64, String>, expected: &str) -> Result<Rate, String> {
    let (number, name) = text.split_once('/').ok_or_else(|| format!("expected {expected}, not `{text}`"))?;
    let (count, name) = (count(number)?, name.trim());
    let rate = WINDOWS.iter().find(|(known, _)| *known == name).map(|(_, s)| Window::Any(Duration::from_secs(*s)));
    let budget = || PERIODS.iter().find(|(known, _)| *known == name).map(|(_, period)| Window::Calendar(*period));
    let window = rate.or_else(budget).ok_or_else(|| format!("unknown window `{name}`: expected {expected}"))?;
    Ok(Rate { count, window, text: text.trim().to_owned() })
}

struct Text<T> {
    parse: fn(&str) -> Result<T, String>,
    expected: &'static str,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text { parse: rate, expected: RATE })
    }
}

impl<'de> Deserialize<'de> for MoneyRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text { parse: money_rate, expected: MONEY })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| amount(text).map(Amount);
        deserializer.deserialize_any(Text { parse, expected: "a number such as 60, 40k or 1M" })
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "60/min, 20/s, 40k/min, 1M/h; 5M/day, 20M/week, 50M/month" })
    }
}

impl JsonSchema for MoneyRate {
    fn schema_name() -> Cow<'static, str> {
        "MoneyRate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "0.50/day, 20/week, 200/month; 5/h" })
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "description": "60, 40k, 1M" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, count, seconds) in [
            ("60/min", 60, 60),
            ("20/s", 20, 1),
            ("40k/min", 40_000, 60),
            ("1.5M/h", 1_500_000, 3600),
            ("1 MiB / s", 1 << 20, 1),
        ] {
            let rate = rate(text).unwrap();
            assert_eq!((rate.count, rate.window), (count, Window::Any(Duration::from_secs(seconds))), "{text}");
        }
        let budget = rate("5M/ day").unwrap();
        assert_eq!((budget.count, budget.window), (5_000_000, Window::Calendar(Period::Day)));
        for (text, nanos) in
            [("0.50/day", 500_000_000), ("200/month", 200_000_000_000), ("1.5k/week", 1_500_000_000_000)]
        {
            assert_eq!(money_rate(text).unwrap().0.count, nanos, "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_says_what_was_expected() {
        for text in ["60", "60/fortnight", "/s", "x/s", "1.2345678901/s", "-1/s", "99999999999999999999/s"] {
            assert!(rate(text).unwrap_err().contains("expected"), "{text}");
        }
        for text in ["5", "$5/day", "5 USD/day", "5/year", "99999999999G/day", "-1/day"] {
            assert!(money_rate(text).unwrap_err().contains("expected"), "{text}");
        }
    }
}
