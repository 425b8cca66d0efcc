//! Rates and amounts as people write them: `60/min`, `40k/min`, `20/s`, `1M/h`; `200`, `1.5k`, `64KiB`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

const WINDOWS: [(&str, u64); 7] =
    [("s", 1), ("sec", 1), ("second", 1), ("min", 60), ("m", 60), ("minute", 60), ("h", 3600)];
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
    pub(super) window: Duration,
    /// As it was written, for messages.
    pub(super) text: String,
}

/// A number that may be written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub(super) u64);

fn amount(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a number such as 60, 40k or 1M, not `{text}`");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = FACTORS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let parts = || -> Option<u64> {
        let (factor, digits) = (factor?, u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits))?);
        let fraction = fraction.parse::<u64>().ok()?.checked_mul(factor)? / 10_u64.pow(digits);
        whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(fraction)
    };
    parts().ok_or_else(expected)
}

fn rate(text: &str) -> Result<Rate, String> {
    let expected = "expected a rate such as 60/min, 20/s, 40k/min or 1M/h";
    let (count, window) = text.split_once('/').ok_or_else(|| format!("{expected}, not `{text}`"))?;
    let count = amount(count)?;
    let window = window.trim();
    if matches!(window, "d" | "day" | "week" | "month") {
        return Err("a rate is per s, min or h; budgets over days are not there yet".to_owned());
    }
    let hour = (window == "hour").then_some(3600);
    let seconds = WINDOWS.iter().find(|(name, _)| *name == window).map(|(_, seconds)| *seconds).or(hour);
    let seconds = seconds.ok_or_else(|| format!("unknown window `{window}`: {expected}"))?;
    Ok(Rate { count, window: Duration::from_secs(seconds), text: text.trim().to_owned() })
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
        deserializer.deserialize_any(Text { parse: rate, expected: "a rate such as 60/min, 20/s, 40k/min or 1M/h" })
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
        json_schema!({ "type": "string", "description": "60/min, 20/s, 40k/min, 1M/h" })
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
            assert_eq!((rate.count, rate.window.as_secs()), (count, seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_says_what_was_expected() {
        for text in ["60", "60/fortnight", "/s", "x/s", "1.2345678901/s", "-1/s", "99999999999999999999/s"] {
            assert!(rate(text).unwrap_err().contains("expected"), "{text}");
        }
        assert!(rate("1M/day").unwrap_err().contains("budgets"));
    }
}
