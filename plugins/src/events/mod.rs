//! Event streams (server-sent events), cut into whole events and read as far as the gateway needs.
//!
//! Three parts. [`EventCutter`] makes of the chunks a backend happens to send blocks that end where an event ends, so
//! that a client is never left with half an event when the gateway has to say something itself. [`Events`] lists the
//! events of such a block. [`StreamWatch`] follows a stream and knows whether it was whole, what it cost, and where it
//! ends. Line ends may be LF, CRLF or CR, as the specification has it
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>).

mod cutter;
mod watch;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

pub use cutter::{EventCutter, TooLarge};
pub use watch::{Seen, StreamEnd, StreamWatch, was_filtered};

/// The events of a block, in order.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    block: &'a [u8],
    at: usize,
}

/// One event of a block; or only comments, up to a blank line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The value of the field `event`.
    pub name: Option<&'a [u8]>,
    /// The first `data` line: all of the data, with every known backend.
    pub data: Option<&'a [u8]>,
    /// How many `data` lines there are.
    pub data_lines: usize,
    /// Where the event begins in its block.
    pub start: usize,
    /// Where it ends, blank line included.
    pub end: usize,
    block: &'a [u8],
}

impl<'a> Events<'a> {
    /// The events of `block`. A half event at its end is listed as well.
    #[must_use]
    pub fn new(block: &'a [u8]) -> Self {
        Self::from(block, 0)
    }

    /// Those from `at` on, where one begins.
    fn from(block: &'a [u8], at: usize) -> Self {
        Self { block, at }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let start = self.at;
        let mut event = Event { name: None, data: None, data_lines: 0, start, end: start, block: self.block };
        let mut is_blank = true;
        while let Some((line, next)) = line_at(self.block, self.at) {
            self.at = next;
            if !line.is_empty() {
                is_blank = false;
                event.take(line);
            } else if is_blank {
                // The rest of a CRLF whose CR ended the block before, or blank lines too many.
                event.start = next;
            } else {
                break;
            }
        }
        event.end = self.at;
        (!is_blank).then_some(event)
    }
}

impl<'a> Event<'a> {
    fn take(&mut self, line: &'a [u8]) {
        if let Some(value) = field(line, b"data") {
            self.data.get_or_insert(value);
            self.data_lines += 1;
        } else if let Some(value) = field(line, b"event") {
            self.name = Some(value);
        }
    }

    /// All of the data, its lines joined as a client joins them.
    #[must_use]
    pub fn payload(&self) -> Cow<'a, [u8]> {
        if self.data_lines <= 1 {
            return Cow::Borrowed(self.data.unwrap_or_default());
        }
        let mut lines = Vec::with_capacity(self.data_lines);
        let mut at = self.start;
        while let Some((line, next)) = line_at(&self.block[..self.end], at) {
            lines.extend(field(line, b"data"));
            at = next;
        }
        Cow::Owned(lines.join(&b'\n'))
    }

    /// Where the first `data` line's value stands in the block.
    #[must_use]
    pub fn data_range(&self) -> Option<Range<usize>> {
        let data = self.data?;
        let start = data.as_ptr().addr() - self.block.as_ptr().addr();
        Some(start..start + data.len())
    }

    /// Whether there is no data, so that a client dispatches nothing: comments, mostly, that keep a connection alive.
    #[must_use]
    pub fn is_comment_only(&self) -> bool {
        self.data.is_none()
    }

    /// Whether this is OpenAI's end mark. The SDKs look at the beginning of the data only, and so do we.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data.is_some_and(|data| data.starts_with(b"[DONE]"))
    }
}

/// The line that begins at `at`, without its end, and where the next one begins.
fn line_at(block: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = block.get(at..).filter(|rest| !rest.is_empty())?;
    let Some(length) = memchr2(b'\n', b'\r', rest) else { return Some((rest, block.len())) };
    let end_length = if rest[length..].starts_with(b"\r\n") { 2 } else { 1 };
    Some((&rest[..length], at + length + end_length))
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        // A line without a colon is a field with an empty value.
        [] => Some(&line[line.len()..]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(block: &str) -> Vec<(Option<&str>, Option<&str>)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        Events::new(block.as_bytes()).map(|event| (event.name.map(text), event.data.map(text))).collect()
    }

    #[test]
    fn events_are_listed_with_name_and_data_whatever_the_line_ends() {
        for end in ["\n", "\r\n", "\r"] {
            let block = "event: a~data: 1~~: ping~~data:2~id: x~~data~~event: c~datax: 3~~".replace('~', end);
            let expected =
                [(Some("a"), Some("1")), (None, None), (None, Some("2")), (None, Some("")), (Some("c"), None)];
            assert_eq!(texts(&block), expected);
        }
    }

    #[test]
    fn blank_lines_too_many_are_no_events() {
        assert_eq!(texts("\n\r\n\rdata: 1\n\n\n\n"), [(None, Some("1"))]);
        assert_eq!(texts("\n\n"), []);
        assert_eq!(texts(""), []);
    }

    #[test]
    fn the_data_of_several_lines_is_joined() {
        let block = b"data: {\r\n: c\r\ndata:   1}\r\n\r\ndata: x\n\n";
        let events: Vec<_> = Events::new(block).collect();
        assert_eq!((events[0].data, events[0].data_lines), (Some(&b"{"[..]), 2));
        assert_eq!(*events[0].payload(), *b"{\n  1}");
        assert_eq!(&block[events[1].data_range().unwrap()], b"x");
        assert_eq!(&block[events[1].start..events[1].end], b"data: x\n\n");
    }

    #[test]
    fn the_end_mark_is_known() {
        let done = |block: &str| Events::new(block.as_bytes()).next().unwrap().is_done();
        assert!(done("data: [DONE]\n\n") && done("data:[DONE]\r\n\r\n"));
        assert!(!done("data: \"[DONE]\"\n\n") && !done(": [DONE]\n\n"));
    }
}
