//! The metrics as the page shows them: added up by route, by pool and by backend. Reads what a scrape reads.

use super::family::{Family, Histogram};
use super::{Metrics, list};
use crate::telemetry::live::{BackendNow, Bounds, Counts, Live, RouteNow, Spread};
use prometheus::proto::{Metric, MetricFamily};
use std::collections::BTreeMap;

/// The value of the label `name`.
fn label<'a>(metric: &'a Metric, name: &str) -> Option<&'a str> {
    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value())
}

fn value(metric: &Metric) -> f64 {
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

fn seen(histogram: &Histogram) -> Spread {
    let (buckets, sum) = histogram.so_far();
    Spread { buckets, sum }
}

/// What others collect, by name.
struct Gathered(Vec<MetricFamily>);

impl Gathered {
    fn rows(&self, name: &str) -> &[Metric] {
        self.0.iter().find(|family| family.name() == name).map_or(&[], |family| family.get_metric())
    }

    fn sum(&self, name: &str) -> f64 {
        self.rows(name).iter().map(value).sum()
    }

    /// Added up by the label `by`.
    fn by(&self, name: &str, by: &str) -> Counts {
        let mut counts = Counts::new();
        for row in self.rows(name) {
            *counts.entry(label(row, by).unwrap_or_default().to_owned()).or_default() += value(row) as u64;
        }
        counts
    }
}

impl Metrics {
    /// Fills in what the metrics know of now. The pools and backends of `live` are those it has already.
    pub fn tell(&self, live: &mut Live) {
        live.bounds = Bounds {
            duration: list::REQUEST.to_vec(),
            first_token: list::FIRST_TOKEN.to_vec(),
            overhead: list::OVERHEAD.to_vec(),
            queue: list::QUEUED.to_vec(),
        };
        self.tell_routes(live);
        self.tell_pools(live);
        self.tell_others(live);
    }

    fn tell_routes(&self, live: &mut Live) {
        let (families, routes) = (&self.families, &mut live.routes);
        let mut of = |family: &Family<Histogram>, at: usize, spread: fn(&mut RouteNow) -> &mut Spread| {
            family.each(|labels, cell| spread(route(routes, &labels[at])).add(&seen(cell)));
        };
        of(&families.duration, 2, |route| &mut route.duration);
        of(&families.time_to_first_token, 2, |route| &mut route.first_token);
        families.requests.each(|labels, count| route(routes, &labels[0]).requests += count.get());
        families.failures.each(|labels, count| add(&mut route(routes, &labels[0]).failures, &labels[2], count.get()));
        families.token_usage.each(|labels, tokens| {
            add(&mut route(routes, &labels[2]).tokens, &labels[4], tokens.so_far().1 as u64);
        });
        families.cost.each(|labels, cost| route(routes, &labels[0]).cost += cost.get());
        families.route_in_flight.each(|labels, now| {
            route(routes, &labels[0]).in_flight += u64::try_from(now.get()).unwrap_or(0);
        });
        // Who has never asked for what is no route need not be told of it.
        routes.retain(|name, route| name != super::OTHER_ROUTE || route.requests > 0);
        families.overhead.each(|_, cell| live.overhead.add(&seen(cell)));
    }

    fn tell_pools(&self, live: &mut Live) {
        let (families, pools) = (&self.families, &mut live.pools);
        families.queue_waiting.each(|labels, now| {
            if let Some(pool) = pools.get_mut(&*labels[0]) {
                pool.queue.waiting = u64::try_from(now.get()).unwrap_or(0);
            }
        });
        families.queue_wait.each(|labels, cell| {
            if let Some(pool) = pools.get_mut(&*labels[0]) {
                pool.queue.wait.add(&seen(cell));
            }
        });
        families.queue_outcomes.each(|labels, count| {
            if let Some(pool) = pools.get_mut(&*labels[0]) {
                add(&mut pool.queue.outcomes, &labels[1], count.get());
            }
        });
        let mut backend = |labels: &[Box<str>], tell: &dyn Fn(&mut BackendNow)| {
            if let Some(backend) = pools.get_mut(&*labels[0]).and_then(|pool| pool.backends.get_mut(&*labels[1])) {
                tell(backend);
            }
        };
        families.backend_attempts.each(|labels, count| backend(labels, &|backend| backend.attempts += count.get()));
        families.backend_requests.each(|labels, count| backend(labels, &|backend| backend.requests += count.get()));
        families.backend_errors.each(|labels, count| {
            if count.get() > 0 {
                backend(labels, &|backend| add(&mut backend.errors, &labels[2], count.get()));
            }
        });
    }

    fn tell_others(&self, live: &mut Live) {
        let others = Gathered(self.others.gather());
        live.memory = others.sum("process_resident_memory_bytes") as u64;
        live.cpu_seconds = others.sum("process_cpu_seconds_total");
        let cache = &mut live.cache;
        cache.bytes = others.sum(list::CACHE_BYTES.name) as u64;
        cache.answers = others.sum(list::CACHE_ENTRIES.name) as u64;
        cache.requests = others.by(list::CACHE_REQUESTS.name, "outcome");
        cache.saved_tokens = others.sum(list::CACHE_SAVED.name) as u64;
        cache.saved_cost = others.sum(list::CACHE_SAVED_COST.name);
        cache.flights = others.by(list::FLIGHT_REQUESTS.name, "outcome");
        cache.idempotency = others.by(list::IDEMPOTENCY_REQUESTS.name, "outcome");
    }
}

fn route<'a>(routes: &'a mut BTreeMap<String, RouteNow>, name: &str) -> &'a mut RouteNow {
    routes.entry(name.to_owned()).or_default()
}

fn add(counts: &mut Counts, name: &str, count: u64) {
    *counts.entry(name.to_owned()).or_default() += count;
}
