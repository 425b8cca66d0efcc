//! Metrics with their labels resolved: what a request touches is atomics only.
//!
//! What every route has is made at once, so that its counters are seen at zero. The combinations that most routes never
//! see (a status class with a cause, an operation) are made the first time they happen, and are found by index after.

use std::sync::OnceLock;

use super::Families;
use super::family::{Amount, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use crate::telemetry::record::{Cause, Record};
use crate::upstream::breaker::Opened;
use tidegate_config::FallbackOn;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const CAUSES: usize = Cause::ALL.len();
const TOKEN_TYPES: [&str; 4] = ["input", "output", "cached_input", "reasoning"];

/// What a request may be for. The last stands for all others.
const OPERATIONS: [&str; 12] = [
    "chat",
    "text_completion",
    "embeddings",
    "rerank",
    "count_tokens",
    "tokenize",
    "detokenize",
    "models",
    "audio",
    "images",
    "realtime",
    "other",
];

/// Status class and cause of the requests nearly every route sees.
const COMMON: [(usize, Cause); 2] = [(1, Cause::None), (4, Cause::UpstreamError)];

/// The metrics of one route and pool.
pub struct Series {
    /// Requests under way: hold an [`InFlight`] of it.
    pub in_flight: IntGauge,
    /// What its requests cost.
    pub cost: Amount,
    route: Box<str>,
    pool: Box<str>,
    requests: [[OnceLock<IntCounter>; CAUSES]; CLASSES.len()],
    failures: [OnceLock<IntCounter>; CAUSES],
    overhead: [OnceLock<Histogram>; CLASSES.len()],
    /// Retries that the pool's budget did not have.
    pub retries_refused: IntCounter,
    retries: [IntCounter; RetryCause::ALL.len()],
    fallbacks: [IntCounter; FallbackOn::ALL.len()],
    hedges: [IntCounter; HedgeOutcome::ALL.len()],
    resumes: [OnceLock<IntCounter>; ResumeOutcome::ALL.len()],
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    operations: [OnceLock<Box<Operation>>; OPERATIONS.len()],
}

/// The metrics of one operation of a route.
#[derive(Default)]
struct Operation {
    duration: [OnceLock<Histogram>; CAUSES],
    time_to_first_token: [OnceLock<Histogram>; CAUSES],
    time_per_token: [OnceLock<Histogram>; CAUSES],
    tokens: [OnceLock<Histogram>; TOKEN_TYPES.len()],
}

impl Series {
    pub(super) fn new(families: &Families, route: &str, pool: &str) -> Self {
        let labels = [route, pool];
        let series = Self {
            in_flight: families.route_in_flight.with_label_values(&labels),
            cost: families.cost.with_label_values(&labels),
            route: route.into(),
            pool: pool.into(),
            requests: Default::default(),
            failures: Default::default(),
            overhead: Default::default(),
            retries_refused: families.retries_refused.with_label_values(&labels),
            retries: RetryCause::ALL.map(|cause| families.retries.with_label_values(&[route, pool, cause.label()])),
            fallbacks: FallbackOn::ALL.map(|why| families.fallbacks.with_label_values(&[route, pool, why.as_str()])),
            hedges: HedgeOutcome::ALL.map(|how| families.hedges.with_label_values(&[route, pool, how.label()])),
            resumes: Default::default(),
            request_bytes: families.request_bytes.with_label_values(&labels),
            response_bytes: families.response_bytes.with_label_values(&labels),
            operations: Default::default(),
        };
        for (class, cause) in COMMON {
            series.requests(families, class, cause);
        }
        for cause in &Cause::ALL[1..] {
            series.failures(families, *cause);
        }
        series
    }

    /// Requests that went on elsewhere, because of this.
    pub fn fallbacks(&self, why: FallbackOn) -> &IntCounter {
        &self.fallbacks[why as usize]
    }

    /// Second requests that ended so.
    pub fn hedges(&self, how: HedgeOutcome) -> &IntCounter {
        &self.hedges[how as usize]
    }

    /// Streams that broke and were, or were not, continued by another backend.
    pub(super) fn resumed(&self, families: &Families, how: ResumeOutcome) {
        let labels = [&*self.route, &*self.pool, how.label()];
        self.resumes[how as usize].get_or_init(|| families.resumes.with_label_values(&labels)).inc();
    }

    pub(super) fn observe(&self, families: &Families, record: &Record) {
        let class = class_of(record.status);
        self.requests(families, class, record.cause).inc();
        if record.cause != Cause::None {
            self.failures(families, record.cause).inc();
        }
        record.resumes.iter().for_each(|how| self.resumed(families, *how));
        record.retried.iter().for_each(|cause| self.retries[*cause as usize].inc());
        self.request_bytes.inc_by(record.request_bytes);
        self.response_bytes.inc_by(record.response_bytes);
        let overhead = self.overhead[class]
            .get_or_init(|| families.overhead.with_label_values(&[&*self.route, &*self.pool, CLASSES[class]]));
        overhead.observe(record.overhead.as_secs_f64());
        self.observe_operation(families, record);
    }

    fn observe_operation(&self, families: &Families, record: &Record) {
        let index = OPERATIONS.iter().position(|name| *name == record.operation).unwrap_or(OPERATIONS.len() - 1);
        let operation = self.operations[index].get_or_init(Box::default);
        let observe = |slots: &[OnceLock<Histogram>], slot: usize, family: &HistogramVec, last: &str, value: f64| {
            let labels = [OPERATIONS[index], &*self.route, &*self.route, &*self.pool, last];
            slots[slot].get_or_init(|| family.with_label_values(&labels)).observe(value);
        };
        let (cause, error) = (record.cause as usize, error_type(record.cause));
        if let Some(time) = record.time_to_first_token() {
            let (slots, family) = (&operation.time_to_first_token, &families.time_to_first_token);
            observe(slots, cause, family, error, time.as_secs_f64());
        }
        if let Some(time) = record.time_per_output_token() {
            observe(&operation.time_per_token, cause, &families.time_per_token, error, time.as_secs_f64());
        }
        let usage = record.usage.unwrap_or_default();
        let counts = [usage.prompt, usage.completion, usage.cached_prompt, usage.reasoning];
        for (kind, count) in counts.into_iter().enumerate() {
            if let Some(count) = count {
                observe(&operation.tokens, kind, &families.token_usage, TOKEN_TYPES[kind], count as f64);
            }
        }
        // The last, and the first that a scrape writes: who is in it is in all the others of that page.
        observe(&operation.duration, cause, &families.duration, error, record.duration().as_secs_f64());
    }

    fn requests(&self, families: &Families, class: usize, cause: Cause) -> &IntCounter {
        let labels = [&*self.route, &*self.pool, CLASSES[class], cause.label()];
        self.requests[class][cause as usize].get_or_init(|| families.requests.with_label_values(&labels))
    }

    fn failures(&self, families: &Families, cause: Cause) -> &IntCounter {
        let labels = [&*self.route, &*self.pool, cause.label()];
        self.failures[cause as usize].get_or_init(|| families.failures.with_label_values(&labels))
    }
}

/// The GenAI conventions leave it out where nothing went wrong: an empty label is none.
fn error_type(cause: Cause) -> &'static str {
    if cause == Cause::None { "" } else { cause.label() }
}

