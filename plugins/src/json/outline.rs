//! Where the parts of a document stand, noted while it is read.

use super::strict::{Notes, Scan};
use crate::call::MAX_DEPTH;
use std::ops::Range;

/// From where to where something is.
pub(crate) type Span = (u32, u32);

/// A container: where it ends, and how many containers begin before that end. While it is open, which one it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nest {
    pub(crate) end: u32,
    pub(crate) next: u32,
}

/// Of a value: its containers and its long strings.
#[derive(Debug)]
pub struct Outline {
    /// All containers in the order in which they begin, so that each can be stepped over at once: stepping over them by
    /// reading, once a level, is what a hostile document would make expensive.
    nests: Vec<Nest>,
    /// In order. The others are as quickly read again as looked up.
    long: Vec<Span>,
    is_spelled: bool,
    has_escaped_key: bool,
    /// The innermost container that is open.
    open: u32,
    most: usize,
}

const NONE: u32 = u32::MAX;

/// Strings that are at least so long are not read again to find their end.
const LONG: usize = 64;

impl Outline {
    /// Of what is about to be read, which is `length` bytes long. It is given up where it would be large beside that.
    pub(crate) fn beside(length: usize) -> Self {
        Self::of_at_most(64 + length / 32)
    }

    fn of_at_most(most: usize) -> Self {
        Self { nests: Vec::new(), long: Vec::new(), is_spelled: false, has_escaped_key: false, open: NONE, most }
    }

    /// Of the value that begins at `start`. None if there is none, or if it nests deeper than [`MAX_DEPTH`]. That `json` is
    /// UTF-8 is for the caller to know.
    pub(crate) fn of(json: &[u8], start: usize) -> Option<Self> {
        u32::try_from(json.len()).ok()?;
        let mut outline = Self::of_at_most(usize::MAX);
        Scan::over(json, start, &mut outline).value(MAX_DEPTH)?;
        Some(outline)
    }

    /// Itself, if all of an object was noted.
    pub(crate) fn whole(self) -> Option<Self> {
        let is_whole = self.open == NONE && !self.nests.is_empty() && self.has_room();
        is_whole.then_some(self)
    }

    /// The container of this number, counted in the order in which they begin.
    pub(crate) fn nest(&self, index: usize) -> Option<Nest> {
        self.nests.get(index).copied()
    }

    /// Where the string that begins at `start` ends, if it is long. `near` is where the last one was looked for: who reads
    /// on finds the next one there.
    pub(crate) fn long_string(&self, start: usize, near: &mut usize) -> Option<usize> {
        let begins = |index: usize| self.long.get(index).map_or(usize::MAX, |(start, _)| *start as usize);
        if begins(*near) < start || *near > 0 && begins(*near - 1) >= start {
            *near = self.long.partition_point(|(begin, _)| (*begin as usize) < start);
        }
        let (begin, end) = *self.long.get(*near)?;
        (begin as usize == start).then(|| {
            *near += 1;
            end as usize
        })
    }

    /// What of `range` is in no long string.
    pub(crate) fn beside_long(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.long.partition_point(|(start, _)| (*start as usize) < range.start);
        let within = self.long[first..].iter().map(|(start, end)| *start as usize..*end as usize);
        let within = within.take_while(move |long| long.end <= range.end);
        let mut at = range.start;
        within
            .chain(std::iter::once(range.end..range.end))
            .map(move |long| std::mem::replace(&mut at, long.end)..long.start)
    }

    /// Whether a letter may be written in a way that it need not be.
    pub(crate) fn is_spelled(&self) -> bool {
        self.is_spelled
    }

    /// Whether a key may mean something else than what stands between its quotes.
    pub(crate) fn has_escaped_key(&self) -> bool {
        self.has_escaped_key
    }

    fn has_room(&self) -> bool {
        self.nests.len() + self.long.len() < self.most
    }
}

impl Notes for Outline {
    fn open(&mut self) {
        if self.has_room() {
            self.nests.push(Nest { end: self.open, next: 0 });
            self.open = self.nests.len() as u32 - 1;
        }
    }

