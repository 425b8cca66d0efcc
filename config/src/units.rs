//! Durations and sizes as people write them: `250ms`, `30s`, `5m`, `1h`; `512`, `64KiB`, `1MiB`, `2GB`.
//!
//! A duration without a unit is refused: nobody can tell whether `30` meant seconds or milliseconds.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const TEN_YEARS: u64 = 3650 * 86_400_000;
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Reads `250ms`, `30s`, `5m`, `1h`, `1d`, also `1.5s` and `1h30m`; the error says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a duration such as 250ms, 30s, 5m or 1h";
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(expected.to_owned());
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let (number, unit, after) = split_number(rest);
        let Some((_, factor)) = DURATIONS.iter().find(|(name, _)| *name == unit) else {
            return Err(if unit.is_empty() && !number.is_empty() {
                format!("{text} has no unit: write {text}s for seconds; {expected}")
            } else {
                expected.to_owned()
            });
        };
        let part = scaled(number, *factor).ok_or(expected)?;
        total = total.checked_add(part).ok_or("the duration is too long")?;
        rest = after;
    }
    // Far enough away for anyone, and near enough for every clock's arithmetic.
    match total {
        0..=TEN_YEARS => Ok(Duration::from_millis(total)),
        _ => Err("the duration is too long".to_owned()),
    }
}

/// Reads `512` (bytes), `64KiB`, `1MiB`, `2GB`, also `1.5MiB`; the error says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = "expected a size such as 512, 64KiB, 1MiB or 2GB";
    let (number, unit, after) = split_number(text.trim());
    let factor = if unit.is_empty() { Some(1) } else { SIZES.iter().find(|(n, _)| *n == unit).map(|(_, f)| *f) };
    let Some(factor) = factor.filter(|_| after.is_empty()) else {
        let near = SIZES.iter().find(|(name, _)| {
            name.eq_ignore_ascii_case(unit)
                || (unit.len() == 1 && name.len() == 3 && name[..1].eq_ignore_ascii_case(unit))
        });
        return Err(match near {
            Some((near, _)) if after.is_empty() => format!("unknown unit {unit}: write {number}{near}; {expected}"),
            _ => expected.to_owned(),
        });
    };
    scaled(number, factor).ok_or_else(|| expected.to_owned())
}

/// `1.5KiB...` into the number, the letters after it, and what is left.
fn split_number(text: &str) -> (&str, &str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    (number, unit, rest)
}

/// `number` times `factor`, exactly; `None` if that is not a whole number or does not fit.
pub(crate) fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
    whole.checked_add(u64::try_from(parts / scale).ok()?)
}

/// The shortest way to write a duration: `5m`, not `300s`.
pub fn write_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, factor) = DURATIONS
        .iter()
        .rev()
        .find(|(_, f)| millis > 0 && millis.is_multiple_of(u128::from(*f)))
        .unwrap_or(&("s", 1000));
    format!("{}{unit}", millis / u128::from(*factor))
}

/// The shortest way to write a size: `32MiB`, not `33554432`.
pub fn write_size(size: u64) -> String {
    match SIZES[1..4].iter().rev().find(|(_, factor)| size > 0 && size.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", size / factor),
        None => size.to_string(),
    }
}

struct Unit<T> {
    parse: fn(&str) -> Result<T, String>,
    expected: &'static str,
}

impl<T> Visitor<'_> for Unit<T> {
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

fn read_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Unit { parse: parse_duration, expected: "a duration such as 250ms, 30s, 5m or 1h" })
}

fn read_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Unit { parse: parse_size, expected: "a size such as 512, 64KiB, 1MiB or 2GB" })
}

/// `#[serde(with = "units::duration")]` for a [`Duration`].
pub(crate) mod duration {
    use super::*;

    pub(crate) fn serialize<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        read_duration(deserializer)
    }
}

/// `#[serde(with = "units::optional_duration")]` for an `Option<Duration>` that is absent when `None`.
pub(crate) mod optional_duration {
    use super::*;

    pub(crate) fn serialize<S: serde::Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_str(&write_duration(*value)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        read_duration(deserializer).map(Some)
    }
}

/// `#[serde(with = "units::size")]` for bytes as a `usize`.
pub(crate) mod size {
    use super::*;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(crate) fn serialize<S: serde::Serializer>(value: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_size(*value as u64))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        usize::try_from(read_size(deserializer)?).map_err(|_| D::Error::custom("the size is too large"))
    }
}

/// How a duration looks in the schema.
pub(crate) struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration: `250ms`, `30s`, `5m`, `1h`, `1d`.",
            "type": "string",
            "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+|.*\$\{.*)$",
        })
    }
}

/// How a size looks in the schema.
pub(crate) struct SizeText;

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: `512`, `64KiB`, `1MiB`, `2GB`.",
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": r"^([0-9]+(\.[0-9]+)? ?(B|[KMG]i?B|kB)?|.*\$\{.*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for text in ["250ms", "30s", "5m", "1h", "1d", "90s", "0s"] {
            assert_eq!(write_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_advice() {
        assert!(parse_duration("30").unwrap_err().contains("write 30s"));
        for text in ["", "s", "5 years", "1e3s", "-1s", "1.s", "99999999999999999999s", "5mm", "4000d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_back() {
        for text in ["512", "64KiB", "1MiB", "3GiB"] {
            assert_eq!(write_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(parse_size("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_size("1.5KiB"), Ok(1536));
    }

    #[test]
    fn a_wrong_size_is_refused_with_advice() {
        assert!(parse_size("32mib").unwrap_err().contains("write 32MiB"));
        assert!(parse_size("32M").unwrap_err().contains("write 32MiB"));
        for text in ["", "MiB", "1s", "-1", "1MiB1", "999999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
