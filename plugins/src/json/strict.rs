//! JSON read strictly in one pass.
//!
//! It takes nothing that `serde_json` would not take; it gives up on too many levels and, unless told otherwise, on keys
//! with escapes, which are rare, so that who asks has to look again with other means.

use super::blocks::{Marked, Odd, Spelled};
use super::skip_blanks;
use serde::de::IgnoredAny;
use std::ops::Range;

/// As deep as one number has bits.
const MOST_LEVELS: usize = 128;

/// Whether this is one JSON document (RFC 8259).
#[must_use]
pub fn is_document(bytes: &[u8]) -> bool {
    let Ok(text) = simdutf8::basic::from_utf8(bytes) else { return false };
    let mut notes = ();
    let mut scan = Scan::new(text, &mut notes);
    scan.value(MOST_LEVELS).is_some() && scan.is_over() || serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// What may be noted of a text while it is read.
pub(crate) trait Notes {
    /// A container begins.
    fn open(&mut self) {}

    /// The innermost container has ended before `end`.
    fn close(&mut self, _end: usize) {}

    /// A string, with its quotes.
    fn string(&mut self, _start: usize, _end: usize) {}

    /// A letter is written in a way that it need not be.
    fn spelled(&mut self) {}

    /// A key has escapes in it.
    fn escaped_key(&mut self) {}
}

impl Notes for () {}

/// A place in a text that is strictly read. Its functions say `None` where the text is not what they expect.
pub(crate) struct Scan<'a, N> {
    json: &'a [u8],
    at: usize,
    odd: Marked<'a, Odd>,
    notes: &'a mut N,
    any_key: bool,
}

impl<'a, N: Notes> Scan<'a, N> {
    pub(crate) fn new(text: &'a str, notes: &'a mut N) -> Self {
        Self { any_key: false, ..Self::over(text.as_bytes(), 0, notes) }
    }

    /// From `start` on, and with whatever keys there are. That `json` is UTF-8 is for the caller to know.
    pub(crate) fn over(json: &'a [u8], start: usize, notes: &'a mut N) -> Self {
        Self { json, at: start, odd: Marked::new(json), notes, any_key: true }
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

    /// The container whose opening bracket is behind begins.
    pub(crate) fn open(&mut self) {
        self.notes.open();
    }

    /// The innermost container, whose closing bracket is behind, has ended.
    pub(crate) fn close(&mut self) {
        self.notes.close(self.at);
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.peek().is_none()
    }

    /// A key, and past its colon. What stands between the quotes.
    pub(crate) fn key(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        let (end, spelled) = self.string()?;
        if spelled != Spelled::Plainly {
            self.any_key.then(|| self.notes.escaped_key())?;
        }
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
                    self.open();
                    objects = objects << 1 | u128::from(open == b'{');
                    if self.peek()? != open + 2 {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
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
                        self.close();
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Past a string whose opening quote is behind. Where its other quote is, and how it is written.
    #[inline]
    fn string(&mut self) -> Option<(usize, Spelled)> {
        let (end, spelled) = self.odd.closing_quote(self.at)?;
        if spelled == Spelled::Oddly {
            self.notes.spelled();
        }
        self.notes.string(self.at - 1, end + 1);
        self.at = end + 1;
        Some((end, spelled))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Long enough that strings and escapes lie across whatever is looked over at once.
        #[test]
        fn strings_end_where_serde_json_has_them_end(
            texts in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["a", "long and plain, ", "\"", "\\", "\n", "\u{1}", "ö", "/"]), 0..400), 1..4),
            blanks in 0_usize..70, at in 0_usize..4000, with in prop::sample::select(b"\"\\\x01anu".to_vec()),
        ) {
            let texts: Vec<String> = texts.iter().map(|pieces| pieces.concat()).collect();
            let mut json = " ".repeat(blanks) + &serde_json::to_string(&texts).unwrap();
            let is_taken = |json: &str| {
                let mut notes = ();
                let mut scan = Scan::new(json, &mut notes);
                scan.value(MOST_LEVELS).is_some() && scan.is_over()
            };
            prop_assert!(is_taken(&json));
            if json.is_char_boundary(at) && json.is_char_boundary(at + 1) && at < json.len() {
                json.replace_range(at..at + 1, std::str::from_utf8(&[with]).unwrap());
                prop_assert!(!is_taken(&json) || serde_json::from_str::<IgnoredAny>(&json).is_ok(), "{}", json);
            }
        }
    }

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
}
