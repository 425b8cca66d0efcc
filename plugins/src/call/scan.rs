//! The quick reading of an object: one pass, which is all that a body without anything odd in it needs.
//!
//! It takes nothing that `serde_json` would not take, and gives up where it would have to explain or to choose: on
//! JSON that is none, on keys with escapes, on members given twice or in another case, on too many levels. Whoever
//! asks then reads it the slow way, with words for what is wrong.

use super::MAX_DEPTH;
use super::keys::reads_as;
use super::object::Object;
use crate::json::skip_blanks;
use std::ops::Range;

/// Reads all of `text`, which must be one object, as [`Object::read`] would.
pub(super) fn object<'a, const N: usize>(text: &'a str, names: &[&'static str; N]) -> Option<Object<'a, N>> {
    let mut scan = Scan { json: text.as_bytes(), at: 0 };
    let mut object = Object { values: [None; N], is_empty: true };
    scan.expect(b'{')?;
    if scan.peek()? == b'}' {
        scan.at += 1;
        return scan.is_over().then_some(object);
    }
    object.is_empty = false;
    loop {
        let key = scan.key()?;
        let start = skip_blanks(scan.json, scan.at);
        scan.at = start;
        scan.value()?;
        match listed(&text[key], names)? {
            Some(index) if object.values[index].is_some() => return None,
            Some(index) => object.values[index] = Some(&text[start..scan.at]),
            None => {}
        }
        match scan.next()? {
            b',' => {}
            b'}' => return scan.is_over().then_some(object),
            _ => return None,
        }
    }
}

/// Which of `names` a key is; none at all if it could be taken for one by a reader that is less strict.
fn listed(key: &str, names: &[&'static str]) -> Option<Option<usize>> {
    let exact = names.iter().position(|name| *name == key);
    (exact.is_some() || !names.iter().any(|name| reads_as(key, name))).then_some(exact)
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

/// Bytes of a string that are looked at together: what processors compare in one step.
const STEP: usize = 16;

impl Scan<'_> {
    /// The next byte that is not blank, which stays.
    fn peek(&mut self) -> Option<u8> {
        self.at = skip_blanks(self.json, self.at);
        self.json.get(self.at).copied()
    }

    /// The next byte that is not blank, and past it.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn is_over(&mut self) -> bool {
        self.peek().is_none()
    }

    /// A key without escapes, and past its colon. What stands between the quotes.
    fn key(&mut self) -> Option<Range<usize>> {
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

    /// Past one value, however deep.
    fn value(&mut self) -> Option<()> {
        // One bit a level, set for objects.
        let (mut objects, mut depth) = (0_u128, 0);
        loop {
            match self.next()? {
                open @ (b'{' | b'[') => {
                    depth += 1;
                    if depth >= MAX_DEPTH {
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
                    return Some(());
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
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, least: u64| word.wrapping_sub(ONES * least) & !word;
    let is = |byte: u8| below(word ^ ONES * u64::from(byte), 1);
    (below(word, u64::from(b' ')) | is(b'"') | is(b'\\')) & ONES << 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Key;
    use proptest::prelude::*;

    /// Both readings of a text: the slow one only where it has the guards that stand before it in `read`.
    fn agree(text: &str) {
        let Some(quick) = object(text, &Key::NAMES) else { return };
        let slow = Object::read(text, &Key::NAMES).ok().expect("what is taken here is taken there");
        assert_eq!((quick.values, quick.is_empty), (slow.values, slow.is_empty), "{text}");
        assert_eq!(crate::json::deeper_than(text.as_bytes(), MAX_DEPTH), None, "{text}");
        assert_eq!(crate::json::key_with_nul(text.as_bytes()), None, "{text}");
    }

    #[test]
    fn what_is_plain_is_taken_at_once() {
        for text in [
            "{}",
            " { } ",
            r#"{"model":"m","stream":true,"n":-1.5e+3,"x":[[],{},"\u00e9\"",null,false,{"a":{"b":[0]}}]}"#,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"a long text that needs more than one step, ö\"}] }\n",
        ] {
            assert!(object(text, &Key::NAMES).is_some(), "{text}");
            agree(text);
        }
    }

    #[test]
    fn what_is_odd_is_left_to_the_slow_reading() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        for text in [
            "",
            "[]",
            "{",
            "{}}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":tru}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":[1}}",
            "{\"a\":[1 2]}",
            "{\"a\":[,]}",
            "{\"mod\\u0065l\":\"m\"}",
            "{\"a\":{\"b\\u0000\":1}}",
            "{\"model\":\"a\",\"model\":\"b\"}",
            "{\"Model\":\"a\"}",
            &deep,
        ] {
            assert!(object(text, &Key::NAMES).is_none(), "{text}");
        }
        let deepest = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert!(object(&deepest, &Key::NAMES).is_some());
        agree(&deepest);
    }

    proptest! {
        #[test]
        fn nothing_is_taken_that_the_slow_reading_would_read_otherwise(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"model\"", "\"Model\"", "\"n\"", "1", "-0", ".5", "e1", "true", "null",
                " ", "\n", "\\", "\\n", "\\u0000", "ſtream", "0123456789abcdef", "é",
            ]), 0..24),
            inner in any::<bool>(),
        ) {
            let text = pieces.concat();
            agree(&text);
            if inner {
                agree(&format!("{{\"x\":{text}}}"));
                agree(&format!("{{\"x\":\"{text}\"}}"));
            }
        }

        #[test]
        fn one_changed_byte_is_read_alike(at in 0_usize..150, with in prop::sample::select(b"{}[],:\"\\ntf0-.e \x01x".to_vec())) {
            let mut text = br#"{"model":"m","messages":[{"role":"user","content":"hi \"there\" \u00e9"}],"n":1,"max_tokens":-1.5e3,"stream":false,"x":[{},[],null]}"#.to_vec();
            let length = text.len();
            text[at % length] = with;
            if let Ok(text) = std::str::from_utf8(&text) {
                agree(text);
            }
        }
    }
}
