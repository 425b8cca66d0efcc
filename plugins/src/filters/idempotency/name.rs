//! How an idempotency key is written: a string of structured fields (RFC 9651), or the bare word that SDKs send.

use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

/// The longest key, in bytes.
const LONGEST: usize = 255;

/// It is no key, or there are several.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The key, if there is one. With quotes and without they are the same.
pub(super) fn read<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Malformed);
    }
    let value = value.as_bytes().trim_ascii();
    let key = match value {
        [b'"', inner @ .., b'"'] => unquote(inner)?,
        [b'"', ..] => return Err(Malformed),
        bare if bare.iter().all(u8::is_ascii_graphic) => Cow::Borrowed(bare),
        _ => return Err(Malformed),
    };
    if key.is_empty() || key.len() > LONGEST { Err(Malformed) } else { Ok(Some(key)) }
}

fn unquote(inner: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    if !inner.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Malformed);
    }
    if !inner.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        return Ok(Cow::Borrowed(inner));
    }
    let (mut key, mut bytes) = (Vec::with_capacity(inner.len()), inner.iter());
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'"' => return Err(Malformed),
            b'\\' => *bytes.next().filter(|byte| matches!(byte, b'"' | b'\\')).ok_or(Malformed)?,
            other => *other,
        });
    }
    Ok(Cow::Owned(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn key(values: &[&[u8]]) -> Result<Option<String>, Malformed> {
        let values = values.iter().map(|value| (NAME, HeaderValue::from_bytes(value).unwrap()));
        let mut headers = HeaderMap::new();
        values.for_each(|(name, value)| {
            headers.append(name, value);
        });
        read(&headers, &NAME).map(|key| key.map(|key| String::from_utf8(key.into_owned()).unwrap()))
    }

    #[test]
    fn a_key_is_the_same_in_quotes_and_without() {
        for text in [&b"8e03978e-40d5"[..], b"\"8e03978e-40d5\"", b"  8e03978e-40d5 "] {
            assert_eq!(key(&[text]), Ok(Some("8e03978e-40d5".to_owned())));
        }
        assert_eq!(key(&[b"stainless-python-retry-1f"]), Ok(Some("stainless-python-retry-1f".to_owned())));
        assert_eq!(key(&[br#""a \"b\" \\c""#]), Ok(Some(r#"a "b" \c"#.to_owned())));
        assert_eq!(key(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = [b'x'; 256];
        let malformed: [&[&[u8]]; 10] = [
            &[b""],
            &[b"\"\""],
            &[b"\"a"],
            &[b"a b"],
            &[b"\"a\"b\""],
            &[br#""a\b""#],
            &[br#""a\""#],
            &["\u{e9}".as_bytes()],
            &[&long],
            &[b"a", b"a"],
        ];
        for values in malformed {
            assert_eq!(key(values), Err(Malformed), "{values:?}");
        }
    }
}
