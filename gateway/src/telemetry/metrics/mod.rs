//! Metrics: named fields of one struct, in a registry of their own.
//!
//! Labelled metrics are resolved once, when a configuration is put together: [`Metrics::series`] for a route and its
//! pool, [`Metrics::backend`] for a backend. What a request then costs is atomic additions. [`Metrics::retain`] forgets
//! what a reload removed.

mod build;
mod family;
mod filters;
mod house;
mod list;
mod live;
mod sets;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};

pub use family::IntCounter;
pub use filters::{FilterSeries, Judged, Laps};
pub use house::{Purpose, ReloadBy, ReloadOutcome, Runtime, Runtimes, TraceSeries, Traced, UpgradeOutcome};
pub use list::documentation;
pub use sets::{
    BackendFault, BackendSeries, BadHead, HedgeOutcome, InFlight, QueueSeries, ResumeOutcome, RetryCause, Series,
    ShadowDrop, ShadowSeries, ShedReason,
};

use super::record::Record;
use build::Builder;
use family::{AmountVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Labels, Written};
use tidegate_config::Urgency;

/// The route of a request that has none (yet): an unknown model or path.
pub const OTHER_ROUTE: &str = "other";
/// The pool of a request that the gateway answered without one.
pub const NO_POOL: &str = "none";

/// Every metric of the gateway. What has labels is reached through [`Series`], [`BackendSeries`] and the methods.
pub struct Metrics {
    /// Open client connections.
    pub connections: IntGauge,
    /// Client connections accepted.
    pub connections_total: IntCounter,
    /// Client connections closed at once because there were too many.
    pub connections_refused_total: IntCounter,
    /// Requests that are not over, those without a route included.
    pub in_flight: IntGauge,
    /// 1 once the process has begun to drain.
    pub draining: IntGauge,
    /// Log lines that were lost.
    pub log_lines_dropped_total: IntCounter,
    /// Requests that leave no line, as `log.sample` wants it.
    pub log_requests_left_out_total: IntCounter,
    /// Requests that ended in a panic.
    pub panics_total: IntCounter,

    /// Requests whose trace waits for the collector.
    pub traces_waiting: IntGauge,

    /// Memory by what it is for.
    memory: [IntGauge; Purpose::ALL.len()],
    /// Tasks, and those of them that wait for a thread.
    tasks: [[IntGauge; 2]; Runtime::ALL.len()],

    traces: [IntCounter; Traced::ALL.len()],
    reloads: [[IntCounter; ReloadOutcome::ALL.len()]; ReloadBy::ALL.len()],
    upgrades: [IntCounter; UpgradeOutcome::ALL.len()],
    bad_requests: [IntCounter; BadHead::ALL.len()],
    shed: [[IntCounter; ShedReason::ALL.len()]; Urgency::ALL.len()],
    config_last_reload_successful: IntGauge,
    config_last_reload_timestamp_seconds: IntGauge,
    config_info: IntGaugeVec,
    families: Families,
    ours: Vec<Box<dyn Written>>,
    /// What others collect: the process, and what filters and the store count.
    others: Registry,
    /// Bytes of the last page.
    size: AtomicUsize,
}

