//! Finding one's way in JSON bytes without building anything.
//!
//! Bodies and answers are mostly looked at in two or three places: the model's name, the usage, an error member. These
//! functions step over values by their brackets and quotes alone, so they cost about a byte a cycle, allocate
//! nothing and never recurse. They do not validate: on bytes that are not JSON they stop early or find nothing, and
//! where validity matters, [`is_document`] or `call` has read the document strictly beforehand.

pub(crate) mod blocks;
pub(crate) mod outline;
pub(crate) mod strict;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;
use memchr::memmem::Finder;

pub use outline::Outline;
pub use strict::is_document;

/// One member of an object: where its key and its value lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key as written, between its quotes, escapes untouched.
    pub key: &'a [u8],
    /// Where the value lies in the document given to [`members`], without surrounding blanks.
    pub value: Range<usize>,
}

impl Member<'_> {
    /// Whether the key means `name`, however it is written.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.key == name.as_bytes()
            || (memchr(b'\\', self.key).is_some() && unquoted(self.key).is_some_and(|key| key == name))
    }
}

/// The members of the object that `json` holds, in order; none if it holds something else.
#[must_use]
pub fn members(json: &[u8]) -> Members<'_> {
    members_within(json, 0..json.len())
}

/// The members of the object at `range` of `json`; the ranges of their values count from the start of `json`.
#[must_use]
pub fn members_within(json: &[u8], range: Range<usize>) -> Members<'_> {
    let json = json.get(..range.end).unwrap_or(json);
    let at = skip_blanks(json, range.start);
    let next = (json.get(at) == Some(&b'{')).then_some(at + 1);
    Members { json, next }
}

/// The value of the member `name` of the object in `json`. If it is given more than once, the first.
#[must_use]
pub fn member(json: &[u8], name: &str) -> Option<Range<usize>> {
    members(json).find(|member| member.is(name)).map(|member| member.value)
}

/// Iterates over the members of one object; see [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    json: &'a [u8],
    /// Behind the `{` or `,` that the next member follows.
    next: Option<usize>,
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let start = skip_blanks(self.json, self.next.take()?);
        let key_end = end_of_string(self.json, start)?;
        let colon = skip_blanks(self.json, key_end);
        if self.json.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_blanks(self.json, colon + 1);
        let value = value..end_of_value(self.json, value)?;
        let behind = skip_blanks(self.json, value.end);
        self.next = (self.json.get(behind) == Some(&b',')).then_some(behind + 1);
        Some(Member { key: &self.json[start + 1..key_end - 1], value })
    }
}

/// Whether a key occurs anywhere in these bytes, be they a document or a block of events, with a value other than
/// null; `quoted_key` finds it in its quotes. No more than a hint whether a look is worth its while.
pub(crate) fn mentions(bytes: &[u8], quoted_key: &Finder<'_>) -> bool {
    mention(bytes, 0, quoted_key).is_some()
}

/// Where it does at or after `from`; see [`mentions`].
pub(crate) fn mention(bytes: &[u8], from: usize, quoted_key: &Finder<'_>) -> Option<usize> {
    quoted_key.find_iter(bytes.get(from..)?).map(|at| from + at).find(|at| {
        let colon = skip_blanks(bytes, at + quoted_key.needle().len());
        bytes.get(colon) == Some(&b':') && bytes.get(skip_blanks(bytes, colon + 1)) != Some(&b'n')
    })
}

/// Where the elements of the array at `range` of `json` stand; none if it is none.
pub fn elements_within(json: &[u8], range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let json = json.get(..range.end).unwrap_or(json);
    let at = skip_blanks(json, range.start);
    let mut next = (json.get(at) == Some(&b'[')).then_some(at + 1);
    std::iter::from_fn(move || {
        let start = skip_blanks(json, next.take()?);
        let end = end_of_value(json, start)?;
        let behind = skip_blanks(json, end);
        next = (json.get(behind) == Some(&b',')).then_some(behind + 1);
        Some(start..end)
    })
}

/// A number that is whole and not negative, also where it is written as a float (`1e3`, `5.0`).
#[must_use]
pub fn whole_number(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    let whole = |float: f64| (float.fract() == 0.0 && (0.0..1e18).contains(&float)).then_some(float as u64);
    value.parse().ok().or_else(|| value.parse().ok().and_then(whole))
}

/// As [`whole_number`], with what is beyond all numbers of that kind read as the largest: nobody gets past a bound with it.
#[must_use]
pub fn count(value: &[u8]) -> Option<u64> {
    let beyond = || std::str::from_utf8(value).ok()?.parse().ok().filter(|float: &f64| *float >= 1e18);
    whole_number(value).or_else(|| beyond().map(|_| u64::MAX))
}

/// The text that a string means, given what stands between its quotes; `None` if it means none (a lone surrogate).
#[must_use]
pub fn unquoted(inner: &[u8]) -> Option<Cow<'_, str>> {
    if memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    let mut quoted = Vec::with_capacity(inner.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(inner);
    quoted.push(b'"');
    serde_json::from_slice(&quoted).ok().map(Cow::Owned)
}

