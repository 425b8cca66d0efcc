//! What goes to the terminal, and in which colours.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Writes to standard output. A reader that has left (`tidegate schema | head`) has seen what it wanted.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// Writes to standard error.
pub(super) fn complain(text: &str) {
    let mut out = io::stderr().lock();
    // There is nobody left to tell if this fails.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// An error in words, with its causes but without the numbers that only the system knows.
pub(super) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    match words.find(" (os error ") {
        Some(at) => words[..at].to_owned(),
        None => words,
    }
}

/// Colours, where they can be seen and are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    pub(super) fn on_stdout() -> Self {
        Self { on: io::stdout().is_terminal() && wanted() }
    }

    pub(super) fn on_stderr() -> Self {
        Self { on: io::stderr().is_terminal() && wanted() }
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { on: false }
    }

    pub(super) fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    pub(super) fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    pub(super) fn green(self, text: impl Display) -> String {
        self.wrap("32", text)
    }

    pub(super) fn yellow(self, text: impl Display) -> String {
        self.wrap("33", text)
    }

    pub(super) fn red(self, text: impl Display) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// `NO_COLOR` is set to anything (no-color.org), or the terminal has no colours.
fn wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
