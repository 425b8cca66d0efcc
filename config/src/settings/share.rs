//! Shares of something, as people write them: `5%`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

/// A share of something, in hundredths of a percent: `5%`, `0.5%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// A whole number of percent.
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 100)
    }

    /// This share of so many, without what is left over.
    pub fn part_of(self, whole: usize) -> usize {
        (whole as u128 * u128::from(self.0) / 10_000) as usize
    }

    /// The share of one.
    pub fn of_one(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) => write!(f, "{}%", format!("{whole}.{part:02}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShareVisitor)
    }
}

struct ShareVisitor;

impl Visitor<'_> for ShareVisitor {
    type Value = Share;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share from 0% to 100%, such as 5%")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
        let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
        match number {
            Some(number) if (0.0..=100.0).contains(&number) => Ok(Share((number * 100.0).round() as u32)),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share: `5%`, `0.5%`, up to `100%`.",
            "type": "string",
            "pattern": r"^([0-9]+(\.[0-9]+)? ?%|.*\$\{.*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_written_back() {
        for text in ["0%", "5%", "0.5%", "12.25%", "100%"] {
            let share: Share = serde_json::from_value(text.into()).unwrap();
            assert_eq!(share.to_string(), text);
        }
        assert_eq!(Share::percent(5).of_one(), 0.05);
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "5", "101%", "-1%", "%", "NaN%"] {
            assert!(serde_json::from_value::<Share>(text.into()).is_err(), "{text}");
        }
    }
}
