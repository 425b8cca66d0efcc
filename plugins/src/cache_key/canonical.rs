//! What a JSON document means, as bytes that are the same however it is written.
//!
//! Blanks, the order of an object's members, escapes in strings and the spelling of numbers do not matter; everything
//! else does. The form is made for hashing: no two documents of different meaning share one, and it is handed out in
//! pieces, so that nothing of the document's size is built. What is held meanwhile is where containers end and where
//! the members of the objects that are open stand: a few bytes for each.
//!
//! Members of the same name are all taken in, in their order: which of them counts is for the backend to say, so no two
//! such objects may share a form.

use crate::json::outline::{Nest, Outline, Span};
use crate::json::{end_of_string, end_of_value, skip_blanks};
use std::borrow::Cow;

/// Takes the pieces of a canonical form.
pub trait Sink {
    /// The next piece.
    fn put(&mut self, piece: &[u8]);

    /// The next piece, of one byte.
    fn put_byte(&mut self, byte: u8);
}

impl Sink for Vec<u8> {
    fn put(&mut self, piece: &[u8]) {
        self.extend_from_slice(piece);
    }

    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }
}

/// Ends a number, an array or an object: no UTF-8 has this byte.
const END: u8 = 0xff;

/// Writes the canonical form of the value that begins at `start` of `json` to `sink`, without the members of its topmost
/// object that `leave_out` names. False if it is no JSON, nests deeper than [`crate::call::MAX_DEPTH`], or is larger than
/// 4 GiB; `sink` may have got half a form then. That `json` is UTF-8 is for the caller to know.
#[must_use]
pub fn write(json: &[u8], start: usize, leave_out: &dyn Fn(&str) -> bool, sink: &mut impl Sink) -> bool {
    Outline::of(json, start).is_some_and(|outline| write_outlined(json, start, &outline, leave_out, sink))
}

/// The same, given the outline of that very value.
#[must_use]
pub(super) fn write_outlined(
    json: &[u8],
    start: usize,
    outline: &Outline,
    leave_out: &dyn Fn(&str) -> bool,
    sink: &mut impl Sink,
) -> bool {
    let start = skip_blanks(json, start);
    let mut writer = Writer { json, outline, near: 0, members: Vec::new(), sink };
    let mut nest = 0;
    let Some(end) = writer.end(start, nest) else { return false };
    writer.value(start, end, &mut nest, Some(leave_out)).is_some()
}

/// A member of an open object.
#[derive(Clone, Copy)]
struct Member {
    key: Span,
    value: Span,
    nest: u32,
}

struct Writer<'a, S> {
    json: &'a [u8],
    outline: &'a Outline,
    /// Which long string is likely to be the next.
    near: usize,
    /// Of all objects that are open, the innermost's last.
    members: Vec<Member>,
    sink: &'a mut S,
}

