//! A kept answer as bytes: what a second tier keeps of it.
//!
//! It begins with a mark, the version of this form, and a hash of all that follows. Whatever is not exactly what was
//! written, half of it or another version's, is no answer.

use super::entry::{Data, Entry, Form, Label};
use super::packed;
use crate::call::Endpoint;
use crate::forms::Ids;
use crate::usage::Usage;
use bytes::Bytes;
use http::HeaderValue;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MARK: &[u8; 5] = b"TDGE\x01";

/// How much of the hash is kept.
const HASH: usize = 16;

/// The largest answer that can have been packed.
const LARGEST: usize = 1 << 30;

/// The endpoints whose answers are kept, by their number.
const ENDPOINTS: [Endpoint; 6] = [
    Endpoint::Chat,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Responses,
    Endpoint::Rerank,
    Endpoint::Messages,
];

/// When an answer was made, by the clock on the wall.
pub(super) fn made(entry: &Entry) -> SystemTime {
    SystemTime::now().checked_sub(entry.age()).unwrap_or(UNIX_EPOCH)
}

/// The bytes of an answer that was made at `made`.
pub(super) fn write(entry: &Entry, made: SystemTime) -> Vec<u8> {
    let (data, size) = match &entry.data {
        Data::Plain(data) => (data.clone(), 0),
        Data::Pieces(pieces) => (pieces.whole(), 0),
        Data::Packed(data, size) => (data.clone(), *size),
    };
    let mut out = Vec::with_capacity(data.len() + entry.usage_event.len() + entry.end.len() + 256);
    out.extend_from_slice(MARK);
    out.extend_from_slice(&[0; HASH]);
    let endpoint = ENDPOINTS.iter().position(|endpoint| *endpoint == entry.label.endpoint).unwrap_or(ENDPOINTS.len());
    out.push(u8::try_from(endpoint).unwrap_or(u8::MAX));
    out.push(match entry.form {
        Form::Whole => 0,
        Form::Events => 1,
        Form::Item => 2,
    });
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let since = made.duration_since(UNIX_EPOCH).unwrap_or_default();
    for number in [millis(since), millis(entry.label.good_for), millis(entry.label.keep_for), size as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let usage = entry.usage.unwrap_or_default();
    out.push(u8::from(entry.usage.is_some()) | u8::from(usage.estimated) << 1);
    for count in [usage.prompt, usage.completion, usage.cached_prompt, usage.reasoning] {
        out.push(u8::from(count.is_some()));
        out.extend_from_slice(&count.unwrap_or(0).to_le_bytes());
    }
    let (id, said) = entry.ids.parts();
    let texts = [entry.label.tenant.as_bytes(), entry.label.route.as_bytes(), entry.content_type.as_bytes()];
    for part in texts.into_iter().chain([id, said, &entry.usage_event[..], &entry.end[..], &data[..]]) {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
    let hash = blake3::hash(&out[MARK.len() + HASH..]);
    out[MARK.len()..MARK.len() + HASH].copy_from_slice(&hash.as_bytes()[..HASH]);
    out
}

/// The answer that these bytes are. None if they are none.
pub(super) fn read(bytes: &Bytes) -> Option<Entry> {
    let rest = bytes.strip_prefix(MARK)?;
    let (hash, rest) = rest.split_at_checked(HASH)?;
    if blake3::hash(rest).as_bytes()[..HASH] != *hash {
        return None;
    }
    let mut reader = Reader { bytes, at: bytes.len() - rest.len() };
    let endpoint = *ENDPOINTS.get(usize::from(reader.byte()?))?;
    let form = match reader.byte()? {
        0 => Form::Whole,
        1 => Form::Events,
        2 => Form::Item,
        _ => return None,
    };
    let made = UNIX_EPOCH.checked_add(reader.time()?)?;
    let (good_for, keep_for) = (reader.time()?, reader.time()?);
    let size = usize::try_from(reader.number()?).ok().filter(|size| *size <= LARGEST)?;
    let usage = reader.usage()?;
    let (tenant, route) = (reader.text()?.into(), reader.text()?.into());
    let content_type = HeaderValue::from_maybe_shared(reader.part()?).ok()?;
    let ids = Ids::from_parts(&reader.part()?, &reader.part()?)?;
    let (usage_event, end, data) = (reader.part()?, reader.part()?, reader.part()?);
    let ids = if form == Form::Whole && size == 0 { ids.located_in(&data) } else { ids };
    let data = if size == 0 { Data::Plain(data) } else { Data::Packed(data, size) };
    let is_sound = match &data {
        Data::Packed(data, size) => packed::is_sound(data, *size),
        Data::Plain(_) | Data::Pieces(_) => true,
    };
    if reader.at != bytes.len() || !is_sound {
        return None;
    }
    let label = Label { endpoint, tenant, route, good_for, keep_for };
    // What is from the future was made now: the clock has been set back.
    let age = SystemTime::now().duration_since(made).unwrap_or_default();
    Some(Entry::again(label, form, age, usage, data, (usage_event, end), (content_type, ids)))
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<std::ops::Range<usize>> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let range = self.at..end;
        self.at = end;
        Some(range)
    }

    fn byte(&mut self) -> Option<u8> {
        let range = self.take(1)?;
        Some(self.bytes[range.start])
    }

    fn number(&mut self) -> Option<u64> {
        let range = self.take(8)?;
        Some(u64::from_le_bytes(self.bytes[range].try_into().ok()?))
    }

    fn time(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    /// Shared with what is read from.
    fn part(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.number()?).ok()?;
        let range = self.take(length)?;
        Some(self.bytes.slice(range))
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.part()?.to_vec()).ok()
    }

    fn usage(&mut self) -> Option<Option<Usage>> {
        let flags = self.byte().filter(|flags| *flags < 4)?;
        let mut counts = [None; 4];
        for count in &mut counts {
            let is_there = self.byte().filter(|byte| *byte < 2)? == 1;
            let number = self.number().filter(|number| is_there || *number == 0)?;
            *count = is_there.then_some(number);
        }
        let [prompt, completion, cached_prompt, reasoning] = counts;
        let usage = Usage { prompt, completion, cached_prompt, reasoning, estimated: flags & 2 != 0 };
        let is_told = flags & 1 != 0;
        (is_told || usage == Usage::default()).then(|| Some(usage).filter(|_| is_told))
    }
}

