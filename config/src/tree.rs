//! The file as a tree that remembers where each part of it stands.
//!
//! Everything before the typed settings works on this tree: overrides and interpolation change it, the deserializer
//! reads it, and every fault finds its line in it. A node that a fault was found in becomes [`Content::Gone`], so that
//! the rest can be judged without stumbling over it again.

use crate::key_path::{KeyPath, Step};

/// A stretch of the file; lines and columns (in characters) count from 1, the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: (usize, usize),
    pub(crate) end: (usize, usize),
}

/// Who wrote a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File(Span),
    Variable(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: KeyPath,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
    /// Something was wrong here, and has been said.
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// The text, after interpolation.
    pub(crate) text: String,
    /// Written without quotes: it may be a number, a truth value or nothing.
    pub(crate) plain: bool,
    /// It came from a variable or a file: whoever wants a number may read one from it although it is quoted, and a
    /// text although it looks like a number.
    pub(crate) loose: bool,
    /// The text before interpolation, if that changed it: what a message may show.
    pub(crate) written: Option<String>,
}

/// What a scalar is in the core schema of YAML 1.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Resolved<'a> {
    Nothing,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl Scalar {
    pub(crate) fn resolve(&self) -> Resolved<'_> {
        match resolve_plain(&self.text) {
            // A variable that is empty must not switch off what it was to set.
            Resolved::Nothing if self.written.is_some() => Resolved::Text(&self.text),
            resolved if self.plain => resolved,
            _ => Resolved::Text(&self.text),
        }
    }
}

pub(crate) fn resolve_plain(text: &str) -> Resolved<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Nothing,
        "true" | "True" | "TRUE" => return Resolved::Bool(true),
        "false" | "False" | "FALSE" => return Resolved::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        _ => {}
    }
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)];
    if let Some((prefix, radix)) = radix.iter().find(|(prefix, _)| text.starts_with(prefix)) {
        let digits = &text[prefix.len()..];
        let number = if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, *radix).ok() };
        return number.map_or(Resolved::Text(text), Resolved::Unsigned);
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    if leading_zero || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Resolved::Text(text);
    }
    if let Ok(number) = text.parse() {
        return Resolved::Unsigned(number);
    }
    if let Ok(number) = text.parse() {
        return Resolved::Signed(number);
    }
    text.parse().map_or(Resolved::Text(text), Resolved::Float)
}

impl Node {
    pub(crate) fn new(origin: Origin, content: Content) -> Self {
        Self { path: KeyPath::root(), origin, content }
    }

    /// Gives every node its path, once the tree has its final shape.
    pub(crate) fn assign_paths(&mut self, path: KeyPath) {
        match &mut self.content {
            Content::List(items) => {
                items.iter_mut().enumerate().for_each(|(index, item)| item.assign_paths(path.item(index)));
            }
            Content::Table(entries) => {
                entries.iter_mut().for_each(|(key, value)| value.assign_paths(path.key(&key.text)));
            }
            Content::Scalar(_) | Content::Gone => {}
        }
        self.path = path;
    }

    pub(crate) fn find(&self, path: &KeyPath) -> Option<&Node> {
        path.steps().iter().try_fold(self, |node, step| match (&node.content, step) {
            (Content::List(items), Step::Item(index)) => items.get(*index),
            (Content::Table(entries), Step::Key(name)) => {
                entries.iter().find(|(key, _)| key.text == *name).map(|(_, value)| value)
            }
            _ => None,
        })
    }

    pub(crate) fn find_mut(&mut self, path: &KeyPath) -> Option<&mut Node> {
        path.steps().iter().try_fold(self, |node, step| match (&mut node.content, step) {
            (Content::List(items), Step::Item(index)) => items.get_mut(*index),
            (Content::Table(entries), Step::Key(name)) => {
                entries.iter_mut().find(|(key, _)| key.text == *name).map(|(_, value)| value)
            }
            _ => None,
        })
    }

    /// The keys of the table at `path`, in the order of the file, those with faults included.
    pub(crate) fn keys(&self, path: &KeyPath) -> Vec<&str> {
        match self.find(path).map(|node| &node.content) {
            Some(Content::Table(entries)) => entries.iter().map(|(key, _)| key.text.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// The text at `path` as the file has it, before references were replaced: what a message may show. `text` if the
    /// file has it just so.
    pub(crate) fn as_written<'a>(&'a self, path: &KeyPath, text: &'a str) -> &'a str {
        match self.find(path).map(|node| &node.content) {
            Some(Content::Scalar(Scalar { written: Some(written), .. })) => written,
            _ => text,
        }
    }

    /// Whether what is at `path` as a whole is a fault.
    pub(crate) fn is_gone(&self, path: &KeyPath) -> bool {
        self.find(path).is_some_and(|node| matches!(node.content, Content::Gone))
    }

    /// Whether a fault was found at `path` or somewhere inside it.
    pub(crate) fn has_gone(&self, path: &KeyPath) -> bool {
        self.find(path).is_some_and(Node::holds_gone)
    }

    fn holds_gone(&self) -> bool {
        match &self.content {
            Content::Gone => true,
            Content::Scalar(_) => false,
            Content::List(items) => items.iter().any(Node::holds_gone),
            Content::Table(entries) => entries.iter().any(|(_, value)| value.holds_gone()),
        }
    }
}
