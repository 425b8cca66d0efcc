//! JSON read strictly in one pass, sixteen bytes of a string at a time.
//!
//! It takes nothing that `serde_json` would not take; it gives up on keys with escapes and on too many levels, which
//! are rare, so that who asks has to look again with other means.

use super::skip_blanks;
use serde::de::IgnoredAny;
use std::ops::Range;

/// As deep as one number has bits.
const MOST_LEVELS: usize = 128;

/// Whether this is one JSON document (RFC 8259).
#[must_use]
pub fn is_document(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut scan = Scan::new(text);
    scan.value(MOST_LEVELS).is_some() && scan.is_over() || serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A place in a text that is strictly read. Its functions say `None` where the text is not what they expect.
pub(crate) struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

/// Bytes of a string that are looked at together: what processors compare in one step.
const STEP: usize = 16;

impl<'a> Scan<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { json: text.as_bytes(), at: 0 }
    }

    /// The next byte that is not blank, which stays.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.at = skip_blanks(self.json, self.at);
        self.json.get(self.at).copied()
    }

    /// The next byte that is not blank, and past it.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.peek().is_none()
    }

    /// A key without escapes, and past its colon. What stands between the quotes.
    pub(crate) fn key(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        self.plain()?;
        let end = self.at;
        if self.json[end] != b'"' {
            return None;
        }
        self.at += 1;
        self.expect(b':')?;
        Some(start..end)
    }

    /// Past one value, which nests at most `levels` deep, 128 at most. Where it stands.
    pub(crate) fn value(&mut self, levels: usize) -> Option<Range<usize>> {
        self.peek()?;
        let start = self.at;
        // One bit a level, set for objects.
        let (mut objects, mut depth) = (0_u128, 0);
        loop {
            match self.next()? {
                open @ (b'{' | b'[') => {
                    depth += 1;
                    if depth > levels {
                        return None;
                    }
                    objects = objects << 1 | u128::from(open == b'{');
                    if self.peek()? != open + 2 {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                first => self.number(first)?,
            }
            // Behind a value: out of what it ends, or on to the next.
            loop {
                if depth == 0 {
                    return Some(start..self.at);
                }
                match (self.next()?, objects & 1) {
                    (b',', 1) => {
                        self.key()?;
                        break;
                    }
                    (b',', _) => break,
                    (b'}', 1) | (b']', 0) => {
                        objects >>= 1;
                        depth -= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Past a string whose opening quote is behind.
    fn string(&mut self) -> Option<()> {
        loop {
            self.plain()?;
            match self.json[self.at] {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    /// Up to the next byte of a string that means more than itself.
    fn plain(&mut self) -> Option<()> {
        while let Some(step) = self.json[self.at..].first_chunk::<STEP>() {
            // Without a branch for each, so that they are compared at once.
            if step.iter().fold(false, |found, byte| found | is_odd(*byte)) {
                break;
            }
            self.at += STEP;
        }
        while let Some(word) = self.json[self.at..].first_chunk() {
            let odd = odd_in(u64::from_le_bytes(*word));
            if odd != 0 {
                self.at += odd.trailing_zeros() as usize / 8;
                return Some(());
            }
            self.at += 8;
        }
        self.at += self.json[self.at..].iter().position(|byte| is_odd(*byte))?;
        Some(())
    }

    fn escape(&mut self) -> Option<()> {
        let length = match self.json.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if self.json.get(self.at + 2..self.at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        self.json[self.at..].starts_with(rest).then(|| self.at += rest.len())
    }

    /// Past a number that begins with `first` (RFC 8259 section 6).
    fn number(&mut self, first: u8) -> Option<()> {
        let first = match first {
            b'-' => self.here().inspect(|_| self.at += 1)?,
            first => first,
        };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.here() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.here(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.here(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Some(())
    }

    fn here(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn digits(&mut self) {
        let rest = &self.json[self.at..];
        self.at += rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    }

    fn some_digits(&mut self) -> Option<()> {
        let start = self.at;
        self.digits();
        (self.at > start).then_some(())
    }
}

/// Whether a byte ends a string, begins an escape, or must not stand in one (RFC 8259 section 7).
fn is_odd(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// The same of eight bytes: the lowest bit that is set is the highest of the first odd byte. Bits above it may be wrong.
fn odd_in(word: u64) -> u64 {
    (below(word, b' ') | bytes_of(word, b'"') | bytes_of(word, b'\\')) & HIGHEST
}

const ONES: u64 = u64::from_le_bytes([1; 8]);

/// The bits of a word that [`bytes_of`] answers in.
pub(super) const HIGHEST: u64 = ONES << 7;

/// Which of eight bytes are this one: of those bits that are the highest of a byte, the lowest that is set is right. Bits
/// above it may be wrong.
pub(super) fn bytes_of(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

fn below(word: u64, least: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(least)) & !word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_are_told_from_what_is_none() {
        let deep = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        for text in ["1", " [] ", r#"{"a":{"\u0062":[null,-0.5e-7,"\ud800"]}}"#, &deep(100)] {
            assert!(is_document(text.as_bytes()), "{text}");
        }
        for text in ["", "1 2", "[", "[1}", "{\"a\":}", "{\"a\" 1}", "nul", "\"\u{1}\"", "\"", "+1", "[1,]"] {
            assert!(!is_document(text.as_bytes()), "{text}");
        }
        assert!(!is_document(b"\"\xff\""));
    }

    proptest! {
        #[test]
        fn every_odd_byte_is_found_and_no_other(before in 0_usize..40, odd in any::<u8>(), after in 0_usize..40) {
            let text = format!("{}{}{}\"", "a".repeat(before), char::from(odd), "b".repeat(after));
            let mut scan = Scan::new(&text);
            prop_assert_eq!(scan.plain(), Some(()));
            let odd = odd < b' ' || odd == b'"' || odd == b'\\';
            prop_assert_eq!(scan.at, if odd { before } else { text.len() - 1 });
        }
    }
}
