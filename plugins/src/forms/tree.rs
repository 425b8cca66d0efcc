//! JSON taken apart as far as it has to be, and put together again: what is not opened stays as it is written.
//!
//! Members keep their order, numbers their spelling, strings their escapes; strings are joined as they are written.

use crate::json;
use std::borrow::Cow;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Tree<'a> {
    /// As it is written.
    Raw(Cow<'a, [u8]>),
    /// A string that grows: what stands between its quotes, escapes included.
    Text(Vec<u8>),
    /// Its members, in order.
    Object(Object<'a>),
    /// Its elements.
    Array(Vec<Tree<'a>>),
}

/// The members of an object, in order. Names as they are written, which for all that is looked for is what they mean.
#[derive(Clone, Debug, Default)]
pub(super) struct Object<'a>(pub(super) Vec<(&'a [u8], Tree<'a>)>);

/// Strings that come once, or again and again the same; all others come in pieces.
const WHOLE_STRINGS: &[&[u8]] = &[b"id", b"type", b"role", b"name", b"object", b"index", b"call_id", b"model"];

impl<'a> Tree<'a> {
    /// A value of ours.
    pub(super) fn json(json: impl Into<Cow<'static, [u8]>>) -> Self {
        Self::Raw(json.into())
    }

    pub(super) fn raw(&self) -> Option<&[u8]> {
        if let Self::Raw(raw) = self { Some(raw) } else { None }
    }

    pub(super) fn is_null(&self) -> bool {
        self.raw() == Some(b"null")
    }

    /// The written inside of a string.
    pub(super) fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            Self::Raw(raw) => inside(raw),
            _ => None,
        }
    }

    /// Appends to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(raw) => out.extend_from_slice(raw),
            Self::Text(text) => {
                out.push(b'"');
                out.extend_from_slice(text);
                out.push(b'"');
            }
            Self::Object(object) => object.write(out),
            Self::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    out.extend_from_slice(if index > 0 { b"," } else { b"" });
                    element.write(out);
                }
                out.push(b']');
            }
        }
    }

    /// Takes in what a later piece says of the same value, called `name`: strings and lists grow, objects are joined
    /// member by member, of anything else the later counts. A null says nothing.
    pub(super) fn merge(&mut self, later: &'a [u8], name: &[u8]) {
        match later.first() {
            Some(b'n') => {}
            Some(b'"') => match (&mut *self, inside(later)) {
                (Self::Text(text), Some(more)) if !WHOLE_STRINGS.contains(&name) => text.extend_from_slice(more),
                (_, more) => *self = Self::Text(more.unwrap_or_default().to_vec()),
            },
            Some(b'{') => {
                if !matches!(self, Self::Object(_)) {
                    *self = Self::Object(Object::default());
                }
                if let Self::Object(object) = self {
                    Object::read(later).0.iter().for_each(|(name, value)| object.merge_raw(name, value));
                }
            }
            Some(b'[') => {
                if !matches!(self, Self::Array(_)) {
                    *self = Self::Array(Vec::new());
                }
                if let Self::Array(elements) = self {
                    json::elements_within(later, 0..later.len()).for_each(|at| merge_element(elements, &later[at]));
                }
            }
            _ => *self = Self::Raw(Cow::Borrowed(later)),
        }
    }
}

/// An element with an `index` belongs to the one that has the same; any other is a new one.
fn merge_element<'a>(elements: &mut Vec<Tree<'a>>, later: &'a [u8]) {
    let index_of = |element: &[u8]| json::member(element, "index").map(|at| element[at].to_vec());
    let known = index_of(later).and_then(|index| {
        elements.iter_mut().find(|element| match element {
            Tree::Object(object) => object.get(b"index").and_then(Tree::raw) == Some(&index),
            _ => false,
        })
    });
    match known {
        Some(element) => element.merge(later, b""),
        None => {
            let mut element = Tree::Raw(Cow::Borrowed(b"null"));
            element.merge(later, b"");
            elements.push(element);
        }
    }
}

