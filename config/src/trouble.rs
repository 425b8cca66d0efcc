//! Why a node does not fit its type, in the file's own words.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::key_path::KeyPath;

/// One node that does not fit.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: Kind,
    /// The innermost node concerned.
    pub(crate) path: Option<KeyPath>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A key or a word that is not one of those known.
    Unknown { what: &'static str, name: String, known: &'static [&'static str] },
    /// A key that must be there.
    Missing(&'static str),
    /// Anything else.
    Wrong(String),
}

impl Trouble {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, path: None }
    }

    pub(crate) fn at(mut self, path: &KeyPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unknown { what, name, .. } => write!(f, "unknown {what} `{name}`"),
            Kind::Missing(field) => write!(f, "`{field}` is missing"),
            Kind::Wrong(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Trouble {}

impl de::Error for Trouble {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::Wrong(message.to_string()))
    }

    /// Says the kind of what was found and never its value: that may be a secret, and the snippet shows it if not.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "a truth value",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
            Unexpected::Float(_) => "a fraction",
            Unexpected::Str(_) => "a text",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a table",
            _ => "something else",
        };
        Self::new(Kind::Wrong(format!("expected {}, found {found}", in_plain_words(expected))))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Wrong(format!("expected {}", in_plain_words(expected))))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown { what: "key", name: name.to_owned(), known })
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown { what: "word", name: name.to_owned(), known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }
}

/// Serde names Rust's types; the people who write the file know others.
fn in_plain_words(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "struct File" => "a table of settings, `key: value` a line".to_owned(),
        "u32" | "u64" | "usize" => "a whole number from 0".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}
