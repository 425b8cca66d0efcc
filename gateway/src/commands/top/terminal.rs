//! A terminal that is drawn on as a whole. What it was before comes back when this is dropped.

use super::screen::Line;
use crate::commands::say::Paint;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Another screen, and no cursor on it.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) struct Terminal {
    before: Termios,
    paint: Paint,
}

impl Terminal {
    /// # Errors
    /// If this is none.
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        tcgetwinsize(io::stdout())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let terminal = Self { before, paint: Paint::on_stdout() };
        write(OPEN)?;
        Ok(terminal)
    }

    /// Columns and rows, as of now.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Shows these lines, from the top.
    ///
    /// # Errors
    /// If it has gone.
    pub(super) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        // From the first place on, each line to its end, and what was below it: nothing flickers.
        let mut page = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(page, "{}{}\x1b[K", if at == 0 { "" } else { "\r\n" }, line.painted(self.paint));
        }
        page.push_str("\x1b[J");
        write(&page)
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If it has gone there is nothing to bring back.
        let _ = write(CLOSE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
