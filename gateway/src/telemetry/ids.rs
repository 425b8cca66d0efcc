//! The ids of a request: `x-request-id`, and the W3C trace context (<https://www.w3.org/TR/trace-context/>).
//!
//! Neither is a secret, so both come from a keyed hash of a counter, one per thread, and cost no system call.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tidegate_plugins::keys::key_in;

/// Longest id taken over from a caller.
const LONGEST: usize = 128;

/// The name of one request: the caller's, if it is 1-128 printable ASCII characters and no key, else a UUIDv7.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A UUIDv7 of our own.
    #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = [0; 10];
        random[..8].copy_from_slice(&random_bits().to_ne_bytes());
        random[8..].copy_from_slice(&random_bits().to_ne_bytes()[..2]);
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        Self(Arc::from(&*id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())))
    }

    /// What the caller sent, if it may be used: 1-128 printable ASCII characters, no blank at either end, no key in it.
    pub fn from_caller(value: &[u8]) -> Option<Self> {
        let printable = value.iter().all(|b| matches!(b, b' '..=b'~'));
        if value.is_empty() || value.len() > LONGEST || !printable || value.trim_ascii() != value {
            return None;
        }
        // It is written down, and sent on: whoever pastes a key there has not meant that.
        let text = std::str::from_utf8(value).ok()?;
        key_in(text).is_none().then(|| Self(text.into()))
    }

    /// The caller's id if it may be used, else a new one.
    pub fn accept(value: Option<&[u8]>) -> Self {
        value.and_then(Self::from_caller).unwrap_or_else(Self::new)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same id, for whoever keeps it.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// As a header for the answer and for the backend.
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("printable ASCII is a header value")
    }
}

impl Deref for RequestId {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a request stands in a distributed trace: continued from a valid `traceparent`, else started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    /// The caller's span, 0 when the trace was started here.
    parent: u64,
    /// Ours: what the backend gets as its parent.
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// A trace that begins here. Not sampled: that is for whoever exports spans to say.
    pub fn start() -> Self {
        Self { trace_id: nonzero_128(), parent: 0, span: nonzero_64(), flags: 0 }
    }

    /// Continues the caller's trace, if its `traceparent` is valid: lower-case hex, no all-zero ids, version not `ff`.
    /// A version we do not know is read as version 00, whatever follows (section 4.3).
    pub fn parse(header: &[u8]) -> Option<Self> {
        let dashes = header.get(2) == Some(&b'-') && header.get(35) == Some(&b'-') && header.get(52) == Some(&b'-');
        let version = hex(header.get(..2)?)?;
        let known_length = if version == 0 { header.len() == 55 } else { header.get(55).is_none_or(|b| *b == b'-') };
        let trace_id = hex(header.get(3..35)?)?;
        let parent = u64::try_from(hex(header.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(header.get(53..55)?)?).ok()?;
        if !dashes || version == 0xff || !known_length || trace_id == 0 || parent == 0 {
            return None;
        }
        // Only the flags we know travel on: "sampled" and, from level 2, "random trace id".
        Some(Self { trace_id, parent, span: nonzero_64(), flags: flags & 0b11 })
    }

    /// The caller's trace continued, or a new one. `continued` tells whether its `tracestate` still means anything.
    pub fn accept(header: Option<&str>) -> Self {
        header.and_then(|header| Self::parse(header.as_bytes())).unwrap_or_else(Self::start)
    }

    /// Whether the caller began this trace; if not, its `tracestate` must not be passed on.
    pub fn continued(&self) -> bool {
        self.parent != 0
    }

    /// Whether the caller records this trace.
    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Whether it is recorded is said here.
    pub fn sample(&mut self, sampled: bool) {
        self.flags = self.flags & !1 | u8::from(sampled);
    }

    /// Whether it is one of this share of all traces: by its id, so that everybody who is asked says the same.
    pub fn is_in(&self, share: f64) -> bool {
        // The lower half is random, wherever the trace was begun (level 2, section 2.2.3.1).
        share >= 1.0 || ((self.trace_id as u64 >> 1) as f64) < share * (i64::MAX as f64)
    }

    /// The caller's span, if it began the trace.
    pub fn parent(&self) -> Option<SpanId> {
        self.continued().then(|| SpanId(hex_digits(self.parent.into())))
    }

    /// The request's own span.
    pub fn span(&self) -> SpanId {
        SpanId(hex_digits(self.span.into()))
    }

    /// One of the spans in the request's own, by a number from 1 on.
    pub fn child(&self, number: u32) -> SpanId {
        SpanId(hex_digits(self.child_id(number).into()))
    }

    /// Far from each other, and from those of other requests.
    fn child_id(&self, number: u32) -> u64 {
        self.span.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
    }

    /// The trace id as 32 hex digits.
    pub fn trace_id(&self) -> TraceId {
        TraceId(hex_digits(self.trace_id))
    }

    /// The `traceparent` for a backend: the same trace, with this attempt's span as the parent.
    pub fn to_header(&self, attempt: u32) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&hex_digits::<32>(self.trace_id));
        text[36..52].copy_from_slice(&hex_digits::<16>(self.child_id(attempt).into()));
        text[53..].copy_from_slice(&hex_digits::<2>(self.flags.into()));
        HeaderValue::from_bytes(&text).expect("hex and dashes are a header value")
    }
}

