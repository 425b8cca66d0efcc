//! What is wrong with a file, in the form a person can act on: where, what, and what to write instead.

use std::fmt;

use serde_json::json;

use crate::key_path::KeyPath;
use crate::secret::without_keys;

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and probably does not do what its writer wants.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
///
/// `Display` renders it with the line and a caret, as rustc does. No secret of the file is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which setting; the root for the file as a whole.
    pub path: KeyPath,
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it, or what was expected.
    pub help: Option<String>,
    /// Where it stands in the file.
    pub place: Option<Place>,
    /// The `TIDEGATE_...` variable that set it, if the file did not.
    pub variable: Option<String>,
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters of that line are meant; at least 1.
    pub width: usize,
    /// The file's name as it was given to `load`.
    pub file: String,
    /// The line itself, with secrets as `***`; `caret` is where `column` is in it.
    pub snippet: String,
    /// The column in `snippet`, counted from 1.
    pub caret: usize,
}

impl Fault {
    /// An error without a place; [`Positions::fault`](crate::Positions::fault) makes one with.
    pub fn error(path: KeyPath, message: impl Into<String>) -> Self {
        Self {
            path,
            severity: Severity::Error,
            message: without_keys(&message.into()),
            help: None,
            place: None,
            variable: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same as a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The line in the file, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column in the file in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// For programs: `severity`, `path`, `message`, and `help`, `file`, `line`, `column`, `variable` or null.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "severity": self.severity.as_str(),
            "path": without_keys(&self.path.to_string()),
            "message": self.message,
            "help": self.help.as_deref().map(without_keys),
            "file": self.place.as_ref().map(|place| &place.file),
            "line": self.line(),
            "column": self.column(),
            "variable": self.variable,
        })
    }
}

/// ```text
/// error: unknown key `listn`
///  --> gateway.yaml:3:1
///   |
/// 3 | listn: 0.0.0.0:8080
///   | ^^^^^
///   = help: did you mean `listen`?
/// ```
impl Fault {
    /// Which setting, and what is wrong with it, in one line.
    pub fn in_a_line(&self) -> String {
        match self.path.steps().is_empty() {
            true => self.message.clone(),
            false => format!("{}: {}", without_keys(&self.path.to_string()), self.message),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.as_str(), self.message)?;
        let gutter = self.place.as_ref().map_or(1, |place| place.line.to_string().len());
        let bar = format!("\n{:gutter$} |", "");
        if let Some(Place { line, column, width, file, snippet, caret }) = &self.place {
            write!(f, "\n{:gutter$}--> {file}:{line}:{column}{bar}\n{line} | {snippet}{bar} ", "")?;
            write!(f, "{:indent$}{}", "", "^".repeat(*width), indent = caret - 1)?;
        }
        if let Some(variable) = &self.variable {
            write!(f, "\n{:gutter$} = set by: {variable}", "")?;
        }
        if !self.path.steps().is_empty() {
            write!(f, "\n{:gutter$} = at: {}", "", without_keys(&self.path.to_string()))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} = help: {}", "", without_keys(help))?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the file; at least one error among it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// A list of [`Fault::to_json`].
    pub fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(Fault::to_json).collect()
    }

    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|fault| fault.severity == Severity::Error).count()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            write!(f, "{fault}\n\n")?;
        }
        match self.errors() {
            1 => f.write_str("1 error"),
            errors => write!(f, "{errors} errors"),
        }
    }
}

impl std::error::Error for Faults {}