/// The metrics by route and pool or by backend, before they are resolved.
struct Families {
    duration: HistogramVec,
    time_to_first_token: HistogramVec,
    time_per_token: HistogramVec,
    token_usage: HistogramVec,
    requests: IntCounterVec,
    failures: IntCounterVec,
    retries: IntCounterVec,
    retries_refused: IntCounterVec,
    filter_seconds: HistogramVec,
    filter_verdicts: IntCounterVec,
    fallbacks: IntCounterVec,
    hedges: IntCounterVec,
    resumes: IntCounterVec,
    overhead: HistogramVec,
    cost: AmountVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    route_in_flight: IntGaugeVec,
    shadow_requests: IntCounterVec,
    shadow_dropped: IntCounterVec,
    shadow_in_flight: IntGaugeVec,
    shadow_duration: HistogramVec,
    shadow_first_token: HistogramVec,
    shadow_tokens: IntCounterVec,
    queue_waiting: IntGaugeVec,
    queue_wait: HistogramVec,
    queue_outcomes: IntCounterVec,
    backend_up: IntGaugeVec,
    backend_in_flight: IntGaugeVec,
    backend_attempts: IntCounterVec,
    backend_requests: IntCounterVec,
    backend_errors: IntCounterVec,
    backend_connections: IntCounterVec,
    backend_draining: IntGaugeVec,
    backend_breaker: IntGaugeVec,
    backend_breaker_opened: IntCounterVec,
    backend_picks: IntCounterVec,
    backend_capacity: IntGaugeVec,
    backend_readings: IntCounterVec,
    certificate_loads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    #[expect(clippy::new_without_default, reason = "one is made, at start; it starts collecting about the process")]
    pub fn new() -> Self {
        let build = Builder::default();
        let bad_requests = build.counters(&list::BAD_REQUESTS);
        let shed = build.counters(&list::SHED);
        let reloads = build.counters(&list::CONFIG_RELOADS);
        let traces = build.counters(&list::TRACES);
        let upgrades = build.counters(&list::UPGRADES);
        let memory = build.gauges(&list::MEMORY);
        let (tasks, waiting) = (build.gauges(&list::TASKS), build.gauges(&list::TASKS_WAITING));
        build.gauges(&list::BUILD_INFO).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            connections: build.gauge(&list::CONNECTIONS),
            connections_total: build.counter(&list::CONNECTIONS_TOTAL),
            connections_refused_total: build.counter(&list::CONNECTIONS_REFUSED),
            in_flight: build.gauge(&list::IN_FLIGHT),
            draining: build.gauge(&list::DRAINING),
            log_requests_left_out_total: build.counter(&list::LOG_LEFT_OUT),
            log_lines_dropped_total: build.counter(&list::LOG_LINES_DROPPED),
            panics_total: build.counter(&list::PANICS),
            traces_waiting: build.gauge(&list::TRACES_WAITING),
            traces: Traced::ALL.map(|outcome| traces.with_label_values(&[outcome.label()])),
            memory: Purpose::ALL.map(|purpose| memory.with_label_values(&[purpose.label()])),
            tasks: Runtime::ALL.map(|of| [&tasks, &waiting].map(|family| family.with_label_values(&[of.label()]))),
            reloads: ReloadBy::ALL
                .map(|by| ReloadOutcome::ALL.map(|outcome| reloads.with_label_values(&[by.label(), outcome.label()]))),
            upgrades: UpgradeOutcome::ALL.map(|outcome| upgrades.with_label_values(&[outcome.label()])),
            bad_requests: BadHead::ALL.map(|reason| bad_requests.with_label_values(&[reason.label()])),
            shed: Urgency::ALL.map(|urgency| {
                ShedReason::ALL.map(|reason| shed.with_label_values(&[urgency.as_str(), reason.label()]))
            }),
            config_last_reload_successful: build.gauge(&list::CONFIG_SUCCESSFUL),
            config_last_reload_timestamp_seconds: build.gauge(&list::CONFIG_TIME),
            config_info: build.gauges(&list::CONFIG_INFO),
            families: Families::new(&build),
            ours: build.finish(),
            others: others(),
            size: AtomicUsize::new(0),
        }
    }

    /// The metrics of one route and pool, for one configuration. The same names give the same counters.
    pub fn series(&self, route: &str, pool: &str) -> Arc<Series> {
        Arc::new(Series::new(&self.families, route, pool))
    }

    /// The metrics of one filter, by its name among all of one configuration. The same name gives the same counters.
    pub fn filter(&self, name: &str) -> FilterSeries {
        FilterSeries::new(&self.families, name)
    }

    /// The metrics of one backend, for one configuration. The same names give the same counters.
    pub fn backend(&self, pool: &str, backend: &str) -> Arc<BackendSeries> {
        Arc::new(BackendSeries::new(&self.families, pool, backend))
    }

    /// The metrics of a pool's queue. The same name gives the same counters.
    pub fn queue(&self, pool: &str) -> Arc<QueueSeries> {
        Arc::new(QueueSeries::new(&self.families, pool))
    }

    /// The metrics of a shadow at its pool. The same names give the same counters.
    pub fn shadow(&self, shadow: &str, pool: &str) -> ShadowSeries {
        ShadowSeries::new(&self.families, shadow, pool)
    }

    /// Counts a request that the gateway's own limits refuse.
    pub fn shed(&self, urgency: Urgency, reason: ShedReason) {
        self.shed[urgency as usize][reason as usize].inc();
    }

    /// Counts one request that is over.
    pub fn observe(&self, series: &Series, record: &Record) {
        series.observe(&self.families, record);
    }

    /// Counts a request head that could not be read.
    pub fn bad_request(&self, reason: BadHead) {
        self.bad_requests[reason as usize].inc();
    }

    /// A configuration is in use from now on; `hash` names it.
    pub fn config_loaded(&self, hash: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.config_last_reload_timestamp_seconds.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.config_last_reload_successful.set(1);
        self.config_info.retain(|_| false);
        self.config_info.with_label_values(&[hash]).set(1);
    }

    /// A configuration was refused; the one before stays in use.
    pub fn config_refused(&self) {
        self.config_last_reload_successful.set(0);
    }

    /// Forgets the routes and backends that are not named: (route, pool) and (pool, backend).
    /// `other` and `none` always stay.
    pub fn retain(&self, routes: &[(&str, &str)], backends: &[(&str, &str)]) {
        self.families.retain(routes, backends);
    }

    /// Forgets the filters that are not named.
    pub fn retain_filters(&self, names: &[&str]) {
        let keep = |labels: &Labels<'_>| names.contains(&labels["filter"]);
        self.families.filter_seconds.retain(keep);
        self.families.filter_verdicts.retain(keep);
    }

    /// Also shows what somebody else collects; see the end of the list for the names.
    ///
    /// # Errors
    /// If its names are taken.
    pub fn also(&self, collector: Box<dyn prometheus::core::Collector>) -> prometheus::Result<()> {
        self.others.register(collector)
    }

    /// Everything, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut page = String::with_capacity(self.size.load(Relaxed));
        self.ours.iter().for_each(|family| family.write(&mut page));
        page.push_str(&TextEncoder::new().encode_to_string(&self.others.gather()).unwrap_or_default());
        // And a little more, for the numbers that will be longer.
        self.size.store(page.len() + page.len() / 16, Relaxed);
        page
    }
}

