//! What can be wrong with a call, and how that is told to whoever sent it.

use std::fmt;

use super::Key;

/// Why a body is not a call. Always the client's fault (400); the message repeats none of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFault {
    /// What is wrong, for those who decide by it.
    pub kind: FaultKind,
    /// The member at fault, for `error.param`.
    pub param: Option<&'static str>,
    /// The line in the body, from 1.
    pub line: usize,
    /// The byte within the line, from 1 (0: just before its first).
    pub column: usize,
    message: String,
}

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No body at all.
    Empty,
    /// Not UTF-8, or with a byte order mark in front.
    Encoding,
    /// Not JSON, or more than one document.
    Malformed,
    /// JSON, but no object.
    NotAnObject,
    /// No `model`, and nothing to take its place.
    MissingModel,
    /// A key that two readers could read differently: given twice, written with escapes or in another case.
    Ambiguous,
    /// A member we read is of another type than it has to be.
    WrongType,
    /// Nested deeper than [`super::MAX_DEPTH`].
    TooDeep,
    /// A key contains NUL.
    NulInKey,
    /// Larger than positions of 32 bits reach.
    TooLarge,
}

impl CallFault {
    pub(super) fn at(
        kind: FaultKind,
        param: Option<Key>,
        body: &[u8],
        offset: usize,
        message: impl Into<String>,
    ) -> Self {
        let before = &body[..offset.min(body.len())];
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1) + 1;
        Self { kind, param: param.map(Key::name), line, column, message: message.into() }
    }

    pub(super) fn malformed(error: &serde_json::Error) -> Self {
        // serde_json says where at the end of its text; we say it the same way for all faults.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        Self::positioned(FaultKind::Malformed, None, error, format!("The body is not valid JSON: {what}"))
    }

    pub(super) fn ambiguous(name: &'static str, how: &str, error: &serde_json::Error) -> Self {
        Self::positioned(FaultKind::Ambiguous, Some(name), error, format!("`{name}` is {how}"))
    }

    fn positioned(kind: FaultKind, param: Option<&'static str>, error: &serde_json::Error, message: String) -> Self {
        Self { kind, param, line: error.line(), column: error.column(), message }
    }

    pub(super) fn not_an_object() -> Self {
        let message = "The body must be a JSON object".to_owned();
        Self { kind: FaultKind::NotAnObject, param: None, line: 1, column: 1, message }
    }

    /// This fault of a value within the member `key`, told with that member's position in the body.
    pub(super) fn within(self, key: Key, body: &[u8], offset: usize) -> Self {
        Self::at(self.kind, Some(key), body, offset, self.message)
    }

    /// The fault of a call that names no model, where no default stands in.
    #[must_use]
    pub fn missing_model() -> Self {
        Self {
            kind: FaultKind::MissingModel,
            param: Some(Key::Model.name()),
            line: 1,
            column: 1,
            message: "You must provide a model parameter".to_owned(),
        }
    }

    /// The kind, for `error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind {
            FaultKind::Empty => "empty_body",
            FaultKind::Encoding => "invalid_encoding",
            FaultKind::Malformed | FaultKind::NotAnObject => "invalid_json",
            FaultKind::MissingModel => "missing_required_parameter",
            FaultKind::Ambiguous => "ambiguous_parameter",
            FaultKind::WrongType => "invalid_type",
            FaultKind::TooDeep => "nested_too_deep",
            FaultKind::NulInKey => "invalid_key",
            FaultKind::TooLarge => "body_too_large",
        }
    }

    /// What to tell the caller: one sentence, with the position where that helps to find it.
    #[must_use]
    pub fn message(&self) -> String {
        match self.kind {
            FaultKind::Empty | FaultKind::NotAnObject | FaultKind::MissingModel | FaultKind::TooLarge => {
                format!("{}.", self.message)
            }
            _ => format!("{} (line {}, column {}).", self.message, self.line, self.column),
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for CallFault {}