/// The slot of a status; what is no status is our fault.
fn class_of(status: u16) -> usize {
    match status {
        100..=599 => usize::from(status / 100 - 1),
        _ => 4,
    }
}

/// The metrics of one backend.
pub struct BackendSeries {
    /// 1 while it is offered requests.
    pub up: IntGauge,
    /// Requests it is working on: hold an [`InFlight`] of it.
    pub in_flight: IntGauge,
    /// Requests it was tried with.
    pub attempts: IntCounter,
    /// Requests it gave the answer to.
    pub requests: IntCounter,
    /// 1 while no more requests go there.
    pub draining: IntGauge,
    /// 0 while it is trusted, 1 while one request is let through to see, 2 while it is left alone.
    pub breaker: IntGauge,
    /// Requests it takes at once now; -1: however many.
    pub capacity: IntGauge,
    /// Readings of its own metrics: those that said something, and the others.
    pub readings: [IntCounter; 2],
    breaker_opened: [IntCounter; Opened::ALL.len()],
    picks: [IntCounter; PICKS.len()],
    connections_new: IntCounter,
    connections_reused: IntCounter,
    errors: [IntCounter; BackendFault::ALL.len()],
}

/// Why a backend got a request: as the balancer wanted, to see whether it is well again, or because all are used.
const PICKS: [&str; 3] = ["balanced", "probe", "panic"];

