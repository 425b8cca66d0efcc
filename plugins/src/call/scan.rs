//! The quick reading of an object: one pass, which is all that a body without anything odd in it needs.
//!
//! It takes nothing that `serde_json` would not take, and gives up where it would have to explain or to choose: on
//! JSON that is none, on keys with escapes, on members given twice or in another case, on too many levels. Whoever
//! asks then reads it the slow way, with words for what is wrong.

use super::MAX_DEPTH;
use super::keys::reads_as;
use super::object::Object;
use crate::json::strict::{Notes, Scan};

/// Reads all of `text`, which must be one object, as [`Object::read`] would.
pub(super) fn object<'a, const N: usize>(
    text: &'a str,
    names: &[&'static str; N],
    notes: &mut impl Notes,
) -> Option<Object<'a, N>> {
    let mut scan = Scan::new(text, notes);
    let mut object = Object { values: [None; N], is_empty: true };
    scan.expect(b'{')?;
    scan.open();
    if scan.peek()? == b'}' {
        scan.next();
        scan.close();
        return scan.is_over().then_some(object);
    }
    object.is_empty = false;
    loop {
        let key = scan.key()?;
        let value = scan.value(MAX_DEPTH - 1)?;
        match listed(&text[key], names)? {
            Some(index) if object.values[index].is_some() => return None,
            Some(index) => object.values[index] = Some(&text[value]),
            None => {}
        }
        match scan.next()? {
            b',' => {}
            b'}' => {
                scan.close();
                return scan.is_over().then_some(object);
            }
            _ => return None,
        }
    }
}

/// Which of `names` a key is; none at all if it could be taken for one by a reader that is less strict.
fn listed(key: &str, names: &[&'static str]) -> Option<Option<usize>> {
    let exact = names.iter().position(|name| *name == key);
    (exact.is_some() || !names.iter().any(|name| reads_as(key, name))).then_some(exact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Key;
    use proptest::prelude::*;

    /// Both readings of a text: the slow one only where it has the guards that stand before it in `read`.
    fn agree(text: &str) {
        let Some(quick) = object(text, &Key::NAMES, &mut ()) else { return };
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
            assert!(object(text, &Key::NAMES, &mut ()).is_some(), "{text}");
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
            assert!(object(text, &Key::NAMES, &mut ()).is_none(), "{text}");
        }
        let deepest = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert!(object(&deepest, &Key::NAMES, &mut ()).is_some());
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
