//! A moment that a file, a command or a request names.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A moment, to the second: `2027-01-31T18:00:00Z`, or `2027-01-31` for the beginning of that day (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct When(i64);

impl When {
    /// By the clock on the wall.
    #[must_use]
    pub fn now() -> Self {
        Self(Timestamp::now().as_second())
    }

    /// So many seconds after the beginning of 1970.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// In seconds since the beginning of 1970.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)))
    }

    /// So much later than now: not a fraction of a second less, and at once where that is nothing.
    #[must_use]
    pub fn from_now(time: Duration) -> Self {
        Self::end(Timestamp::now(), time)
    }

    fn end(now: Timestamp, time: Duration) -> Self {
        let begun = Duration::from_nanos(u64::try_from(now.subsec_nanosecond()).unwrap_or(0));
        let time = if time.is_zero() { time } else { begun + time + Duration::from_nanos(999_999_999) };
        Self(now.as_second()).after(time)
    }

    /// Reads a day or a moment.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let day = || text.parse::<Date>().ok().filter(|_| text.len() == 10)?.to_zoned(TimeZone::UTC).ok();
        match text.parse::<Timestamp>() {
            Ok(moment) => Ok(Self(moment.as_second())),
            Err(_) => day().map(|day| Self(day.timestamp().as_second())).ok_or_else(|| {
                format!("expected a day or a moment such as 2027-01-31 or 2027-01-31T18:00:00Z, not `{text}`")
            }),
        }
    }
}

/// As RFC 3339 has it, in UTC.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.0) {
            Ok(moment) => moment.fmt(f),
            Err(_) => f.write_str("never"),
        }
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Cow::<str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for When {
    fn schema_name() -> Cow<'static, str> {
        "When".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "2027-01-31T18:00:00Z, or 2027-01-31 for its beginning (UTC)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_never_before_the_time_that_was_asked_for() {
        let at = |nanos| Timestamp::new(100, nanos).unwrap();
        for (nanos, millis, end) in [
            (0, 1000, 101),
            (1, 1000, 102),
            (999_999_999, 1000, 102),
            (0, 500, 101),
            (499_999_999, 500, 101),
            (500_000_001, 500, 102),
            (999_999_999, 0, 100),
            (1, 0, 100),
        ] {
            assert_eq!(When::end(at(nanos), Duration::from_millis(millis)).unix(), end, "{nanos} {millis}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_utc_and_a_moment_has_its_zone() {
        assert_eq!(When::parse("2027-01-31").unwrap().to_string(), "2027-01-31T00:00:00Z");
        assert_eq!(When::parse("2027-01-31T18:00:00+02:00").unwrap().to_string(), "2027-01-31T16:00:00Z");
        for text in ["", "tomorrow", "2027-13-01", "2027-02-30", "2027-01-31T18:00:00", "2027-1-1", "1800000000"] {
            assert!(When::parse(text).unwrap_err().contains("expected"), "{text}");
        }
    }

    #[test]
    fn it_is_written_as_it_is_read_and_never_overflows() {
        let when = When::parse("2027-01-31T18:00:00Z").unwrap();
        assert_eq!(serde_json::from_str::<When>(&serde_json::to_string(&when).unwrap()).unwrap(), when);
        assert_eq!(When::from_unix(i64::MAX).after(Duration::MAX).to_string(), "never");
    }
}
