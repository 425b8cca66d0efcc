//! The screen, line by line: what is most worth seeing where there are 80 columns and 24 rows, and more where there is room.

use super::view::{View, failed, first_tokens, number, of, share, since, time, total};
use crate::commands::say::Paint;
use tidegate::telemetry::live::Live;

/// A line of the screen: cut to its width, in one colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    look: Look,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Head,
    Bad,
    Warn,
    Good,
}

impl Line {
    fn new(text: &str, look: Look, width: usize) -> Self {
        // Names come from elsewhere: none of them steers this terminal.
        let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
        let text: String = clean.take(width).collect();
        Self { text: text.trim_end().to_owned(), look }
    }

    pub(super) fn painted(&self, paint: Paint) -> String {
        match self.look {
            Look::Plain => self.text.clone(),
            Look::Head => paint.bold(&self.text),
            Look::Bad => paint.red(&self.text),
            Look::Warn => paint.yellow(&self.text),
            Look::Good => paint.green(&self.text),
        }
    }
}

/// Says that there is nothing new to see, and why.
pub(super) fn away(fault: &str, width: usize) -> Line {
    Line::new(&format!("{fault} (trying on; q ends)"), Look::Bad, width)
}

/// At most `height` lines of at most `width` columns.
pub(super) fn lines(view: &View<'_>, width: usize, height: usize) -> Vec<Line> {
    let mut all = sums(view, width);
    let [models, backends, limits] = [models(view, width), pools(view, width), limits(view, width)];
    // What there is too little room for is shared out: a head and so many rows each, the rest is for requests.
    let extra = height.saturating_sub(24);
    for (rows, most) in [(models, 4 + extra / 4), (backends, 4 + extra / 4), (limits, 3 + extra / 8)] {
        all.extend(rows.into_iter().take(most + 1));
    }
    all.extend(requests(view, width));
    all.truncate(height);
    all
}

fn sums(view: &View<'_>, width: usize) -> Vec<Line> {
    let now = view.now;
    let (state, look) = match (now.ready, now.draining) {
        (_, true) => ("draining".to_owned(), Look::Warn),
        (true, _) => ("ready".to_owned(), Look::Good),
        _ => (format!("not ready: {}", now.reason.as_deref().unwrap_or_default()), Look::Bad),
    };
    let all = view.rate(|live| total(live, |route| route.requests));
    let bad = view.rate(|live| total(live, failed));
    let limited = view.rate(|live| total(live, |route| of(&route.failures, "limit")));
    let waiting: u64 = now.pools.values().map(|pool| pool.queue.waiting).sum();
    let first = view.spread(|live| first_tokens(live, None));
    let overhead = view.spread(|live| live.overhead.clone());
    let quantile = |share| time(first.quantile(share, &now.bounds.first_token));
    let own = |share| time(overhead.quantile(share, &now.bounds.overhead));
    let tokens = |kind: &'static str| number(view.rate(|live| total(live, |route| of(&route.tokens, kind))));
    let hits =
        |live: &Live| ["hit", "stale", "partial"].iter().map(|how| of(&live.cache.requests, how)).sum::<u64>() as f64;
    let met = |live: &Live| hits(live) + of(&live.cache.requests, "miss") as f64;
    let (cpu, memory) = (view.rate(|live| live.cpu_seconds), now.memory as f64 / f64::from(1 << 20));
    let texts = [
        format!(
            "requests {}/s   failed {}   limited {}/s   in flight {}   in queues {waiting}",
            number(all),
            share(bad, all),
            number(limited),
            now.in_flight,
        ),
        format!(
            "first token p50 {} p95 {}   tokens {} out/s {} in/s   overhead p50 {} p99 {}",
            quantile(0.5),
            quantile(0.95),
            tokens("output"),
            tokens("input"),
            own(0.5),
            own(0.99),
        ),
        format!(
            "cache hits {}   answers kept {}   connections {}   memory {memory:.0} MiB   processor {}",
            share(view.rate(hits), view.rate(met)),
            now.cache.answers,
            now.connections,
            super::view::percent(cpu),
        ),
    ];
    let title = format!("Tidegate {}  {state}  up {}  configuration {}", now.version, since(now.uptime_ms), now.config);
    let title = Line::new(&title, look, width);
    std::iter::once(title).chain(texts.iter().map(|text| Line::new(text, Look::Plain, width))).collect()
}

