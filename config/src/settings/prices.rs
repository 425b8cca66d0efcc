//! What models cost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Deserialize as Read, Serialize, Serializer};

use crate::units::scaled;

/// What requests cost, for limits and budgets of `cost`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Read, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// What the money is called in messages: `USD`, `EUR`.
    #[schemars(length(min = 1, max = 16))]
    pub currency: String,
    /// By the model that a client asks for, `*` at the end as a wildcard: the exact name is tried first, then the
    /// longest beginning. A model without a price cannot be used where a limit counts `cost`.
    pub models: BTreeMap<String, Price>,
}

impl Default for Prices {
    fn default() -> Self {
        Self { currency: "USD".to_owned(), models: BTreeMap::new() }
    }
}

/// What one model costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Read, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// A million tokens of prompts.
    pub prompt: Money,
    /// A million tokens of prompts that came from the backend's cache. Absent: as much as others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_prompt: Option<Money>,
    /// A million tokens of answers.
    pub completion: Money,
    /// Each request, whatever its tokens.
    pub request: Money,
}

/// An amount of money, in thousand millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Money(pub u64);

const NANOS: u64 = 1_000_000_000;

fn parse(text: &str) -> Result<Money, String> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let nanos = digits.then(|| scaled(text, NANOS)).flatten();
    nanos.map(Money).ok_or_else(|| format!("expected an amount of money such as 2.50 or 0.075, not `{text}`"))
}

/// As few digits as say it: `2.5`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / NANOS, self.0 % NANOS);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amount)
    }
}

struct Amount;

impl Visitor<'_> for Amount {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of money such as 2.50 or 0.075")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Money, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Money, E> {
        parse(&number.to_string()).map_err(E::custom)
    }

    /// The shortest text that reads as this number is the one that was written: nothing is lost on the way.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Money, E> {
        parse(&number.to_string()).map_err(E::custom)
    }
}

impl JsonSchema for Money {
    fn schema_name() -> Cow<'static, str> {
        "Money".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An amount of money: `2.50`, `0.075`.",
            "type": ["number", "string"],
            "minimum": 0,
            "pattern": r"^([0-9]+(\.[0-9]{1,9})?|.*\$\{.*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_to_the_last_digit_and_written_back() {
        for (text, nanos) in
            [("2.5", 2_500_000_000), ("0.075", 75_000_000), ("10", 10_000_000_000), ("0.000000001", 1), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(Money(nanos)));
            assert_eq!(Money(nanos).to_string(), text);
        }
        for number in [0.1, 0.3, 2.675, 0.15, 1e-7] {
            let text = number.to_string();
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_money_is_refused() {
        for text in ["-1", "1e3", "$2", "2.50 USD", "1.0000000001", "", ".", "99999999999999999999"] {
            assert!(parse(text).unwrap_err().contains("such as"), "{text}");
        }
    }
}
