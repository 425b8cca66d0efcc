//! Times, sizes and shares as people write them in settings: `250ms`, `30s`, `10m`, `1h`, `7d`; `4096`, `64KiB`, `512MiB`;
//! `5%`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::time::Duration;

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Duration);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// A share of something, as a part of 2^64: from `0%` to `100%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u128);

const TIMES: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Appends a decimal number of `least` digits or more.
pub fn write_digits(out: &mut Vec<u8>, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 || digits.len() - start < least {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[start..]);
}

/// A number with a unit of these, in the smallest of them.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) = split(text, units)?;
    scaled(number, factor)
}

/// A number and what its unit, one of these, stands for.
pub(crate) fn split<'t>(text: &'t str, units: &[(&str, u64)]) -> Option<(&'t str, u64)> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    Some((number, *factor))
}

/// `number` times `factor`, in whole numbers all the way; at most nine digits behind the point.
pub(crate) fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits))?;
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / 10_u128.pow(digits);
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(u64::try_from(parts).ok()?)
}

impl Time {
    /// Reads a time.
    pub fn parse(text: &str) -> Option<Self> {
        if text.trim() == "0" {
            return Some(Self::default());
        }
        read(text, &TIMES).filter(|millis| *millis <= MOST_MILLIS).map(Duration::from_millis).map(Self)
    }
}

/// Ten years: what is longer is a slip.
const MOST_MILLIS: u64 = 315_360_000_000;

impl Size {
    /// Reads a size.
    pub fn parse(text: &str) -> Option<Self> {
        read(text, &SIZES).map(Self)
    }
}

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(1 << 64);

    /// Reads a share.
    pub fn parse(text: &str) -> Option<Self> {
        let percent = text.trim().strip_suffix('%')?.trim_end().parse::<f64>().ok()?;
        (0.0..=100.0).contains(&percent).then(|| Self((percent / 100.0 * Self::ALL.0 as f64) as u128))
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Whether a point, of all that there are from 0 to 2^64, is in this share of them.
    #[must_use]
    pub fn has(self, point: u64) -> bool {
        u128::from(point) < self.0
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = || de::Error::custom("expected a share from 0% to 100%, such as 5%");
        String::deserialize(deserializer).ok().and_then(|text| Self::parse(&text)).ok_or_else(expected)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\s*[0-9.]+\\s*%\\s*$" })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = || de::Error::custom("expected a time such as 250ms, 30s, 10m, 1h or 7d");
        match Written::deserialize(deserializer).map_err(|_| expected())? {
            Written::Number(0) => Ok(Self::default()),
            Written::Number(_) => Err(expected()),
            Written::Text(text) => Self::parse(&text).ok_or_else(expected),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = || de::Error::custom("expected a size such as 4096, 64KiB, 512MiB or 2GB");
        match Written::deserialize(deserializer).map_err(|_| expected())? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => Self::parse(&text).ok_or_else(expected),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(self.0.as_millis() as u64, &TIMES, "0"))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(self.0, &SIZES, "0"))
    }
}

/// In the largest unit that it is a whole number of.
fn written(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = units.iter().filter(|(_, factor)| number > 0 && number.is_multiple_of(*factor));
    fits.max_by_key(|(_, factor)| *factor)
        .map_or(zero.to_owned(), |(unit, factor)| format!("{}{unit}", number / factor))
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^\\s*(0|[0-9.]+\\s*(ms|s|m|min|h|d))\\s*$" })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^\\s*[0-9.]+\\s*([kMG]?B|[KMG]iB)?\\s*$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_written() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000), ("7d", 604_800_000), ("0", 0)]
        {
            let time = Time(Duration::from_millis(millis));
            assert_eq!(Time::parse(text), Some(time), "{text}");
            let written = serde_json::to_value(time).unwrap();
            assert_eq!(Time::parse(written.as_str().unwrap()), Some(time), "{written}");
        }
        for (text, bytes) in [("4096", 4096), ("64KiB", 65_536), ("1.5 MiB", 1_572_864), ("2GB", 2_000_000_000)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "s", "10", "10x", "-1s", "11000d"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Size::parse("10 XB"), None);
    }

    #[test]
    fn a_share_has_its_part_of_all_points() {
        let all: Vec<u64> = (0..1000).map(|n| n * (u64::MAX / 1000) + u64::MAX / 2000).collect();
        for (text, expected) in [("0%", 0), ("0.5 %", 5), ("25%", 250), ("100%", 1000)] {
            let share = Percent::parse(text).unwrap();
            assert_eq!(all.iter().filter(|point| share.has(**point)).count(), expected, "{text}");
        }
        for text in ["", "5", "101%", "-1%", "NaN%", "%"] {
            assert_eq!(Percent::parse(text), None, "{text}");
        }
        assert!(Percent::ALL.has(u64::MAX) && Percent::parse("0%").unwrap().is_nothing());
    }

    #[test]
    fn digits_are_as_many_as_it_takes_and_no_fewer_than_wanted() {
        for (number, least, text) in
            [(0, 1, "0"), (7, 3, "007"), (1234, 3, "1234"), (u64::MAX, 1, "18446744073709551615")]
        {
            let mut out = Vec::new();
            write_digits(&mut out, number, least);
            assert_eq!(out, text.as_bytes());
        }
    }
}
