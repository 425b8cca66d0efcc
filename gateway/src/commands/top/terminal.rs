//! A terminal that is drawn on as a whole. What it was before comes back when this is dropped, and before a panic is told.

use super::screen::Line;
use crate::commands::say::Paint;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;

/// Another screen, and no cursor on it.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) struct Terminal {
    tty: Tty,
    paint: Paint,
}

/// Where keys come from and pages go to, and how that was before.
struct Tty {
    input: OwnedFd,
    output: File,
    before: Termios,
}

impl Terminal {
    /// # Errors
    /// If this is none.
    pub(super) fn open() -> io::Result<Self> {
        Self::on(io::stdin().as_fd(), io::stdout().as_fd())
    }

    fn on(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<Self> {
        let before = tcgetattr(input)?;
        tcgetwinsize(output)?;
        let tty = || {
            let (input, output) = (input.try_clone_to_owned()?, output.try_clone_to_owned()?.into());
            io::Result::Ok(Tty { input, output, before: before.clone() })
        };
        let (tty, theirs) = (tty()?, tty()?);
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // What is told on the other screen goes with it.
            theirs.restore();
            told(panic);
        }));
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&tty.input, OptionalActions::Now, &raw)?;
        let terminal = Self { tty, paint: Paint::on_stdout() };
        terminal.tty.write(OPEN)?;
        Ok(terminal)
    }

    /// Columns and rows, as of now.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.tty.output) {
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
        self.tty.write(&page)
    }
}

impl Tty {
    fn write(&self, text: &str) -> io::Result<()> {
        (&self.output).write_all(text.as_bytes())
    }

    fn restore(&self) {
        // If it has gone there is nothing to bring back.
        let _ = self.write(CLOSE);
        let _ = tcsetattr(&self.input, OptionalActions::Now, &self.before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tty.restore();
        if !std::thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    /// A terminal, and who looks at it.
    fn pair() -> (File, File) {
        let looks = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&looks).unwrap();
        unlockpt(&looks).unwrap();
        let name = ptsname(&looks, Vec::new()).unwrap().into_string().unwrap();
        (looks.into(), File::options().read(true).write(true).open(name).unwrap())
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_is_told_after_that() {
        let (mut looks, tty) = pair();
        let is_raw = |tty: &File| !tcgetattr(tty).unwrap().local_modes.contains(LocalModes::ICANON);
        assert!(!is_raw(&tty));
        let (theirs, told) = (tty.try_clone().unwrap(), tty.try_clone().unwrap());
        panic::set_hook(Box::new(move |_| {
            assert!(!is_raw(&told));
            (&told).write_all(b"what went wrong").unwrap();
        }));
        let work = std::thread::spawn(move || {
            let terminal = Terminal::on(theirs.as_fd(), theirs.as_fd()).unwrap();
            assert!(is_raw(&theirs) && terminal.size().0 > 0);
            panic!("somewhere");
        });
        assert!(work.join().is_err());
        assert!(!is_raw(&tty));
        let mut seen = [0; 256];
        let length = io::Read::read(&mut looks, &mut seen).unwrap();
        let seen = String::from_utf8_lossy(&seen[..length]).into_owned();
        assert!(seen.starts_with(OPEN) && seen.contains(&format!("{CLOSE}what went wrong")), "{seen:?}");
    }
}