impl<S: Sink> Writer<'_, S> {
    /// Where the value at `at` ends. `nest` counts the containers that begin before it.
    fn end(&mut self, at: usize, nest: usize) -> Option<usize> {
        match self.json.get(at)? {
            b'{' | b'[' => Some(self.outline.nest(nest)?.end as usize),
            b'"' => self.outline.long_string(at, &mut self.near).or_else(|| end_of_string(self.json, at)),
            _ => end_of_value(self.json, at),
        }
    }

    /// Writes the value from `at` to `end`. `nest` counts the containers that have begun before.
    fn value(
        &mut self,
        at: usize,
        end: usize,
        nest: &mut usize,
        leave_out: Option<&dyn Fn(&str) -> bool>,
    ) -> Option<()> {
        match self.json.get(at)? {
            b'{' => return self.object(at, nest, leave_out),
            b'[' => return self.array(at, nest),
            b'"' => self.string(at + 1, end - 1)?,
            _ => match &self.json[at..end] {
                b"true" => self.sink.put_byte(b't'),
                b"false" => self.sink.put_byte(b'f'),
                b"null" => self.sink.put_byte(b'0'),
                number => self.number(number)?,
            },
        }
        Some(())
    }

    fn array(&mut self, start: usize, nest: &mut usize) -> Option<()> {
        let end = self.outline.nest(*nest)?.end as usize;
        *nest += 1;
        self.sink.put_byte(b'[');
        let mut at = skip_blanks(self.json, start + 1);
        while at < end - 1 {
            let over = self.end(at, *nest)?;
            self.value(at, over, nest, None)?;
            at = self.behind(over, end)?;
        }
        self.sink.put_byte(END);
        Some(())
    }

    /// Where the next element or member begins behind one that ends at `over`, in a container that ends at `end`.
    fn behind(&self, over: usize, end: usize) -> Option<usize> {
        let at = skip_blanks(self.json, over);
        match self.json.get(at) {
            Some(b',') => Some(skip_blanks(self.json, at + 1)),
            _ => (at == end - 1).then_some(at),
        }
    }

    fn object(&mut self, start: usize, nest: &mut usize, leave_out: Option<&dyn Fn(&str) -> bool>) -> Option<()> {
        let Nest { end, next } = self.outline.nest(*nest)?;
        let first = self.members.len();
        self.list(start, end as usize, *nest + 1)?;
        self.sort(first);
        self.sink.put_byte(b'{');
        for index in first..self.members.len() {
            let Member { key: (from, to), value: (at, over), nest } = self.members[index];
            let (from, to) = (from as usize, to as usize);
            if let Some(leave_out) = leave_out
                && leave_out(&String::from_utf8_lossy(&meant(&self.json[from..to])?))
            {
                continue;
            }
            self.string(from, to)?;
            self.value(at as usize, over as usize, &mut (nest as usize), None)?;
        }
        self.sink.put_byte(END);
        self.members.truncate(first);
        *nest = next as usize;
        Some(())
    }

    /// Sorts the members from `first` on by what their keys mean. Those of the same name stay in their order.
    fn sort(&mut self, first: usize) {
        let (json, members) = (self.json, &mut self.members[first..]);
        let text = |member: &Member| &json[member.key.0 as usize..member.key.1 as usize];
        if !self.outline.has_escaped_key() {
            return members.sort_by(|one, other| text(one).cmp(text(other)));
        }
        // Each key is read once: to read one again for each other that it is compared with is what a hostile body would make
        // expensive.
        let mut meant: Vec<_> = members.iter().map(|member| (meant(text(member)), *member)).collect();
        meant.sort_by(|(one, _), (other, _)| one.cmp(other));
        members.iter_mut().zip(meant).for_each(|(place, (_, member))| *place = member);
    }

    /// Lists the members of the object at `start`, whose first inner container is number `nest`.
    fn list(&mut self, start: usize, end: usize, mut nest: usize) -> Option<()> {
        let json = self.json;
        let place = |from: usize, to: usize| Some((u32::try_from(from).ok()?, u32::try_from(to).ok()?));
        let mut at = skip_blanks(json, start + 1);
        while at < end - 1 {
            let key_end = end_of_string(json, at)?;
            let colon = skip_blanks(json, key_end);
            if json.get(colon) != Some(&b':') {
                return None;
            }
            let value = skip_blanks(json, colon + 1);
            let over = self.end(value, nest)?;
            let (key, place) = (place(at + 1, key_end - 1)?, place(value, over)?);
            self.members.push(Member { key, value: place, nest: u32::try_from(nest).ok()? });
            if matches!(json[value], b'{' | b'[') {
                nest = self.outline.nest(nest)?.next as usize;
            }
            at = self.behind(over, end)?;
        }
        Some(())
    }

    /// Writes a string, given what stands between its quotes: letters as themselves, and those that cannot be in the
    /// shortest way, which is how nearly everybody writes them.
    #[inline]
    fn string(&mut self, start: usize, end: usize) -> Option<()> {
        if !self.outline.is_spelled() {
            self.sink.put(self.json.get(start - 1..end + 1)?);
            return Some(());
        }
        self.sink.put_byte(b'"');
        unescape(self.json.get(start..end)?, |piece| match piece {
            b"\n" => self.sink.put(b"\\n"),
            b"\t" => self.sink.put(b"\\t"),
            b"\r" => self.sink.put(b"\\r"),
            b"\x08" => self.sink.put(b"\\b"),
            b"\x0c" => self.sink.put(b"\\f"),
            // Others have no short way, so that this one is taken by nobody.
            [special @ (b'"' | b'\\' | 0..b' ')] => self.sink.put(&[b'\\', *special]),
            piece => self.sink.put(piece),
        })?;
        self.sink.put_byte(b'"');
        Some(())
    }

    /// Digits without zeros at either end, and the power of ten of the last of them: exact, however large.
    fn number(&mut self, text: &[u8]) -> Option<()> {
        let (sign, unsigned) = match text.strip_prefix(b"-") {
            Some(unsigned) => (&b"-"[..], unsigned),
            None => (&b"+"[..], text),
        };
        let is_exponent = |byte: &u8| matches!(byte, b'e' | b'E');
        let (mantissa, power) = match unsigned.iter().position(is_exponent) {
            Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &b""[..]),
        };
        if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        let fraction = trim_end(fraction);
        let whole = trim_start(whole);
        let kept = if fraction.is_empty() { trim_end(whole) } else { whole };
        let fraction_digits = if whole.is_empty() { trim_start(fraction) } else { fraction };
        if kept.is_empty() && fraction_digits.is_empty() {
            // Minus zero is zero.
            self.sink.put(b"n+");
            self.sink.put_byte(END);
            return Some(());
        }
        let moved = (whole.len() - kept.len()) as i128 - fraction.len() as i128;
        match exponent(power)? {
            Some(power) => {
                self.sink.put_byte(b'n');
                for part in [sign, kept, fraction_digits, b"e"] {
                    self.sink.put(part);
                }
                match i128::from(power) + moved {
                    digit @ 0..10 => self.sink.put_byte(b'0' + digit as u8),
                    power => self.sink.put(power.to_string().as_bytes()),
                }
            }
            // Beyond all numbers: as it is written. Another spelling of it is taken for another number.
            None => {
                self.sink.put_byte(b'N');
                self.sink.put(text);
            }
        }
        self.sink.put_byte(END);
        Some(())
    }
}