/// Reads bytes and writes what they say anew: what is read at all must come out as it went in. For those who try to break
/// the reader.
pub fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes = Bytes::copy_from_slice(bytes);
    let at = MARK.len() + HASH + 2;
    let made = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
    let entry = read(&bytes)?;
    // Nothing that is read may break whoever tells it.
    let _ = entry.plain();
    Some(write(&entry, UNIX_EPOCH.checked_add(Duration::from_millis(made))?))
}

/// Puts the right hash before any bytes, so that what lies behind it is tried too.
pub fn sealed(payload: &[u8]) -> Vec<u8> {
    [MARK, &blake3::hash(payload).as_bytes()[..HASH], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let label = Label {
            endpoint: Endpoint::Chat,
            tenant: "org/acme".into(),
            route: "llama".into(),
            good_for: Duration::from_secs(60),
            keep_for: Duration::from_secs(90),
        };
        let body = br#"{"id":"chatcmpl-123","object":"chat.completion","created":1700000000,"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        let json = HeaderValue::from_static("application/json");
        Entry::whole(label, json, Bytes::from_static(body), Usage::from_answer(body))
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let made = SystemTime::now() - Duration::from_secs(20);
        let written = Bytes::from(write(&entry(), made));
        let read_again = read(&written).expect("it was written so");
        assert_eq!(read_again.plain(), entry().plain());
        assert_eq!((read_again.usage, &*read_again.label.tenant), (entry().usage, "org/acme"));
        assert!((20..22).contains(&read_again.age().as_secs()));
        assert_eq!(rewritten(&written).as_deref(), Some(&written[..]));
        for end in 0..written.len() {
            assert!(read(&written.slice(..end)).is_none(), "half of it: {end}");
            let mut flipped = written.to_vec();
            flipped[end] ^= 1;
            assert!(read(&flipped.into()).is_none(), "a bit at {end}");
        }
        assert!(read(&[&written[..], b"x"].concat().into()).is_none());
    }

    #[test]
    fn a_packed_answer_stays_packed() {
        let large = Bytes::from(format!(r#"{{"id":"chatcmpl-123","x":"{}"}}"#, "x".repeat(9000)));
        let json = HeaderValue::from_static("application/json");
        let packed = Entry::whole(entry().label, json, large.clone(), None).packed().expect("smaller");
        let written = Bytes::from(write(&packed, SystemTime::now()));
        assert!(written.len() < 1000);
        assert_eq!(read(&written).and_then(|entry| entry.plain()), Some(large));
    }
}