/// Where others are collected, the process first.
fn others() -> Registry {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self())).expect("nobody else has been here");
    registry
}

impl Families {
    fn new(build: &Builder) -> Self {
        Self {
            duration: build.histograms(&list::DURATION),
            time_to_first_token: build.histograms(&list::TIME_TO_FIRST_TOKEN),
            time_per_token: build.histograms(&list::TIME_PER_TOKEN),
            token_usage: build.histograms(&list::TOKEN_USAGE),
            requests: build.counters(&list::REQUESTS),
            failures: build.counters(&list::FAILURES),
            retries: build.counters(&list::RETRIES),
            retries_refused: build.counters(&list::RETRIES_REFUSED),
            filter_seconds: build.histograms(&list::FILTER_SECONDS),
            filter_verdicts: build.counters(&list::FILTER_VERDICTS),
            fallbacks: build.counters(&list::FALLBACKS),
            hedges: build.counters(&list::HEDGES),
            resumes: build.counters(&list::RESUMES),
            cost: build.amounts(&list::COST),
            overhead: build.histograms(&list::OVERHEAD_SECONDS),
            request_bytes: build.counters(&list::REQUEST_BYTES),
            response_bytes: build.counters(&list::RESPONSE_BYTES),
            route_in_flight: build.gauges(&list::ROUTE_IN_FLIGHT),
            shadow_requests: build.counters(&list::SHADOW_REQUESTS),
            shadow_dropped: build.counters(&list::SHADOW_DROPPED),
            shadow_in_flight: build.gauges(&list::SHADOW_IN_FLIGHT),
            shadow_duration: build.histograms(&list::SHADOW_DURATION),
            shadow_first_token: build.histograms(&list::SHADOW_FIRST_TOKEN),
            shadow_tokens: build.counters(&list::SHADOW_TOKENS),
            queue_waiting: build.gauges(&list::QUEUE_WAITING),
            queue_wait: build.histograms(&list::QUEUE_WAIT),
            queue_outcomes: build.counters(&list::QUEUE_OUTCOMES),
            backend_up: build.gauges(&list::BACKEND_UP),
            backend_in_flight: build.gauges(&list::BACKEND_IN_FLIGHT),
            backend_attempts: build.counters(&list::BACKEND_ATTEMPTS),
            backend_requests: build.counters(&list::BACKEND_REQUESTS),
            backend_errors: build.counters(&list::BACKEND_ERRORS),
            backend_connections: build.counters(&list::BACKEND_CONNECTIONS),
            backend_draining: build.gauges(&list::BACKEND_DRAINING),
            backend_breaker: build.gauges(&list::BACKEND_BREAKER),
            backend_breaker_opened: build.counters(&list::BACKEND_BREAKER_OPENED),
            backend_picks: build.counters(&list::BACKEND_PICKS),
            backend_capacity: build.gauges(&list::BACKEND_CAPACITY),
            certificate_loads: build.counters(&list::CERTIFICATE_LOADS),
            certificate_expiry: build.gauges(&list::CERTIFICATE_EXPIRY),
            backend_readings: build.counters(&list::BACKEND_READINGS),
        }
    }