impl BackendSeries {
    pub(super) fn new(families: &Families, pool: &str, backend: &str) -> Self {
        let labels = [pool, backend];
        let connections = |kind| families.backend_connections.with_label_values(&[pool, backend, kind]);
        let error = |fault: BackendFault| families.backend_errors.with_label_values(&[pool, backend, fault.label()]);
        Self {
            up: families.backend_up.with_label_values(&labels),
            in_flight: families.backend_in_flight.with_label_values(&labels),
            attempts: families.backend_attempts.with_label_values(&labels),
            requests: families.backend_requests.with_label_values(&labels),
            draining: families.backend_draining.with_label_values(&labels),
            breaker: families.backend_breaker.with_label_values(&labels),
            capacity: families.backend_capacity.with_label_values(&labels),
            readings: ["read", "failed"].map(|how| families.backend_readings.with_label_values(&[pool, backend, how])),
            breaker_opened: Opened::ALL
                .map(|why| families.backend_breaker_opened.with_label_values(&[pool, backend, why.label()])),
            picks: PICKS.map(|how| families.backend_picks.with_label_values(&[pool, backend, how])),
            connections_new: connections("new"),
            connections_reused: connections("reused"),
            errors: BackendFault::ALL.map(error),
        }
    }

    /// Counts a connection taken for a request.
    pub fn connected(&self, reused: bool) {
        let connections = if reused { &self.connections_reused } else { &self.connections_new };
        connections.inc();
    }

    /// Counts a place taken there.
    pub fn picked(&self, probing: bool, panicking: bool) {
        let how = if probing { 1 } else { usize::from(panicking) * 2 };
        self.picks[how].inc();
    }

    /// Counts that it is left alone.
    pub fn opened(&self, why: Opened) {
        self.breaker_opened[why as usize].inc();
    }

    /// Counts something that went wrong with it.
    pub fn failed(&self, fault: BackendFault) {
        self.errors[fault as usize].inc();
    }
}

/// The metrics of a shadow's copies at its pool.
pub struct ShadowSeries {
    /// Copies under way: hold an [`InFlight`] of it.
    pub in_flight: IntGauge,
    requests: [IntCounter; CAUSES],
    dropped: [IntCounter; ShadowDrop::ALL.len()],
    duration: Histogram,
    time_to_first_token: Histogram,
    tokens: [IntCounter; TOKEN_TYPES.len()],
}

impl ShadowSeries {
    pub(super) fn new(families: &Families, shadow: &str, pool: &str) -> Self {
        let by = |family: &IntCounterVec, last: &str| family.with_label_values(&[shadow, pool, last]);
        Self {
            in_flight: families.shadow_in_flight.with_label_values(&[shadow, pool]),
            requests: Cause::ALL.map(|cause| by(&families.shadow_requests, cause.label())),
            dropped: ShadowDrop::ALL.map(|why| by(&families.shadow_dropped, why.label())),
            duration: families.shadow_duration.with_label_values(&[shadow, pool]),
            time_to_first_token: families.shadow_first_token.with_label_values(&[shadow, pool]),
            tokens: TOKEN_TYPES.map(|kind| by(&families.shadow_tokens, kind)),
        }
    }

    /// Counts one that was not sent.
    pub fn dropped(&self, why: ShadowDrop) {
        self.dropped[why as usize].inc();
    }

    /// Counts one that is over.
    pub fn observe(&self, record: &Record) {
        self.requests[record.cause as usize].inc();
        self.duration.observe(record.duration().as_secs_f64());
        if let Some(time) = record.time_to_first_token() {
            self.time_to_first_token.observe(time.as_secs_f64());
        }
        let counts = record.usage.map(|usage| [usage.prompt, usage.completion, usage.cached_prompt, usage.reasoning]);
        for (counter, count) in self.tokens.iter().zip(counts.into_iter().flatten()) {
            counter.inc_by(count.unwrap_or(0));
        }
    }
}

/// The metrics of a pool's queue.
pub struct QueueSeries {
    /// How many wait.
    pub waiting: IntGauge,
    /// How long those waited that got a place.
    pub wait: Histogram,
    /// Got a place.
    pub served: IntCounter,
    /// Not let in: too many wait.
    pub full: IntCounter,
    /// Not let in: it would have waited for longer than it can.
    pub hopeless: IntCounter,
    /// Waited for as long as it could.
    pub expired: IntCounter,
    /// Its client left.
    pub left: IntCounter,
}

