//! What was measured, as people see it: numbers first, then a picture of how they are spread.

use std::fmt::Write;

use rustix::termios::tcgetwinsize;
use serde::Serialize;
use tidegate_bench_load::picture::{Bar, bar, time};
use tidegate_bench_load::{Measured, Quantiles, Report};

use super::{Asked, bars};
use crate::commands::say::Paint;

/// The bars of one histogram.
#[derive(Serialize)]
pub(super) struct Picture {
    name: &'static str,
    bars: Vec<Bar>,
}

/// Pictures of what was timed.
pub(super) fn pictures(measured: &Measured, stream: bool) -> Vec<Picture> {
    let samples = &measured.samples;
    let all = match stream {
        true => vec![("first token", &samples.first_token), ("between tokens", &samples.between_tokens)],
        false => vec![("latency", &samples.latency)],
    };
    let picture = |(name, histogram)| Picture { name, bars: bars(histogram) };
    all.into_iter().map(picture).filter(|picture| !picture.bars.is_empty()).collect()
}

/// All of it.
pub(super) fn page(asked: &Asked, report: &Report, pictures: &[Picture], paint: Paint) -> String {
    let mut page = format!("\n{}\n\n", paint.bold(opening(asked)));
    for (name, text) in facts(report, paint) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page, "{:>10}  {text}", paint.dim(format!("{name:>10}")));
    }
    page += "\n";
    page += &table(report, paint);
    let width = tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col)).clamp(60, 120);
    for picture in pictures {
        let _ = write!(page, "\n{}\n{}", paint.bold(picture.name), drawn(&picture.bars, width, paint));
    }
    page
}

fn opening(asked: &Asked) -> String {
    let model = asked.model.as_ref().map(|model| format!(", model {model}")).unwrap_or_default();
    let what = if asked.stream { "streams" } else { "connections" };
    let count = asked.connections;
    let pace = match asked.rate {
        Some(rate) => format!("{rate} requests a second on up to {count} {what}"),
        None => format!("{count} {what}, each asking again as soon as it is answered"),
    };
    format!("{}{model}\n{pace}", asked.to)
}

/// What is told in a line each.
fn facts(report: &Report, paint: Paint) -> Vec<(&'static str, String)> {
    let (requests, seconds) = (report.requests, report.seconds);
    let mut facts =
        vec![("answered", format!("{requests} in {seconds:.2} s: {} a second", rate(report.requests_per_second)))];
    if report.errors.is_empty() {
        facts.push(("failed", "none".to_owned()));
    }
    for (kind, count) in &report.errors {
        facts.push(("failed", paint.red(format!("{count} x {kind}"))));
    }
    for (status, count) in report.statuses.iter().filter(|(status, _)| !(200..300).contains(*status)) {
        facts.push(("status", format!("{count} x {status}")));
    }
    if report.late > 0 {
        let text = format!("{} began 1 ms late or more: no connection was free, or no processor", report.late);
        facts.push(("late", paint.yellow(text)));
    }
    if report.unfinished > 0 {
        facts.push(("unfinished", format!("{} were under way when it was over", report.unfinished)));
    }
    if report.interrupted {
        facts.push(("ended", paint.yellow("before its time")));
    }
    if let Some(streams) = &report.streams {
        facts.push(("events", format!("{}: {} a second", streams.events, rate(streams.events_per_second))));
    }
    if let Some(tokens) = &report.tokens {
        facts.push(("tokens", format!("{} of output: {} a second", tokens.output, rate(tokens.output_per_second))));
    }
    if let Some(server) = &report.server {
        let spent = &server.spent;
        facts.push((
            "server",
            format!(
                "{:.2} processors, {:.1} us a request; {:.1} MiB, at most {:.1} MiB; {} reads and writes, {} waits",
                server.cpus,
                server.cpu_us_per_request,
                spent.rss_kib as f64 / 1024.0,
                spent.peak_rss_kib as f64 / 1024.0,
                spent.reads_and_writes,
                spent.waits
            ),
        ));
    }
    facts
}

fn rate(rate: f64) -> String {
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.2}") }
}

fn table(report: &Report, paint: Paint) -> String {
    let mut rows = vec![("latency", &report.latency_us)];
    rows.extend(report.refusals_us.as_ref().map(|refusals| ("refusals", refusals)));
    if let Some(streams) = &report.streams {
        rows.extend([("first token", &streams.first_token_us), ("between tokens", &streams.between_tokens_us)]);
    }
    let mut head = format!("{:<14}", "");
    for name in ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"] {
        let _ = write!(head, "{name:>9}");
    }
    let mut table = paint.dim(head) + "\n";
    for (name, quantiles) in rows {
        let Quantiles { mean, p50, p90, p95, p99, p999, max, .. } = quantiles;
        let _ = write!(table, "{name:<14}");
        for value in [mean, p50, p90, p95, p99, p999, max] {
            let _ = write!(table, "{:>9}", time((value * 1000.0) as u64));
        }
        table += "\n";
    }
    table
}

/// A line for each bar: from when on, how many, and which percentiles lie there.
fn drawn(bars: &[Bar], width: usize, paint: Paint) -> String {
    /// What stands beside the bars.
    const BESIDE: usize = 46;
    let width = width.saturating_sub(BESIDE).max(10);
    let total: u64 = bars.iter().map(|bar| bar.count).sum();
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let mut lines = String::new();
    for line in bars {
        let drawn = bar(line.count as f64 / most as f64, width);
        let room = " ".repeat(width - drawn.chars().count().min(width));
        let share = line.count as f64 * 100.0 / total as f64;
        let marks = line.percentiles.iter().map(|name| paint.yellow(name)).collect::<Vec<_>>().join(" ");
        let from = if line.from == 0 { "together".to_owned() } else { time(line.from) };
        let text = format!("{from:>10} │{}{room} {:>9} {share:5.1} %  {marks}", paint.green(drawn), line.count);
        lines += text.trim_end();
        lines += "\n";
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_line_for_each_bar_and_fits_its_width() {
        let bar = |from, count, percentiles| Bar { from, to: None, count, percentiles };
        let bars = [
            bar(1_000_000, 1, vec![]),
            bar(2_000_000, 980, vec!["p50", "p90"]),
            bar(5_000_000, 19, vec!["p99", "p99.9"]),
        ];
        let text = drawn(&bars, 80, Paint::none());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines[0].starts_with("   1.00 ms │▏") && lines[0].ends_with("1   0.1 %"), "{text}");
        assert!(lines[1].contains(&"█".repeat(34)) && lines[1].ends_with("980  98.0 %  p50 p90"), "{text}");
    }
}
