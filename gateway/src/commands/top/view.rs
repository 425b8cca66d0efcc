//! What lies between two looks, as numbers for people.

use serde_json::Value;
use tidegate::telemetry::live::{Counts, Live, RouteNow, Spread};

/// Two looks and the last requests.
pub(super) struct View<'a> {
    pub(super) now: &'a Live,
    pub(super) before: &'a Live,
    pub(super) requests: &'a [Value],
}

impl View<'_> {
    /// What came a second, of what `read` reads.
    pub(super) fn rate(&self, read: impl Fn(&Live) -> f64) -> f64 {
        let passed = self.now.uptime_ms.saturating_sub(self.before.uptime_ms) as f64 / 1000.0;
        if passed > 0.0 { ((read(self.now) - read(self.before)) / passed).max(0.0) } else { 0.0 }
    }

    /// How a spread looks for what lies between alone.
    pub(super) fn spread(&self, read: impl Fn(&Live) -> Spread) -> Spread {
        read(self.now).since(&read(self.before))
    }
}

/// Added up over all routes.
pub(super) fn total(live: &Live, read: impl Fn(&RouteNow) -> u64) -> f64 {
    live.routes.values().map(read).sum::<u64>() as f64
}

/// Over all routes or one of them.
pub(super) fn first_tokens(live: &Live, only: Option<&str>) -> Spread {
    let mut all = Spread::default();
    let routes = live.routes.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
    routes.for_each(|(_, route)| all.add(&route.first_token));
    all
}

pub(super) fn of(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// What is the gateway's or its backends' fault, not its clients'.
pub(super) fn failed(route: &RouteNow) -> u64 {
    ["gateway", "upstream_error", "upstream_timeout", "upstream_overload"]
        .iter()
        .map(|cause| of(&route.failures, cause))
        .sum()
}

pub(super) fn number(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1}G", v / 1e9),
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 1e3 => format!("{:.1}k", v / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 0.095 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub(super) fn time(seconds: Option<f64>) -> String {
    match seconds.map(|seconds| seconds * 1000.0) {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0} us", ms * 1000.0),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 100_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) => format!("{:.1} min", ms / 60_000.0),
    }
}

pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.1 { format!("{:.1} %", share * 100.0) } else { format!("{:.0} %", share * 100.0) }
}

/// Part of a whole that may be nothing.
pub(super) fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { percent(part / whole) } else { "-".to_owned() }
}

pub(super) fn since(ms: u64) -> String {
    let (days, hours, minutes) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60);
    match () {
        () if days > 0 => format!("{days} d {hours} h"),
        () if hours > 0 => format!("{hours} h {minutes} min"),
        () if minutes > 0 => format!("{minutes} min"),
        () => format!("{} s", ms / 1000),
    }
}