    fn close(&mut self, end: usize) {
        let next = self.nests.len() as u32;
        if let Some(nest) = self.nests.get_mut(self.open as usize) {
            self.open = nest.end;
            *nest = Nest { end: end as u32, next };
        }
    }

    fn string(&mut self, start: usize, end: usize) {
        if end - start >= LONG && self.has_room() {
            self.long.push((start as u32, end as u32));
        }
    }

    fn spelled(&mut self) {
        self.is_spelled = true;
    }

    fn escaped_key(&mut self) {
        self.has_escaped_key = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, Endpoint};

    #[test]
    fn the_reading_of_a_call_outlines_it_as_a_look_over_it_does() {
        let (key, text) = ("k".repeat(99), "x\\n".repeat(40));
        let body = format!(r#" {{"a":[{{}},[1,{{"b":"{text}"}}]],"{key}":"{text}\"","c":{{"d":{{"e":null}}}}}} "#);
        let body = body.as_bytes();
        let (_, outline) = Call::outlined(body, Endpoint::Chat).unwrap();
        let (read, looked) = (outline.unwrap(), Outline::of(body, 0).unwrap());
        assert_eq!((&read.nests, &read.long), (&looked.nests, &looked.long));
        assert_eq!((read.nests.len(), read.long.len(), read.is_spelled), (7, 3, false));
        assert!(read.nests.iter().all(|nest| matches!(body[nest.end as usize - 1], b'}' | b']')));
        assert!(read.long.iter().all(|(start, end)| [*start, end - 1].map(|at| body[at as usize]) == [b'"'; 2]));
    }

    #[test]
    fn an_object_with_an_escaped_key_is_outlined_by_a_look_alone() {
        let body = br#"{"a":{"\u0061":"/"}}"#;
        assert!(Call::outlined(body, Endpoint::Chat).unwrap().1.is_none());
        let outline = Outline::of(body, 0).unwrap();
        assert!(outline.is_spelled() && outline.has_escaped_key());
    }

    #[test]
    fn long_strings_are_found_in_whatever_order_they_are_asked_for() {
        let text = "x".repeat(LONG);
        let body = format!(r#"["{text}","short",{{"a":"{text}"}},"{text}"]"#);
        let outline = Outline::of(body.as_bytes(), 0).unwrap();
        let quotes: Vec<usize> = body.match_indices('"').map(|(at, _)| at).collect();
        let end = |at: usize| outline.long.iter().find(|(start, _)| *start as usize == at).map(|it| it.1 as usize);
        for one in &quotes {
            for other in &quotes {
                let mut near = 0;
                assert_eq!(outline.long_string(*one, &mut near), end(*one));
                assert_eq!(outline.long_string(*other, &mut near), end(*other), "{one} {other}");
            }
        }
        let beside: String = outline.beside_long(0..body.len()).map(|range| &body[range]).collect();
        assert_eq!(beside, r#"[,"short",{"a":},]"#);
        let half = quotes[0] + 1..quotes[1];
        assert!(outline.beside_long(half.clone()).eq(std::iter::once(half)));
    }

    #[test]
    fn no_outline_is_large_beside_its_document() {
        let many = format!("{{\"a\":[{}{{}}]}}", "[],".repeat(10_000));
        let (_, outline) = Call::outlined(many.as_bytes(), Endpoint::Chat).unwrap();
        assert!(outline.is_none());
        assert_eq!(Outline::of(many.as_bytes(), 0).unwrap().nests.len(), 10_003);
    }

    #[test]
    fn what_is_no_value_has_no_outline() {
        for json in ["", "{", "[1", "{\"a\"}", "{\"a\":}", "[1 2]", "\"\\x\"", "\"\\u12\"", "x", "[1}"] {
            assert!(Outline::of(json.as_bytes(), 0).is_none(), "{json}");
        }
        assert!(Outline::of(br#"{"\u0061":"\/"}"#, 0).unwrap().is_spelled());
    }
}
