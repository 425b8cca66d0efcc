//! The one reading of a body.

use super::object::Object;
use super::scan;
use super::{Call, CallFault, Endpoint, FaultKind, Key, MAX_DEPTH, MAX_MODEL, Span};
use crate::json::{self, strict::Notes};

pub(super) fn read(body: &[u8], endpoint: Endpoint, notes: &mut impl Notes) -> Result<Call, CallFault> {
    let text = text_of(body)?;
    let top = scan::object(text, &Key::NAMES, notes).map_or_else(|| slowly(text), Ok)?;
    let values = Values { body, top };
    values.check_model()?;
    let most = [Key::MaxTokens, Key::MaxCompletionTokens, Key::MaxOutputTokens]
        .into_iter()
        .filter_map(|key| Some((values.count(key)?, key)))
        .max_by_key(|(most, _)| *most);
    Ok(Call {
        endpoint,
        stream: values.flag(Key::Stream, values.raw(Key::Stream))?.unwrap_or(false),
        include_usage: values.include_usage()?,
        max_tokens: most.map(|(most, _)| most),
        max_tokens_key: most.map(|(_, key)| key),
        n: values.count(Key::N),
        best_of: values.count(Key::BestOf),
        spans: values.spans(),
        end: body.trim_ascii_end().len() as u32 - 1,
        is_empty: values.top.is_empty,
    })
}

/// Reads an object that has something odd in it, and says what is wrong if it is more than odd.
fn slowly(text: &str) -> Result<Object<'_, { Key::COUNT }>, CallFault> {
    let body = text.as_bytes();
    if let Some(offset) = json::deeper_than(body, MAX_DEPTH) {
        let message = format!("The body nests deeper than {MAX_DEPTH} levels");
        return Err(CallFault::at(FaultKind::TooDeep, None, body, offset, message));
    }
    let top = Object::read(text, &Key::NAMES).map_err(|refusal| refusal.into_fault())?;
    if let Some(offset) = json::key_with_nul(body) {
        return Err(CallFault::at(FaultKind::NulInKey, None, body, offset, "A key contains a NUL character"));
    }
    Ok(top)
}

fn text_of(body: &[u8]) -> Result<&str, CallFault> {
    let fault = |kind, offset, message: &str| CallFault::at(kind, None, body, offset, message);
    if u32::try_from(body.len()).is_err() {
        return Err(fault(FaultKind::TooLarge, 0, "The body is too large"));
    }
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(fault(FaultKind::Encoding, 0, "The body begins with a byte order mark"));
    }
    if json::skip_blanks(body, 0) == body.len() {
        return Err(fault(FaultKind::Empty, 0, "The body is empty; a JSON object was expected"));
    }
    simdutf8::compat::from_utf8(body)
        .map_err(|error| fault(FaultKind::Encoding, error.valid_up_to(), "The body is not valid UTF-8"))
}

/// The values of the keys we read, and what they mean.
struct Values<'a> {
    body: &'a [u8],
    top: Object<'a, { Key::COUNT }>,
}

impl<'a> Values<'a> {
    fn raw(&self, key: Key) -> Option<&'a str> {
        self.top.values[key as usize]
    }

    fn wrong_type(&self, key: Key, raw: &str, expected: &str) -> CallFault {
        let message = format!("`{}` must be {expected}", key.name());
        CallFault::at(FaultKind::WrongType, Some(key), self.body, self.offset(raw), message)
    }

    /// Where `raw`, a part of the body, stands in it.
    fn offset(&self, raw: &str) -> usize {
        raw.as_ptr().addr() - self.body.as_ptr().addr()
    }

    fn check_model(&self) -> Result<(), CallFault> {
        let Some(raw) = self.raw(Key::Model) else { return Ok(()) };
        let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
        let name = inner.and_then(|inner| json::unquoted(inner.as_bytes()));
        if !name.is_some_and(|name| (1..=MAX_MODEL).contains(&name.len())) {
            let expected = format!("a string of 1 to {MAX_MODEL} bytes");
            return Err(self.wrong_type(Key::Model, raw, &expected));
        }
        Ok(())
    }

    fn flag(&self, key: Key, raw: Option<&str>) -> Result<Option<bool>, CallFault> {
        match raw {
            None | Some("null") => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(raw) => Err(self.wrong_type(key, raw, "true or false")),
        }
    }

    fn include_usage(&self) -> Result<Option<bool>, CallFault> {
        let key = Key::StreamOptions;
        let Some(raw) = self.raw(key).filter(|raw| *raw != "null") else { return Ok(None) };
        if !raw.starts_with('{') {
            return Err(self.wrong_type(key, raw, "an object"));
        }
        let names = ["include_usage"];
        let options = match scan::object(raw, &names, &mut ()) {
            Some(options) => options,
            None => Object::read(raw, &names)
                .map_err(|refusal| refusal.into_fault().within(key, self.body, self.offset(raw)))?,
        };
        self.flag(key, options.values[0])
    }

    /// A whole number; the largest for what is beyond. What is none is left for the backend to judge: nothing here depends on
    /// it but an estimate.
    fn count(&self, key: Key) -> Option<u64> {
        json::count(self.raw(key)?.as_bytes())
    }

    fn spans(&self) -> [Span; Key::COUNT] {
        self.top.values.map(|raw| {
            raw.map_or(Span::default(), |raw| {
                let start = self.offset(raw) as u32;
                Span { start, end: start + raw.len() as u32 }
            })
        })
    }
}
