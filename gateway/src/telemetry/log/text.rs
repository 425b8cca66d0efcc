//! Pieces of lines: times, and text of foreign origin that must not disturb a terminal or forge a line.

use std::fmt::{self, Write};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

/// A point in time as RFC 3339 with milliseconds, in UTC: `2026-07-14T09:30:00.123Z`.
pub(crate) struct Stamp([u8; 24]);

impl Stamp {
    pub(super) fn now() -> Self {
        Self::at(SystemTime::now())
    }

    pub(crate) fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (at, digits, mut number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 3, u64::from(since.subsec_millis())),
        ] {
            for place in text[at..at + digits].iter_mut().rev() {
                *place = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The time of day, for people.
    pub(super) fn clock(&self) -> &str {
        &self.as_str()[11..23]
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Foreign text for a terminal: control characters, and those that turn the direction of writing, are spelled out.
pub struct Clean<T>(pub T);

impl<T: fmt::Display> fmt::Display for Clean<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if disturbs(c) {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Appends a JSON string. Plain ASCII is copied; the rest is serde's.
pub(crate) fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Without an early end, so that it is done many bytes at a time.
    let odd = |b: u8| !matches!(b, b' '..=b'~') | (b == b'"') | (b == b'\\');
    if !text.bytes().fold(false, |found, b| found | odd(b)) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory does not fail.
        drop(text.serialize(&mut serde_json::Serializer::with_formatter(out, CleanJson)));
    }
}

/// Whether a character moves a terminal's cursor, ends a line or turns the direction of writing.
fn disturbs(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Compact JSON in which such characters are escaped too: JSON itself leaves those beyond ASCII as they are.
pub(super) struct CleanJson;

impl Formatter for CleanJson {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() || !fragment.contains(disturbs) {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            match disturbs(c) {
                // All of them are in the basic plane: no surrogates.
                true => write!(writer, "\\u{:04x}", u32::from(c))?,
                false => write!(writer, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let at = |millis| Stamp::at(UNIX_EPOCH + Duration::from_millis(millis)).as_str().to_owned();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_827_696_007), "2000-02-29T12:34:56.007Z");
        assert_eq!(at(1_783_987_199_999), "2026-07-13T23:59:59.999Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_end_the_line() {
        let text = Clean("a\n\x1b[2J\u{9b}1m\u{202e}é").to_string();
        assert_eq!(text, "a\\n\\u{1b}[2J\\u{9b}1m\\u{202e}é");
    }

    #[test]
    fn json_says_the_same_without_characters_that_disturb() {
        let text = "a\"\n\x1b\u{7f}\u{9b}1m\u{202e}é\u{1f600}";
        let mut out = Vec::new();
        write_json_string(&mut out, text);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "\"a\\\"\\n\\u001b\\u007f\\u009b1m\\u202eé\u{1f600}\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn plain_text_is_what_serde_makes_of_it() {
        for text in ["", "llama-3.1-8b", "a\"b", "a\\b", "~\u{7f}", "\u{1f}", "é"] {
            let mut out = Vec::new();
            write_json_string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
