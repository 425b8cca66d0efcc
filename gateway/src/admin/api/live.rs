//! `/admin/live`: what is going on now. It is asked for each second by whoever looks, and made at most four times in one.

use super::super::routes::JSON;
use crate::admin::House;
use crate::core::Core;
use crate::telemetry::live::{BackendNow, LimitNow, Limited, Live, PoolNow};
use crate::upstream::Pool;
use crate::upstream::discovery::Discovery;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_plugins::filters::limits::LimitView;
use tidegate_plugins::spenders::{By, Of, Window};

/// For how long everybody is told the same.
const FRESH: Duration = Duration::from_millis(250);

/// How many of those whom limits refuse are named, of each kind.
const LIMITED: usize = 8;

/// What was told last, and when.
type Last = Arc<Mutex<Option<(Instant, Bytes)>>>;

pub(super) fn routes() -> Router<Arc<Core>> {
    let (began, last) = (Instant::now(), Last::default());
    let tell = async move |State(core): State<Arc<Core>>| -> Response {
        ([(CONTENT_TYPE, JSON)], told(&core, began, &last)).into_response()
    };
    Router::new().route("/admin/live", get(tell))
}

fn told(core: &Core, began: Instant, last: &Last) -> Bytes {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, bytes)) = &*last
        && at.elapsed() < FRESH
    {
        return bytes.clone();
    }
    let bytes = Bytes::from(serde_json::to_vec(&now(core, began)).unwrap_or_default());
    *last = Some((Instant::now(), bytes.clone()));
    bytes
}

fn now(core: &Core, began: Instant) -> Live {
    let snapshot = core.snapshot.load();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let reason = core.ready().err();
    let mut live = Live {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        uptime_ms: millis(began.elapsed()),
        config: snapshot.hash.clone(),
        ready: reason.is_none(),
        reason,
        draining: core.is_draining(),
        connections: core.connections.now() as u64,
        in_flight: core.requests.now() as u64,
        currency: snapshot.prices.currency().to_owned(),
        pools: snapshot.pools.iter().map(|pool| (pool.name.to_string(), told_pool(pool))).collect(),
        limits: snapshot.views.limits().iter().map(told_limit).collect(),
        limited: limited(core),
        ..Live::default()
    };
    core.metrics.tell(&mut live);
    live
}

fn told_pool(pool: &Pool) -> PoolNow {
    let about = |described: Value, state: Option<&str>| {
        let text = |name: &str| described[name].as_str().unwrap_or_default().to_owned();
        BackendNow {
            state: state.map_or_else(|| text("state"), str::to_owned),
            in_flight: described["in_flight"].as_u64().unwrap_or(0),
            max_in_flight: described["max_in_flight"].as_u64(),
            breaker: text("breaker"),
            cache_used: described["cache_used"].as_f64(),
            ..BackendNow::default()
        }
    };
    let mut backends: BTreeMap<_, _> = pool
        .backends()
        .iter()
        .map(|backend| (backend.settings.name.to_string(), about(backend.describe(), None)))
        .collect();
    for backend in pool.discovery.iter().flat_map(Discovery::leaving) {
        backends.insert(backend.settings.name.to_string(), about(backend.describe(), Some("leaving")));
    }
    PoolNow { up: pool.is_up(), panicking: pool.panicking.load(Ordering::Relaxed), backends, ..PoolNow::default() }
}

fn told_limit(limit: &LimitView) -> LimitNow {
    let decisions = serde_json::to_value(&limit.decisions).and_then(serde_json::from_value).unwrap_or_default();
    LimitNow {
        limit: limit.limit.clone(),
        per: limit.per.clone(),
        kind: limit.kind.to_owned(),
        allows: limit.allows.clone(),
        shadow: limit.shadow,
        subjects: limit.subjects,
        decisions,
    }
}

/// Who was refused most lately, the most refused first.
fn limited(core: &Core) -> Vec<Limited> {
    let snapshot = core.snapshot.load();
    let mut all = Vec::new();
    for (by, kind) in [(By::Key, "key"), (By::User, "user"), (By::Org, "org")] {
        let top = snapshot.shared.spenders.top(by, Window::FiveMinutes, Of::Limited, LIMITED);
        all.extend(top.spenders.iter().map(|spender| Limited {
            by: kind.to_owned(),
            name: spender.name().to_owned(),
            org: spender.org().map(str::to_owned),
            limited: spender.spent[Of::Limited as usize],
            requests: spender.spent[Of::Requests as usize],
        }));
    }
    all.sort_by_key(|one| std::cmp::Reverse(one.limited));
    all
}