impl<'a> Object<'a> {
    /// The members of `json`, unopened; none if it is no object.
    pub(super) fn read(json: &'a [u8]) -> Self {
        let member = |member: json::Member<'a>| (member.key, Tree::Raw(Cow::Borrowed(&json[member.value])));
        Self(json::members(json).map(member).collect())
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Tree<'a>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Tree<'a>> {
        self.0.iter_mut().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The member as it is written, unless it is null.
    pub(super) fn given(&self, name: &[u8]) -> Option<&[u8]> {
        self.get(name).filter(|value| !value.is_null()).and_then(Tree::raw)
    }

    /// Sets a member where it stands, or at the end.
    pub(super) fn set(&mut self, name: &'a [u8], value: Tree<'a>) {
        match self.get_mut(name) {
            Some(known) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Tree<'a>> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes the later value, unless it is null and there is one.
    pub(super) fn update(&mut self, name: &'a [u8], value: Tree<'a>) {
        if !value.is_null() || self.get(name).is_none() {
            self.set(name, value);
        }
    }

    /// Joins a member with what a later piece says of it.
    pub(super) fn merge(&mut self, name: &'a [u8], later: &'a [u8]) {
        match self.get_mut(name) {
            Some(known) => known.merge(later, name),
            None => {
                let mut value = Tree::Raw(Cow::Borrowed(b"null"));
                value.merge(later, name);
                self.0.push((name, value));
            }
        }
    }

    fn merge_raw(&mut self, name: &'a [u8], later: &Tree<'a>) {
        if let Tree::Raw(Cow::Borrowed(later)) = later {
            self.merge(name, later);
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
            out.extend_from_slice(name);
            out.extend_from_slice(b"\":");
            value.write(out);
        }
        out.push(b'}');
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// What stands between the quotes of a string.
pub(super) fn inside(raw: &[u8]) -> Option<&[u8]> {
    raw.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// Cuts the written inside of a string into pieces of about `size` bytes, each of which is the inside of a string: before a
/// blank where there is one, never within a character.
pub(super) fn pieces(inside: &[u8], size: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::with_capacity(inside.len() / size.max(1) + 1);
    let (mut start, mut at) = (0, 0);
    while at < inside.len() {
        let long = at - start;
        let blank = matches!(inside[at], b' ') || inside[at..].starts_with(b"\\n");
        if long > 0 && (blank && long >= size || long >= size.saturating_mul(4).max(16)) {
            pieces.push(&inside[start..at]);
            start = at;
        }
        at += letter(&inside[at..]);
    }
    if start < inside.len() {
        pieces.push(&inside[start..]);
    }
    pieces
}

/// How long the first character is, as it is written; both halves of a surrogate pair are one.
fn letter(text: &[u8]) -> usize {
    match text {
        [b'\\', b'u', ..] => {
            let is_first_half = matches!(text.get(2..4), Some([b'd' | b'D', b'8'..=b'9' | b'a'..=b'b' | b'A'..=b'B']));
            if is_first_half && text.get(6..8) == Some(br"\u") { 12 } else { 6 }
        }
        [b'\\', ..] => 2,
        [0xf0..=0xff, ..] => 4,
        [0xe0..=0xef, ..] => 3,
        [0xc0..=0xdf, ..] => 2,
        _ => 1,
    }
    .min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(parts: &[&'static str]) -> String {
        let mut tree = Tree::Raw(Cow::Borrowed(b"null"));
        parts.iter().for_each(|part| tree.merge(part.as_bytes(), b""));
        let mut out = Vec::new();
        tree.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pieces_are_joined_as_clients_join_them() {
        let parts = [
            r#"{"content":"a\n","tool_calls":[{"index":1,"id":"x","function":{"name":"f","arguments":"{"}}],"n":1.0}"#,
            r#"{"content":"\u00e9","tool_calls":[{"index":0,"id":"y"},{"index":1,"id":"x","function":{"arguments":"}"}}],"n":2,"content2":null}"#,
            r#"{"content":null}"#,
        ];
        let expected = r#"{"content":"a\n\u00e9","tool_calls":[{"index":1,"id":"x","function":{"name":"f","arguments":"{}"}},{"index":0,"id":"y"}],"n":2,"content2":null}"#;
        assert_eq!(joined(&parts), expected);
        assert_eq!(joined(&["[1,2]", "[3]"]), "[1,2,3]");
    }

    proptest! {
        #[test]
        fn pieces_are_strings_and_make_up_the_whole(text in "[a-c \n\"\u{e9}\u{4e2d}\u{1f600}]{0,40}", size in 1_usize..9, ascii: bool) {
            let mut quoted = serde_json::to_string(&text).unwrap();
            if ascii {
                quoted = quoted.chars().map(|letter| match letter {
                    ' '..='~' => letter.to_string(),
                    _ => letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
                }).collect();
            }
            let inner = inside(quoted.as_bytes()).unwrap();
            let cut = pieces(inner, size);
            prop_assert_eq!(cut.concat(), inner);
            let meant: String = cut.iter().map(|piece| json::unquoted(piece).expect("a string").into_owned()).collect();
            prop_assert_eq!(meant, text);
        }
    }
}
