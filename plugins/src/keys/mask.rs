//! Keys that ended up where a name belongs: in a model, a path, an id. What is written down has them masked.

use std::borrow::Cow;
use std::ops::Range;

/// The beginnings that keys are known by, here and at common providers, and how long they are from there on at least.
const BEGINNINGS: [([u8; 2], usize); 2] = [(*b"tg", 20), (*b"sk", 16)];

/// A text that a client sent, without keys that ended up in it: pasted where a model's name or a path belongs.
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    let Some(key) = key_in(text) else { return Cow::Borrowed(text) };
    Cow::Owned(format!("{}[key]{}", &text[..key.start], mask(&text[key.end..])))
}

/// Where in a text the first key stands.
#[must_use]
pub fn key_in(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'-', bytes).find_map(|dash| {
        let start = dash.checked_sub(2)?;
        let (_, least) = BEGINNINGS.iter().find(|(begins, _)| bytes[start..dash].eq_ignore_ascii_case(begins))?;
        // "task-" and "desk-" are words.
        if start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
            return None;
        }
        let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let length = bytes[dash + 1..].iter().take_while(|byte| is_key(byte)).count();
        (length >= *least).then_some(start..dash + 1 + length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_masked_wherever_it_stands_and_words_are_not() {
        let ours = super::super::KeyHasher::new(None).generate().unwrap();
        let ours = ours.secret();
        for (text, masked) in [
            (ours.to_owned(), "[key]"),
            (format!("/v1/{ours}/x"), "/v1/[key]/x"),
            (format!("model '{ours}' and {}", ours.to_uppercase()), "model '[key]' and [key]"),
            ("sk-proj-0123456789_abcdef.".to_owned(), "[key]."),
        ] {
            assert_eq!(mask(&text), masked, "{text}");
        }
        for text in [
            "",
            "-",
            "tg-",
            "sk-learn",
            "task-0123456789abcdef01",
            "0197b4e4-5d3c-7b1e-9d6f-0123456789ab",
            "gpt-4o-mini",
        ] {
            assert!(matches!(mask(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