fn models(view: &View<'_>, width: usize) -> Vec<Line> {
    let mut rows: Vec<_> = view
        .now
        .routes
        .iter()
        .map(|(name, route)| {
            let rate = |read: &dyn Fn(&tidegate::telemetry::live::RouteNow) -> u64| {
                view.rate(|live| live.routes.get(name).map_or(0.0, |route| read(route) as f64))
            };
            let (all, bad) = (rate(&|route| route.requests), rate(&failed));
            let tokens = rate(&|route| of(&route.tokens, "input") + of(&route.tokens, "output"));
            (name, route, all, bad, tokens)
        })
        .collect();
    rows.sort_by(|one, other| other.2.total_cmp(&one.2).then(other.1.in_flight.cmp(&one.1.in_flight)));
    let head = columns("MODEL", &["req/s", "flight", "failed", "ttft p50", "p95", "tok/s"]);
    let rows = rows.into_iter().map(|(name, route, all, bad, tokens)| {
        let first = view.spread(|live| first_tokens(live, Some(name)));
        let quantile = |share| time(first.quantile(share, &view.now.bounds.first_token));
        let failed = share(bad, all);
        let cells = [number(all), route.in_flight.to_string(), failed, quantile(0.5), quantile(0.95), number(tokens)];
        let look = if bad > 0.0 { Look::Bad } else { Look::Plain };
        (columns(name, &cells.each_ref().map(String::as_str)), look)
    });
    table(head, rows, width)
}

fn pools(view: &View<'_>, width: usize) -> Vec<Line> {
    let head = columns("BACKEND", &["state", "flight", "of", "req/s", "faults/s", "waiting"]);
    let rows = view.now.pools.iter().flat_map(|(pool, now)| {
        now.backends.iter().map(move |(name, backend)| {
            let of_then = |live: &Live| live.pools.get(pool).and_then(|pool| pool.backends.get(name)).cloned();
            let requests = view.rate(|live| of_then(live).map_or(0.0, |backend| backend.requests as f64));
            let faults = view.rate(|live| of_then(live).map_or(0.0, |one| one.errors.values().sum::<u64>() as f64));
            let trusted = backend.breaker == "closed" || backend.state != "up";
            let state = if trusted {
                backend.state.clone()
            } else {
                format!("brk {}", backend.breaker.trim_end_matches("_open"))
            };
            let look = match backend.state.as_str() {
                "down" => Look::Bad,
                "up" if trusted => Look::Plain,
                _ => Look::Warn,
            };
            let most = backend.max_in_flight.map_or_else(|| "-".to_owned(), |most| most.to_string());
            let waiting = now.queue.waiting.to_string();
            let cells = [state, backend.in_flight.to_string(), most, number(requests), number(faults), waiting];
            (columns(&format!("{pool}/{name}"), &cells.each_ref().map(String::as_str)), look)
        })
    });
    table(head, rows, width)
}

/// Who is limited, by name; else which limits refuse.
fn limits(view: &View<'_>, width: usize) -> Vec<Line> {
    let head = columns("LIMITED, last five minutes", &["refused", "of"]);
    let named = view.now.limited.iter().map(|one| {
        let name = one.org.as_ref().map_or_else(|| one.name.clone(), |org| format!("{org}/{}", one.name));
        let cells = [number(one.limited as f64), number(one.requests as f64)];
        (columns(&format!("{} {name}", one.by), &cells.each_ref().map(String::as_str)), Look::Warn)
    });
    let mut rows: Vec<_> = named.collect();
    if rows.is_empty() {
        rows.push(("nobody".to_owned(), Look::Plain));
    }
    table(head, rows.into_iter(), width)
}