    fn retain(&self, routes: &[(&str, &str)], backends: &[(&str, &str)]) {
        let (routes, backends): (HashSet<_>, HashSet<_>) = (routes.iter().collect(), backends.iter().collect());
        let route = |labels: &Labels<'_>| {
            let pair = (labels["route"], labels["pool"]);
            pair.0 == OTHER_ROUTE || routes.contains(&pair)
        };
        for family in
            [&self.duration, &self.time_to_first_token, &self.time_per_token, &self.token_usage, &self.overhead]
        {
            family.retain(route);
        }
        let counters = [&self.requests, &self.failures, &self.retries, &self.retries_refused];
        let bytes = [&self.request_bytes, &self.response_bytes];
        for family in counters.into_iter().chain([&self.fallbacks, &self.hedges, &self.resumes]).chain(bytes) {
            family.retain(route);
        }
        self.route_in_flight.retain(route);
        self.cost.retain(route);

        let pools: HashSet<_> = backends.iter().map(|(pool, _)| *pool).collect();
        let pool = |labels: &Labels<'_>| pools.contains(labels["pool"]);
        self.queue_waiting.retain(pool);
        self.queue_wait.retain(pool);
        self.queue_outcomes.retain(pool);
        self.shadow_in_flight.retain(pool);
        self.shadow_duration.retain(pool);
        self.shadow_first_token.retain(pool);
        for family in [&self.shadow_requests, &self.shadow_dropped, &self.shadow_tokens] {
            family.retain(pool);
        }

        let backend = |labels: &Labels<'_>| backends.contains(&(labels["pool"], labels["backend"]));
        for family in [
            &self.backend_up,
            &self.backend_in_flight,
            &self.backend_draining,
            &self.backend_breaker,
            &self.backend_capacity,
        ] {
            family.retain(backend);
        }
        for family in [
            &self.backend_attempts,
            &self.backend_requests,
            &self.backend_errors,
            &self.backend_connections,
            &self.backend_breaker_opened,
            &self.backend_picks,
            &self.backend_readings,
        ] {
            family.retain(backend);
        }
    }
}

#[cfg(test)]
mod tests;
