//! How the house stands, as probes, operators and Prometheus are told: whether it is ready, how its pools are, and what its
//! memory is used for.

use crate::admin::House;
use crate::core::Core;
use crate::telemetry::Purpose;
use crate::upstream::Backend;
use crate::upstream::discovery::Discovery;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidegate_plugins::records::State;

impl Core {
    /// Says in the metrics how many requests wait for the collector.
    #[cfg(feature = "otlp")]
    fn weigh_traces(&self) {
        let (waiting, bytes) = self.traces.waiting();
        self.metrics.traces_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.holds(Purpose::Traces, bytes);
    }

    /// Says in the metrics what memory is used for.
    fn weigh(&self) {
        let shared = self.snapshot.load().shared.clone();
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        for (purpose, bytes) in [
            (Purpose::Bodies, self.bodies.taken()),
            (Purpose::Connections, self.connections.now() * self.connection_size.load(Ordering::Relaxed)),
            (Purpose::Cache, bytes(shared.caches.load().0)),
            (Purpose::Idempotency, shared.kept.size().1),
            (Purpose::Recordings, bytes(shared.flights.recorded())),
            (Purpose::Recent, self.recent.size().1),
            (Purpose::Records, shared.records.all().iter().map(|sink| sink.state().bytes).sum()),
            (Purpose::Usage, self.keeper.as_ref().map_or(0, |keeper| bytes(keeper.usages().waiting()))),
        ] {
            self.metrics.holds(purpose, bytes);
        }
    }
}

impl House for Core {
    fn ready(&self) -> Result<Vec<String>, String> {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        let snapshot = self.snapshot.load();
        let down = snapshot.pools.iter().filter(|pool| !pool.serves()).map(|pool| pool.name.to_string());
        let down: Vec<_> = down.collect();
        // One broken pool is no reason to take from clients what the others serve.
        match down.len() < snapshot.pools.len() {
            true => Ok(down),
            false => Err(format!("no pool has a backend that is up: {}", down.join(", "))),
        }
    }

    fn health(&self) -> serde_json::Value {
        let snapshot = self.snapshot.load();
        let pools: serde_json::Map<_, _> = snapshot
            .pools
            .iter()
            .map(|pool| {
                let about = |backend: &Arc<Backend>| (backend.settings.name.to_string(), backend.describe());
                let mut backends: serde_json::Map<_, _> = pool.backends().iter().map(about).collect();
                for backend in pool.discovery.iter().flat_map(Discovery::leaving) {
                    let mut leaving = backend.describe();
                    leaving["state"] = json!("leaving");
                    backends.insert(backend.settings.name.to_string(), leaving);
                }
                let panicking = pool.panicking.load(Ordering::Relaxed);
                (pool.name.to_string(), json!({ "up": pool.is_up(), "panicking": panicking, "backends": backends }))
            })
            .collect();
        let ready = self.ready();
        let of_sink = |State { name, waiting, fault, .. }: State| {
            (name.to_string(), json!({ "up": fault.is_none(), "reason": fault, "waiting": waiting }))
        };
        let sinks = snapshot.shared.records.all();
        let records: serde_json::Map<_, _> = sinks.iter().map(|sink| of_sink(sink.state())).collect();
        json!({
            "ready": ready.is_ok(),
            "down": ready.as_ref().map_or(&[][..], |down| &down[..]),
            "reason": ready.as_ref().err(),
            "config": snapshot.hash,
            "requests_in_flight": self.requests.now(),
            "connections": self.connections.now(),
            "pools": pools,
            "records": records,
        })
    }

    fn metrics(&self) -> String {
        for backend in self.snapshot.load().pools.iter().flat_map(|pool| pool.backends()) {
            let capacity = backend.capacity().map_or(-1, |capacity| i64::try_from(capacity).unwrap_or(i64::MAX));
            backend.series.capacity.set(capacity);
            backend.series.breaker.set(backend.breakers.worst().0 as i64);
        }
        self.metrics.connections.set(i64::try_from(self.connections.now()).unwrap_or(i64::MAX));
        self.runtimes.count(&self.metrics);
        self.weigh();
        #[cfg(feature = "otlp")]
        self.weigh_traces();
        self.metrics.draining.set(i64::from(self.is_draining()));
        self.metrics.render()
    }
}