impl QueueSeries {
    pub(super) fn new(families: &Families, pool: &str) -> Self {
        let outcome = |outcome| families.queue_outcomes.with_label_values(&[pool, outcome]);
        Self {
            waiting: families.queue_waiting.with_label_values(&[pool]),
            wait: families.queue_wait.with_label_values(&[pool]),
            served: outcome("served"),
            full: outcome("full"),
            hopeless: outcome("hopeless"),
            expired: outcome("expired"),
            left: outcome("left"),
        }
    }
}

/// One more while it lives.
#[must_use = "what is under way ends when this is dropped"]
pub struct InFlight(IntGauge);

impl InFlight {
    /// Counts one more under way.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$item])* $variant,)* }

        impl $name {
            /// All of them, in the order of the counters' slots.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// The label value.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

pub(super) use closed_set;

closed_set! {
    /// Which of the gateway's own limits a request was refused for.
    ShedReason {
        /// Requests at once.
        Requests = "requests",
        /// Memory for bodies.
        Bodies = "bodies",
    }
}

closed_set! {
    /// Why a copy of a request was not sent.
    ShadowDrop {
        /// As many are under way as may be.
        InFlight = "in_flight",
        /// They hold as many bytes as they may.
        Bytes = "bytes",
        /// The memory for bodies is wanted by those who wait for an answer.
        Memory = "memory",
    }
}

closed_set! {
    /// What can go wrong with a backend.
    BackendFault {
        /// The connection was refused or could not be made.
        Connect = "connect",
        /// Making the connection took too long.
        ConnectTimeout = "connect_timeout",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The connection broke before the answer's head.
        Broken = "broken",
        /// The answer broke off after its head.
        Truncated = "truncated",
        /// What it sent is not an answer.
        Malformed = "malformed",
        /// It was silent for too long.
        Timeout = "timeout",
        /// It said that it has too much to do: 429, 503 or 529.
        Overload = "overload",
        /// It refused our credentials: 401 or 403.
        Auth = "upstream_auth",
        /// Any other 5xx.
        Status = "status",
        /// An active health check failed.
        Health = "health",
        /// The tokens it counted cannot be: more than any request has.
        Usage = "usage",
    }
}

closed_set! {
    /// Why a request head could not be read.
    BadHead {
        /// Not HTTP, or broken.
        Malformed = "malformed",
        /// Two readings of where the body ends: two lengths, length and chunked, bare LF, folding.
        Framing = "framing",
        /// Larger than allowed.
        TooLarge = "too_large",
        /// More headers than allowed.
        TooManyHeaders = "too_many_headers",
        /// Not there in time.
        Timeout = "timeout",
        /// The TLS handshake failed.
        Tls = "tls",
        /// A fault in the HTTP/2 framing.
        Http2 = "http2",
        /// What a listener for proxies got instead of a header of the PROXY protocol.
        ProxyHeader = "proxy_header",
        /// Somebody who is no trusted proxy connected to a listener for proxies.
        UntrustedProxy = "untrusted_proxy",
    }
}

closed_set! {
    /// After what a request was tried again.
    RetryCause {
        /// No connection, or the request could not be sent whole.
        Connect = "connect",
        /// The connection broke before the answer.
        Lost = "lost",
        /// It took too long to begin.
        Timeout = "timeout",
        /// What came was no answer.
        Malformed = "malformed",
        /// A stream began with an error.
        ErrorEvent = "error_event",
        /// 429.
        RateLimited = "rate_limited",
        /// 503 or 529.
        Overloaded = "overloaded",
        /// Any other status.
        Status = "status",
    }
}

closed_set! {
    /// What became of a second request that was made because the first was slow.
    HedgeOutcome {
        /// It was heard first.
        Won = "won",
        /// The first was heard after all.
        Lost = "lost",
        /// It was not made: the budget was spent.
        Refused = "refused",
    }
}

closed_set! {
    /// What became of a stream that broke after its client had seen a part of it.
    ResumeOutcome {
        /// Another backend went on with it.
        Won = "won",
        /// Another backend was asked, and did not.
        Failed = "failed",
        /// There was nobody else to be asked.
        Nobody = "nobody",
        /// There was more in it than text.
        NotText = "not_text",
        /// It had become longer than may be kept, or there was no memory left for it.
        TooLong = "too_long",
        /// It had been resumed as often as it may be.
        Attempts = "attempts",
        /// The pool's budget was spent.
        Budget = "budget",
    }
}