/// A trace id, spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// 32 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

/// A span's id, spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId([u8; 16]);

impl SpanId {
    /// 16 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

/// The last `N` hex digits of a number.
fn hex_digits<const N: usize>(mut number: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
    digits
}

/// Lower-case hex only, as the specification demands.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(nibble))
    })
}

fn nonzero_64() -> u64 {
    random_bits().max(1)
}

fn nonzero_128() -> u128 {
    (u128::from(random_bits()) << 64 | u128::from(random_bits())).max(1)
}

/// 64 bits no other thread or process will come up with: SipHash of a counter under this thread's own random key.
fn random_bits() -> u64 {
    thread_local! {
        static SOURCE: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    SOURCE.with(|(key, counter)| {
        counter.set(counter.get().wrapping_add(1));
        key.hash_one(counter.get())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_traceparent_is_continued_under_a_new_parent() {
        let trace = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert!(trace.continued() && trace.sampled());
        assert_eq!(trace.trace_id().as_str(), "0af7651916cd43dd8448eb211c80319c");
        let header = trace.to_header(1);
        let header = header.to_str().unwrap();
        assert!(header.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && header.ends_with("-01"));
        assert!(!header.contains("b7ad6b7169203331"));
    }

    #[test]
    fn each_attempt_is_a_span_of_its_own_and_the_backends_parent() {
        let trace = TraceContext::start();
        let ids: std::collections::HashSet<_> = (0..100).map(|n| trace.child(n).as_str().to_owned()).collect();
        assert!(ids.len() == 100 && ids.contains(trace.span().as_str()));
        assert!(trace.to_header(2).to_str().unwrap().contains(trace.child(2).as_str()));
        assert_eq!(trace.parent(), None);
        let continued = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(continued.parent().unwrap().as_str(), "b7ad6b7169203331");
    }

    #[test]
    fn an_invalid_traceparent_starts_a_new_trace() {
        let upper = VALID.to_uppercase();
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            &upper,
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
            assert!(!TraceContext::accept(Some(bad)).continued());
        }
    }

    #[test]
    fn a_future_version_is_read_as_far_as_we_know_it() {
        for future in ["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", &format!("01{}-what", &VALID[2..])] {
            let trace = TraceContext::parse(future.as_bytes()).unwrap();
            assert!(trace.to_header(1).to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        }
    }

    #[test]
    fn unknown_flags_do_not_travel() {
        let trace = TraceContext::parse(VALID.replace("-01", "-ff").as_bytes()).unwrap();
        assert!(trace.to_header(1).to_str().unwrap().ends_with("-03"));
    }

    #[test]
    fn new_request_ids_are_version_7_and_differ() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| RequestId::new()).collect();
        assert_eq!(ids.len(), 10_000);
        let id = uuid::Uuid::parse_str(ids.iter().next().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(id) = RequestId::from_caller(&bytes) {
                prop_assert!((1..=128).contains(&id.len()));
                let header = id.to_header();
                prop_assert_eq!(header.as_bytes(), &bytes[..]);
            }
            TraceContext::parse(&bytes);
        }

        #[test]
        fn a_callers_id_is_kept_if_it_is_printable(id in "[!-~]([ -~]{0,126}[!-~])?") {
            prop_assert_eq!(&*RequestId::accept(Some(id.as_bytes())), &id);
        }

        #[test]
        fn a_callers_id_is_replaced_if_it_is_not(id in "([ -~]{129,200})|([ -~]{0,20}[^ -~][ -~]{0,20})|( .*)|(.* )") {
            prop_assert_eq!(RequestId::accept(Some(id.as_bytes())).len(), 36);
        }

        #[test]
        fn what_we_send_is_what_we_would_continue(trace in 1u128.., parent in 1u64.., flags in 0u8..) {
            let sent = format!("00-{trace:032x}-{parent:016x}-{flags:02x}");
            let here = TraceContext::parse(sent.as_bytes()).unwrap();
            let next = TraceContext::parse(here.to_header(0).as_bytes()).unwrap();
            prop_assert_eq!(next.trace_id, trace);
            prop_assert_eq!(next.parent, here.span);
            prop_assert_eq!(next.flags, flags & 3);
        }

        #[test]
        fn a_traceparent_with_one_byte_changed_is_valid_only_if_the_byte_is_hex(at in 0usize..55, byte in any::<u8>()) {
            let mut header = VALID.as_bytes().to_vec();
            header[at] = byte;
            let dash = matches!(at, 2 | 35 | 52);
            let valid = if dash { byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') };
            prop_assert_eq!(TraceContext::parse(&header).is_some(), valid);
        }
    }
}
