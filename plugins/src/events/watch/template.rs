//! Most events of a stream are as the one before but for a piece of text: what was found out about one holds for the next.

use crate::json;
use memchr::{memchr2, memmem, memrchr};

/// The names of strings whose value is text for somebody to read, and nothing that is acted upon here. As they end where
/// the text begins.
const TEXTS: [&[u8]; 9] = [
    b"\"content\":\"",
    b"\"content\": \"",
    b"\"text\":\"",
    b"\"reasoning_content\":\"",
    b"\"reasoning\":\"",
    b"\"thinking\":\"",
    b"\"arguments\":\"",
    b"\"partial_json\":\"",
    b"\"delta\":\"",
];

/// An event without its text.
#[derive(Debug)]
pub(super) struct Template {
    /// What comes before the text and what comes behind it.
    event: Box<[u8]>,
    /// Where the text begins.
    text: usize,
}

impl Template {
    /// What two events have in common that differ in no more than one text.
    pub(super) fn of(one: &[u8], other: &[u8]) -> Option<Self> {
        let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        let text = match same == one.len() {
            true => TEXTS.iter().find_map(|name| Some(memmem::find(one, name)? + name.len()))?,
            false => memrchr(b'"', &one[..same])? + 1,
        };
        if !TEXTS.iter().any(|name| one[..text].ends_with(name)) {
            return None;
        }
        let end = |event: &[u8]| json::end_of_string(event, text - 1).map(|end| end - 1);
        let (behind, others) = (&one[end(one)?..], &other[end(other)?..]);
        (behind == others).then(|| Self { event: [&one[..text], behind].concat().into(), text })
    }

    /// Where this event ends with another text, if it is what begins at `at`.
    pub(super) fn end_in(&self, block: &[u8], at: usize) -> Option<usize> {
        let (before, behind) = self.event.split_at(self.text);
        let start = at + before.len();
        if block.get(at..start)? != before {
            return None;
        }
        let end = json::end_of_string(block, start - 1)? - 1;
        let over = end + behind.len();
        // A line that ends within a text ends the event's data there.
        let is_it = block.get(end..over)? == behind && memchr2(b'\n', b'\r', &block[start..end]).is_none();
        is_it.then_some(over)
    }
}