fn requests(view: &View<'_>, width: usize) -> Vec<Line> {
    let head = columns("LAST REQUESTS", &["status", "whole", "ttft", "ours", "tokens"]);
    let rows = view.requests.iter().map(|request| {
        let text = |name: &str| request[name].as_str().unwrap_or_default();
        let ms = |name: &str| time(request[name].as_f64().map(|ms| ms / 1000.0));
        let status = request["status"].as_u64().unwrap_or(0);
        let moment = text("time").get(11..19).unwrap_or_default();
        let what = if text("model").is_empty() { text("path") } else { text("model") };
        let tokens = ["prompt", "completion"].iter().filter_map(|kind| request["tokens"][kind].as_u64()).sum::<u64>();
        let tokens = if request["tokens"].is_null() { "-".to_owned() } else { number(tokens as f64) };
        let cells = [status.to_string(), ms("duration_ms"), ms("ttft_ms"), ms("overhead_ms"), tokens];
        // Not by the status: a stream that broke off had a 200.
        let (look, cause) = match text("cause") {
            "" | "none" => (Look::Plain, String::new()),
            cause @ ("client" | "validation" | "auth" | "limit" | "client_gone") => (Look::Warn, format!(" {cause}")),
            cause => (Look::Bad, format!(" {cause}")),
        };
        (columns(&format!("{moment} {what}"), &cells.each_ref().map(String::as_str)) + &cause, look)
    });
    let mut rows: Vec<(String, Look)> = rows.collect();
    if rows.is_empty() {
        rows.push(("none yet, or none are kept (`recent`)".to_owned(), Look::Plain));
    }
    table(head, rows.into_iter(), width)
}

fn table(head: String, rows: impl Iterator<Item = (String, Look)>, width: usize) -> Vec<Line> {
    let rows = rows.map(|(text, look)| Line::new(&text, look, width));
    std::iter::once(Line::new(&head, Look::Head, width)).chain(rows).collect()
}

/// A name, cut to its place, and cells to the right.
fn columns(name: &str, cells: &[&str]) -> String {
    const WIDTH: usize = 26;
    let short: String = match name.chars().count() {
        0..=WIDTH => name.to_owned(),
        _ => name.chars().take(WIDTH - 1).chain(['~']).collect(),
    };
    let cells: String = cells.iter().map(|cell| format!("{cell:>9}")).collect();
    format!("{short:WIDTH$}{cells}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn live(requests: u64, uptime_ms: u64) -> Live {
        serde_json::from_value(json!({
            "version": "0.1.0", "uptime_ms": uptime_ms, "ready": true, "in_flight": 3,
            "bounds": { "first_token": [0.1, 0.2] },
            "routes": {
                "tide": { "requests": requests, "in_flight": 2, "first_token": { "buckets": [0, requests, 0], "sum": 0.0 } },
                "a-model-with-a-name-that-is-longer-than-its-place": { "requests": 1, "failures": { "upstream_error": requests } },
            },
            "pools": { "main": { "up": true, "backends": {
                "one\u{1b}[2J": { "state": "up", "breaker": "closed", "in_flight": 2, "requests": requests },
                "two": { "state": "down", "breaker": "open" },
            } } },
            "limited": [{ "by": "user", "name": "ann", "org": "acme", "limited": 7, "requests": 9 }],
        }))
        .unwrap()
    }

    fn texts(width: usize, height: usize) -> Vec<String> {
        let request =
            json!({ "time": "2026-11-21T18:33:07.123Z", "model": "tide", "status": 200, "duration_ms": 12.5 });
        let requests = vec![request; 50];
        let view = View { now: &live(30, 3000), before: &live(10, 1000), requests: &requests };
        lines(&view, width, height).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn all_of_it_is_seen_in_80_columns_and_24_rows() {
        let screen = texts(80, 24);
        assert_eq!(screen.len(), 24);
        assert!(screen.iter().all(|line| line.chars().count() <= 80), "{screen:#?}");
        for head in ["MODEL", "BACKEND", "LIMITED", "LAST REQUESTS"] {
            assert!(screen.iter().any(|line| line.starts_with(head)), "{head}: {screen:#?}");
        }
        assert!(screen[1].starts_with("requests 10/s"), "{}", screen[1]);
        assert!(screen[2].starts_with("first token p50 150 ms"), "{}", screen[2]);
        assert!(
            screen.iter().any(|line| line.starts_with("user acme/ann") && line.ends_with("7        9")),
            "{screen:#?}"
        );
    }

    #[test]
    fn no_name_steers_the_terminal() {
        assert!(texts(80, 24).iter().all(|line| !line.contains('\u{1b}')));
    }

    #[test]
    fn a_terminal_of_any_size_is_not_written_over() {
        for (width, height) in [(1, 1), (20, 5), (79, 23), (300, 100)] {
            let screen = texts(width, height);
            assert!(screen.len() <= height && screen.iter().all(|line| line.chars().count() <= width));
        }
    }
}
