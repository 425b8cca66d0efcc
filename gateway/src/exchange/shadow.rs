//! Copies of requests, whose answers are read to their end and are for nobody.
//!
//! A copy is taken of what its client sent, before that is dressed for its own backend, and shares the bytes of its body.
//! It is sent when the request itself is, on a thread of its own, by one attempt that waits for no place, with the
//! credentials of the backend that gets it and none of the caller's. Nothing of it is retried, hedged, cached, charged or
//! counted as anybody's; the end of the process does not wait for it.

use super::body::Body;
use super::{Route, Session, Trip, answer, fetch, finish, own, relay};
use crate::core::Core;
use crate::snapshot::Snapshot;
use crate::telemetry::{InFlight, RequestId, ShadowDrop, ShadowSeries, TraceContext};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tidegate_config::Urgency;
use tidegate_plugins::Exchange;
use tidegate_plugins::shadow::{Full, Shadow, Slot};

use super::budget::Share;

/// The metrics of shadows, by name and pool, each resolved when it is first used.
#[derive(Default)]
pub struct ShadowMetrics(RwLock<HashMap<Place, Arc<ShadowSeries>>>);

/// A shadow and its pool.
type Place = (Arc<str>, Arc<str>);

impl ShadowMetrics {
    fn of(&self, core: &Core, shadow: &Shadow, pool: &Arc<str>) -> Arc<ShadowSeries> {
        let key = (shadow.name.clone(), pool.clone());
        if let Some(series) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return series.clone();
        }
        let series = Arc::new(core.metrics.shadow(&shadow.name, pool));
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(series).clone()
    }
}

/// A copy that is to be sent.
pub(super) struct Copied {
    shadow: Arc<Shadow>,
    snapshot: Arc<Snapshot>,
    exchange: Exchange,
    route: Route,
    series: Arc<ShadowSeries>,
    id: RequestId,
    trace: TraceContext,
    share: Share,
    memory: usize,
    _slot: Slot,
}

/// Takes the copies that filters want, as far as there is room for them.
pub(super) fn take(trip: &mut Trip<'_>) -> Vec<Copied> {
    let wanted = trip.exchange.take_copies();
    if wanted.is_empty() || !matches!(trip.body, Body::Whole) {
        return Vec::new();
    }
    wanted.into_iter().filter_map(|shadow| copy(trip, shadow)).collect()
}

fn copy(trip: &Trip<'_>, shadow: Arc<Shadow>) -> Option<Copied> {
    let snapshot = trip.snapshot.clone();
    let model = snapshot.models.resolve(&shadow.model)?;
    let mut route = Route::of_model(model, model.target());
    route.hedging = None;
    route.timeouts.total = route.timeouts.total.min(shadow.time);
    let series = snapshot.shadows.of(trip.core, &shadow, &route.pool.name);
    let bytes = trip.exchange.body().len();
    let slot = shadow.enter(bytes as u64).map_err(|full| match full {
        Full::Copies => ShadowDrop::InFlight,
        Full::Bytes => ShadowDrop::Bytes,
    });
    // Copies are the first that there is no memory for.
    let (mut share, memory) = (trip.core.bodies.share(), snapshot.limits.bodies_for(Urgency::Batch));
    let slot = slot.and_then(|slot| if share.grow(bytes, memory) { Ok(slot) } else { Err(ShadowDrop::Memory) });
    let slot = slot.map_err(|why| series.dropped(why)).ok()?;
    let mut exchange = trip.exchange.again(trip.exchange.id().clone());
    exchange.send_to(shadow.model.clone());
    let (id, trace) = (trip.record.request_id.clone(), trip.record.trace);
    Some(Copied { shadow, snapshot, exchange, route, series, id, trace, share, memory, _slot: slot })
}

/// Sends copies, and does not wait for them.
pub(super) fn send(trip: &Trip<'_>, copies: Vec<Copied>) {
    for copied in copies {
        let Some(core) = trip.snapshot.own.core() else { return };
        if !trip.snapshot.own.spawn(async move { run(&core, copied).await }) {
            tracing::error!("no thread can be had to send copies of requests on");
        }
    }
}

async fn run(core: &Core, copied: Copied) {
    let Copied { shadow, snapshot, exchange, route, series, id, trace, share, memory, _slot } = copied;
    let _under_way = InFlight::new(&series.in_flight);
    let mut session = Session::nobody();
    let mut trip = own::trip(core, snapshot, &mut session, exchange);
    (trip.record.event, trip.record.request_id, trip.record.trace) = ("shadow", id, trace);
    (trip.shadow, trip.share, trip.memory) = (true, share, memory);
    trip.exchange.note("shadow", &*shadow.name);
    own::dress(&mut trip, &route);
    trip.route = Some(route.clone());
    let road = async {
        let fetched = fetch::once(&mut session, &mut trip, &route).await?;
        relay::relay(&mut session, &mut trip, fetched).await
    };
    let answered = match road.await {
        Ok(answered) => answered,
        Err(fault) => answer::fault(&mut session, &mut trip, fault).await,
    };
    finish::close(&mut trip, answered);
    trip.record.notes = trip.exchange.take_notes();
    series.observe(&trip.record);
    core.log.request(&trip.record, route.name(), &route.pool.name);
}
