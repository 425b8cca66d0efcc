//! What limits keep of very many: a million addresses, and keys times models times limits. Prints what the process has
//! grown by, and fails if that is more than it may be, or is not given back when all are idle again.
//! `cargo run --release -p tidegate-bench-micro --bin memory`.

use futures_util::FutureExt;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::exchange::{Outcome, RequestHead};
use tidegate_plugins::services::Shared;
use tidegate_plugins::store::{Clock, Local};
use tidegate_plugins::{Caller, Exchange, Filter, Registry, Services, Verdict};

const MIB: u64 = 1 << 20;

struct House {
    filter: Arc<dyn Filter>,
    services: Services,
    clock: Clock,
}

impl House {
    fn new(limits: Value, models: Vec<Arc<str>>) -> Self {
        let clock = Clock::manual();
        let shared = Shared::with(Arc::new(Local::new(clock.clone())));
        let services = Services { shared, models: models.into(), ..Services::none() };
        let filter = Registry::built_in().filter("limits", limits, &services);
        Self { filter: filter.and_then(Result::ok).expect("the settings are fine"), services, clock }
    }

    /// A request, from its decision to its end; false if it was refused.
    fn ask(&self, client: Option<IpAddr>, caller: Option<Arc<Caller>>, model: Option<&Arc<str>>) -> bool {
        let headers = http::HeaderMap::new();
        let (method, path) = (http::Method::GET, "/v1/models".into());
        let mut exchange =
            Exchange::new(RequestHead { method, path, query: None, headers }, Endpoint::Other, "id".into(), client);
        if let Some(caller) = caller {
            exchange.identify(caller);
        }
        if let Some(model) = model {
            exchange.send_to(model.clone());
        }
        let verdict = self.filter.request(&mut exchange).now_or_never();
        let Some(Ok(Verdict::Follow(follower))) = verdict else { return false };
        exchange.record(Outcome { status: 200, complete: true, ..Outcome::default() });
        follower.end(&exchange);
        true
    }

    fn subjects(&self) -> u64 {
        self.services.views.limits().iter().map(|limit| limit.subjects).sum()
    }

    /// Lets all be idle again.
    fn rest(&self) {
        self.clock.advance(Duration::from_secs(7200));
        for _ in 0..64 {
            self.clock.advance(Duration::from_millis(250));
            self.services.shared.store.tidy();
        }
    }
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}

/// Half of them IPv4, half in a /64 of their own.
fn address(n: u32) -> IpAddr {
    match n % 2 {
        0 => Ipv4Addr::from(0x0a00_0000 + n / 2).into(),
        _ => Ipv6Addr::from((0x2001_0db8_u128 << 96) + (u128::from(n / 2) << 64) + u128::from(n)).into(),
    }
}

fn main() -> std::io::Result<ExitCode> {
    let mut good = true;
    let mut tell = |what: &str, house: &House, granted: u64, before: u64, most: u64, wanted: u64| {
        let (grown, subjects) = (resident().saturating_sub(before), house.subjects());
        house.rest();
        let left = house.subjects();
        good &= grown <= most && left == 0 && granted == wanted;
        let grown_by = grown as f64 / MIB as f64;
        writeln!(
            std::io::stdout(),
            "{what:40} {granted} granted, {subjects} buckets, {grown_by:.1} MiB ({} B each), {left} left when idle",
            grown / subjects.max(1)
        )
    };
    let house = House::new(json!([{ "per": "ip", "requests": "1/h" }]), Vec::new());
    let before = resident();
    let granted = (0..1_000_000).filter(|n| house.ask(Some(address(*n)), None, None)).count();
    tell("1,000,000 addresses", &house, granted as u64, before, 150 * MIB, 1_000_000)?;

    let models: Vec<Arc<str>> = (0..20).map(|n| format!("model-{n}").into()).collect();
    let limits: Vec<_> =
        (0..8).map(|n| json!({ "per": ["key", "model"], "requests": "2/h", "name": format!("l{n}") })).collect();
    let house = House::new(limits.into(), models.clone());
    let before = resident();
    let mut granted = 0;
    for key in 0..5000 {
        let caller = Arc::new(Caller { key: Some(format!("k{key}").into()), ..Caller::default() });
        granted += models.iter().filter(|model| house.ask(None, Some(caller.clone()), Some(model))).count() as u64;
    }
    tell("5,000 keys x 20 models x 8 limits", &house, granted, before, 120 * MIB, 100_000)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
