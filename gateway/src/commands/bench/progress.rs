//! The line that says how far it has come, where somebody looks.

use std::io::{IsTerminal, Write, stderr};

use tidegate_bench_load::Progress;
use tidegate_bench_load::picture::bar;

use crate::commands::say::Paint;

/// Columns of the bar.
const WIDTH: usize = 16;

/// A line on standard error, if that is a terminal.
pub(super) struct Bar {
    paint: Paint,
    is_seen: bool,
}

impl Bar {
    pub(super) fn begin() -> Self {
        let shown = Self { paint: Paint::on_stderr(), is_seen: is_seen() };
        shown.write("warming up");
        shown
    }

    pub(super) fn show(&self, progress: &Progress) {
        self.write(&line(progress, self.paint));
    }

    fn write(&self, line: &str) {
        if self.is_seen {
            write(line);
        }
    }
}

/// Takes it away: what is told next stands in its place.
pub(super) fn end() {
    if is_seen() {
        write("");
    }
}

fn is_seen() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn write(line: &str) {
    let mut out = stderr().lock();
    // Nobody is left to see it if this fails.
    let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
}

fn line(progress: &Progress, paint: Paint) -> String {
    let bar = bar(progress.done, WIDTH);
    let rest = "░".repeat(WIDTH.saturating_sub(bar.chars().count()));
    let Some(time) = progress.time else {
        return format!("{}{} warming up", paint.dim(bar), paint.dim(rest));
    };
    let rate = progress.requests as f64 / time.as_secs_f64().max(0.1);
    let rate = if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    let failed = match progress.errors {
        0 => String::new(),
        count => format!(", {}", paint.red(format!("{count} failed"))),
    };
    let (done, seconds, open) = (progress.done * 100.0, time.as_secs_f64(), progress.open);
    format!(
        "{}{} {done:3.0} %  {seconds:.1} s  {rate} a second, {open} under way{failed}",
        paint.green(bar),
        paint.dim(rest)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_fits_into_80_columns() {
        let progress = Progress { time: None, done: 0.05, requests: 0, errors: 0, open: 32 };
        assert!(line(&progress, Paint::none()).ends_with("░ warming up"));
        let time = Some(Duration::from_secs(5));
        let progress = Progress { time, done: 0.5, requests: 500, errors: 0, open: 32 };
        let half = line(&progress, Paint::none());
        assert!(half.starts_with("████████░") && half.ends_with(" 50 %  5.0 s  100 a second, 32 under way"), "{half}");
        let most = Progress { requests: 500_000, errors: 99_999, open: 10_000, ..progress };
        assert!(line(&most, Paint::none()).chars().count() < 80);
    }
}
