//! Requests of the gateway's own: made for no client, with nobody's key, beside the requests that clients wait for.

use super::body::Body;
use super::wishes::Wishes;
use super::{Route, Trip, admit, arrive};
use crate::core::Core;
use crate::downstream::Session;
use crate::snapshot::Snapshot;
use crate::telemetry::{Record, RequestId, TraceContext};
use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use tidegate_plugins::Exchange;
use tidegate_plugins::keys::mask;
use tokio::runtime::{Builder, Handle};

/// What such requests need. The same for every version of the configuration.
#[derive(Default)]
pub struct Own {
    core: OnceLock<Weak<Core>>,
    thread: OnceLock<Option<Handle>>,
}

impl Own {
    /// From now on requests can be made.
    pub(crate) fn serve(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::downgrade(core));
    }

    /// What all requests share; none before the gateway serves.
    pub(super) fn core(&self) -> Option<Arc<Core>> {
        self.core.get()?.upgrade()
    }

    /// Does work on a thread for such requests, which is there once there is some: those that clients wait for do not
    /// share theirs with it. False if no thread can be had.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        // Of those that can hand their tasks to another thread: reading a large answer does.
        let begin = || crate::outbound::thread("shadows", Builder::new_multi_thread().worker_threads(1));
        let thread = self.thread.get_or_init(begin);
        thread.as_ref().map(|handle| drop(handle.spawn(work))).is_some()
    }
}

/// A trip for a request whose body is whole and which has no client.
pub(super) fn trip<'a>(core: &'a Core, snapshot: Arc<Snapshot>, session: &mut Session, exchange: Exchange) -> Trip<'a> {
    let everybody = snapshot.clone();
    let mut trip = arrive::begin(core, snapshot, session, &everybody.clients);
    let head = exchange.head();
    let id = RequestId::accept(Some(exchange.id().as_bytes()));
    trip.record = Record::new(id, TraceContext::accept(None), head.method.clone(), &head.path);
    arrive::watch(&trip.snapshot, &mut trip.record);
    trip.record.endpoint = exchange.endpoint().as_str();
    trip.record.operation = exchange.endpoint().gen_ai_operation();
    trip.record.stream = exchange.wants_stream();
    trip.record.model_asked = exchange.model().map(|model| mask(arrive::short(model)).into());
    trip.asked = exchange.model().cloned();
    (trip.voice, trip.known, trip.body) = (exchange.endpoint(), true, Body::Whole);
    (trip.wishes, trip.patience) = (Wishes::of(exchange.headers()), arrive::client_patience(exchange.headers()));
    trip.exchange = exchange;
    trip
}

/// Makes it what the backends of `route` are asked.
pub(super) fn dress(trip: &mut Trip<'_>, route: &Route) {
    admit::dress(trip, route);
    trip.record.model_served = trip.exchange.model().map(|model| mask(route.served(model)).into());
}