/// `text` as a JSON string, with its quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first position at or after `at` that is not blank.
#[must_use]
pub fn skip_blanks(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The position behind the string whose opening quote is at `start`; `None` if there is none or it never ends.
#[must_use]
pub fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    if json.get(start) != Some(&b'"') {
        return None;
    }
    let mut at = start + 1;
    loop {
        at += blocks::quote_or_backslash(json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The position behind the value that begins at `start`; `None` if none does or it never ends.
#[must_use]
pub fn end_of_value(json: &[u8], start: usize) -> Option<usize> {
    match json.get(start)? {
        b'"' => end_of_string(json, start),
        b'{' | b'[' => end_of_nest(json, start),
        b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => None,
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            Some(json[start..].iter().position(ends).map_or(json.len(), |length| start + length))
        }
    }
}

fn end_of_nest(json: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        at += json.get(at..)?.iter().position(|&byte| STRUCTURAL[byte as usize])?;
        match json[at] {
            b'"' => {
                at = end_of_string(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            _ => depth -= 1,
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where `json` first nests deeper than `limit`, if it does. A bracket within a string is no nesting.
#[must_use]
pub fn deeper_than(json: &[u8], limit: usize) -> Option<usize> {
    // Most bodies have fewer brackets than the limit, counting even those within texts.
    memchr::memchr2_iter(b'{', b'[', json).nth(limit)?;
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        at += json.get(at..)?.iter().position(|&byte| STRUCTURAL[byte as usize])?;
        match json[at] {
            b'"' => {
                at = end_of_string(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth > limit {
            return Some(at);
        }
        at += 1;
    }
}

/// Where a key with an escaped NUL begins, at whatever depth of the valid document `json`.
#[must_use]
pub fn key_with_nul(json: &[u8]) -> Option<usize> {
    memchr::memmem::find(json, br"\u0000")?;
    let mut at = 0;
    loop {
        at += memchr(b'"', json.get(at..)?)?;
        let end = end_of_string(json, at)?;
        if has_nul(&json[at..end]) && json.get(skip_blanks(json, end)) == Some(&b':') {
            return Some(at);
        }
        at = end;
    }
}

fn has_nul(mut string: &[u8]) -> bool {
    while let Some(escape) = memchr(b'\\', string) {
        if string[escape..].starts_with(br"\u0000") {
            return true;
        }
        // Two at once, so that the second half of `\\` does not begin an escape.
        string = string.get(escape + 2..).unwrap_or_default();
    }
    false
}

/// The bytes that change where one is in a document.
const STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(json: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        members(json.as_bytes()).map(|m| (text(m.key), text(&json.as_bytes()[m.value]))).collect()
    }

    #[test]
    fn members_are_found_in_order_whatever_the_blanks() {
        let json = " { \"a\" : 1 ,\n\"b\":[{\"a\":2},\"]\"], \"c\\\"\":\"x\\\\\" , \"d\":{} }";
        let expected = [("a", "1"), ("b", "[{\"a\":2},\"]\"]"), ("c\\\"", "\"x\\\\\""), ("d", "{}")];
        assert_eq!(listed(json), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for json in ["", "[]", "\"a\"", "{", "{}", "{\"a\"", "{\"a\":", "{\"a\":}", "{a:1}", "null", "{\"a"] {
            assert_eq!(listed(json), [], "{json}");
        }
    }

    #[test]
    fn elements_are_found_in_order() {
        let json = br#"[ 1 ,{"a":[2]}, "]" ]"#;
        let texts: Vec<_> = elements_within(json, 0..json.len()).map(|range| &json[range]).collect();
        assert_eq!(texts, [&b"1"[..], br#"{"a":[2]}"#, b"\"]\""]);
        assert_eq!(elements_within(b"[]", 0..2).count(), 0);
        assert_eq!(elements_within(b"{}", 0..2).count(), 0);
    }

    #[test]
    fn an_escaped_key_is_the_key_it_means() {
        let json = br#"{"mod\u0065l":"x"}"#;
        assert_eq!(member(json, "model"), Some(14..17));
    }

    #[test]
    fn a_bracket_in_a_text_is_no_depth() {
        let text = "[".repeat(500);
        assert_eq!(deeper_than(format!("{{\"a\":\"{text}\"}}").as_bytes(), 128), None);
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(deeper_than(nested(128).as_bytes(), 128), None);
        assert_eq!(deeper_than(nested(129).as_bytes(), 128), Some(128));
        assert_eq!(deeper_than("[]".repeat(500).as_bytes(), 1), None);
    }

    #[test]
    fn a_nul_is_seen_in_keys_and_only_there() {
        assert_eq!(key_with_nul(br#"{"a":{"b\u0000" :1}}"#), Some(6));
        assert_eq!(key_with_nul(br#"{"a":"\u0000"}"#), None);
        assert_eq!(key_with_nul(br#"{"a\\u0000":1}"#), None);
        assert_eq!(key_with_nul(br#"{"a\\\u0000":1}"#), Some(1));
    }
}