/// The power of ten that is written; `Some(None)` if it is too large for any use.
fn exponent(power: Option<&[u8]>) -> Option<Option<i64>> {
    let Some(power) = power else { return Some(Some(0)) };
    let digits = power.strip_prefix(b"+").or(power.strip_prefix(b"-")).unwrap_or(power);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(trim_start(digits)).ok()?;
    let value = if text.is_empty() { Some(0) } else { text.parse::<i64>().ok() };
    Some(value.map(|value| if power.starts_with(b"-") { -value } else { value }))
}

fn trim_start(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|digit| **digit == b'0').count()..]
}

fn trim_end(digits: &[u8]) -> &[u8] {
    &digits[..digits.len() - digits.iter().rev().take_while(|digit| **digit == b'0').count()]
}

/// What a string means, as UTF-8; a lone half of a surrogate pair, which has none, as the three bytes it would have.
fn meant(inner: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr(b'\\', inner).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = Vec::with_capacity(inner.len());
    unescape(inner, |piece| text.extend_from_slice(piece))?;
    Some(Cow::Owned(text))
}

/// Hands out what a string means: what stands in it as it is meant, and each letter that does not.
fn unescape(mut inner: &[u8], mut put: impl FnMut(&[u8])) -> Option<()> {
    while let Some(at) = memchr::memchr(b'\\', inner) {
        put(&inner[..at]);
        let escape = &inner[at + 1..];
        let (plain, rest) = match escape.first()? {
            b'n' => (b"\n", &escape[1..]),
            b't' => (b"\t", &escape[1..]),
            b'r' => (b"\r", &escape[1..]),
            b'b' => (b"\x08", &escape[1..]),
            b'f' => (b"\x0c", &escape[1..]),
            b'u' => {
                inner = unicode(&escape[1..], &mut put)?;
                continue;
            }
            b'"' => (b"\"", &escape[1..]),
            b'\\' => (b"\\", &escape[1..]),
            b'/' => (b"/", &escape[1..]),
            _ => return None,
        };
        put(plain);
        inner = rest;
    }
    put(inner);
    Some(())
}

/// Writes the character whose four digits `text` begins with, with the second half of a pair if it follows; what is left.
fn unicode<'a>(text: &'a [u8], put: &mut impl FnMut(&[u8])) -> Option<&'a [u8]> {
    let unit = |text: &[u8]| -> Option<u32> {
        let digits = text.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (first, mut rest) = (unit(text)?, &text[4..]);
    let mut code = first;
    if (0xd800..0xdc00).contains(&first)
        && let Some(second) = rest.strip_prefix(br"\u").and_then(unit)
        && (0xdc00..0xe000).contains(&second)
    {
        code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        rest = &rest[6..];
    }
    match char::from_u32(code) {
        Some(letter) => put(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        None => put(&[0xe0 | (code >> 12) as u8, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8]),
    }
    Some(rest)
}
