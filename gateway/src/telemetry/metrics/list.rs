//! The one list of metrics: name, kind, labels and help of each. The fields of [`super::Metrics`] are built from it,
//! and so is docs/METRICS.md.

use crate::usage::metrics as usage;
use crate::{records, storage};
use std::fmt::Write;
use tidegate_plugins::classify;
use tidegate_plugins::filters::jwt;
use tidegate_plugins::filters::limits::{LIMITED, LIMITED_HELP, LIMITED_LABELS};
use tidegate_plugins::filters::prompt_cache::metrics as cache;
use tidegate_plugins::flight::{FLIGHTS, KEPT, KEYS, WAITING};
use tidegate_plugins::keys::{self, KEYS_HELP};
use tidegate_plugins::store::{DECISIONS, DECISIONS_HELP, ESTIMATED, ESTIMATED_HELP, SUBJECTS, SUBJECTS_HELP};

/// A metric before it has values.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// What kind of values it has.
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}
use Kind::{Counter, Gauge, Histogram};

impl Kind {
    /// As the text format has it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Counter => "counter",
            Gauge => "gauge",
            Histogram(_) => "histogram",
        }
    }
}

// The GenAI conventions advise these bounds; ours go on where they end, because a request may take an hour.
pub(super) const REQUEST: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44,
];
pub(super) const FIRST_TOKEN: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0];
const PER_TOKEN: &[f64] = &[0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const TOKENS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
pub(super) const OVERHEAD: &[f64] =
    &[25e-6, 50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.5, 2.5];

pub(super) const QUEUED: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];

/// From what a lookup takes to what a filter that asks another server may take.
const JUDGING: &[f64] =
    &[1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 0.001, 0.0025, 0.01, 0.1, 0.5, 2.5, 10.0, 60.0];

const GEN_AI: &[&str] = &["gen_ai_operation_name", "gen_ai_request_model", "route", "pool", "error_type"];

macro_rules! metrics {
    ($($id:ident: $kind:expr, $name:expr, $labels:expr, $help:expr;)*) => {
        $(pub(super) static $id: Spec = Spec { name: $name, kind: $kind, labels: $labels, help: $help };)*
        /// Every metric of ours; the process metrics come from the `prometheus` crate.
        pub(super) static ALL: &[&Spec] = &[$(&$id),*];
    };
}

metrics! {
    // Written first, and observed last: see `Series::observe`.
    DURATION: Histogram(REQUEST), "gen_ai_server_request_duration_seconds", GEN_AI,
        "Time from a request's head to the end of its answer.";
    TIME_TO_FIRST_TOKEN: Histogram(FIRST_TOKEN), "gen_ai_server_time_to_first_token_seconds", GEN_AI,
        "Time from a request's head to the first token of its answer.";
    TIME_PER_TOKEN: Histogram(PER_TOKEN), "gen_ai_server_time_per_output_token_seconds", GEN_AI,
        "Mean time between the tokens after the first, for streams of two tokens or more.";
    TOKEN_USAGE: Histogram(TOKENS), "gen_ai_client_token_usage",
        &["gen_ai_operation_name", "gen_ai_request_model", "route", "pool", "gen_ai_token_type"],
        "Tokens per request; cached_input is a part of input, reasoning is a part of output.";
    REQUESTS: Counter, "tidegate_requests_total", &["route", "pool", "status", "cause"],
        "Requests that are over, by status class and by who is to blame.";
    FAILURES: Counter, "tidegate_failures_total", &["route", "pool", "cause"],
        "Requests that did not go well, by who is to blame: the error budget.";
    RETRIES: Counter, "tidegate_retries_total", &["route", "pool", "cause"],
        "Attempts after the first at the same pool, by what went wrong before.";
    RETRIES_REFUSED: Counter, "tidegate_retries_refused_total", &["route", "pool"],
        "Retries that were not made because the pool's budget for them was spent.";
    OVERHEAD_SECONDS: Histogram(OVERHEAD), "tidegate_overhead_seconds", &["route", "pool", "status"],
        "Time the gateway itself added to a request.";
    COST: Counter, "tidegate_cost_total", &["route", "pool"],
        "What requests cost by the file's prices, in its currency; an answer that was paid for before costs nothing.";
    REQUEST_BYTES: Counter, "tidegate_request_bytes_total", &["route", "pool"],
        "Body bytes that clients sent.";
    RESPONSE_BYTES: Counter, "tidegate_response_bytes_total", &["route", "pool"],
        "Body bytes that clients were given.";
    ROUTE_IN_FLIGHT: Gauge, "tidegate_route_in_flight", &["route", "pool"],
        "Requests that have a route and are not over.";
    FILTER_SECONDS: Histogram(JUDGING), "tidegate_filter_seconds", &["filter"],
        "How long a filter took to judge a request, what it waited for included.";
    FILTER_VERDICTS: Counter, "tidegate_filter_verdicts_total", &["filter", "verdict"],
        "What filters said to requests: continue, follow (continue, and see the answer), answer (that is all), fault (its own); left: the client, or its time, was gone before.";
    FALLBACKS: Counter, "tidegate_fallbacks_total", &["route", "pool", "cause"],
        "Requests that went on to a fallback, by the pool that did not answer and why.";
    HEDGES: Counter, "tidegate_hedges_total", &["route", "pool", "outcome"],
        "Second requests because the first was slow: won and lost, and refused by the budget.";
    RESUMES: Counter, "tidegate_resumes_total", &["route", "pool", "outcome"],
        "Streams that broke in the middle, where the pool resumes them: won, failed, or why another backend was not asked.";
    SHADOW_REQUESTS: Counter, "tidegate_shadow_requests_total", &["shadow", "pool", "cause"],
        "Copies of requests whose answer is for nobody, by how that ended: none is well.";
    SHADOW_DROPPED: Counter, "tidegate_shadow_dropped_total", &["shadow", "pool", "reason"],
        "Copies that were not sent, because as many or as many bytes as may be are under way, or memory is near its end.";
    SHADOW_IN_FLIGHT: Gauge, "tidegate_shadow_in_flight", &["shadow", "pool"],
        "Copies that are under way.";
    SHADOW_DURATION: Histogram(REQUEST), "tidegate_shadow_duration_seconds", &["shadow", "pool"],
        "Time from a copy's sending to the end of its answer.";
    SHADOW_FIRST_TOKEN: Histogram(FIRST_TOKEN), "tidegate_shadow_time_to_first_token_seconds", &["shadow", "pool"],
        "Time from a copy's sending to the first token of its answer.";
    SHADOW_TOKENS: Counter, "tidegate_shadow_tokens_total", &["shadow", "pool", "gen_ai_token_type"],
        "Tokens of copies; cached_input is a part of input, reasoning is a part of output.";
    QUEUE_WAITING: Gauge, "tidegate_queue_waiting", &["pool"],
        "Requests that wait because all backends of the pool are at their max_in_flight.";
    QUEUE_WAIT: Histogram(QUEUED), "tidegate_queue_wait_seconds", &["pool"],
        "How long those waited that got a place.";
    QUEUE_OUTCOMES: Counter, "tidegate_queue_outcomes_total", &["pool", "outcome"],
        "Requests that would have waited, by how that ended: served, full and hopeless (not let in), expired, left.";
    BACKEND_UP: Gauge, "tidegate_backend_up", &["pool", "backend"],
        "Whether a backend is offered requests (1) or not (0).";
    BACKEND_IN_FLIGHT: Gauge, "tidegate_backend_in_flight", &["pool", "backend"],
        "Requests a backend is working on for this gateway.";
    BACKEND_ATTEMPTS: Counter, "tidegate_backend_attempts_total", &["pool", "backend"],
        "Requests a backend was tried with, those that failed included.";
    BACKEND_REQUESTS: Counter, "tidegate_backend_requests_total", &["pool", "backend"],
        "Requests a backend gave the answer to.";
    BACKEND_ERRORS: Counter, "tidegate_backend_errors_total", &["pool", "backend", "cause"],
        "What went wrong with a backend; upstream_auth: our own key was refused; usage: it counted tokens that cannot be.";
    BACKEND_CONNECTIONS: Counter, "tidegate_backend_connections_total", &["pool", "backend", "kind"],
        "Connections taken for requests to a backend, new or reused.";
    BACKEND_DRAINING: Gauge, "tidegate_backend_draining", &["pool", "backend"],
        "Whether a backend gets no more requests because an operator, or discovery, wants it so (1).";
    BACKEND_CAPACITY: Gauge, "tidegate_backend_max_in_flight", &["pool", "backend"],
        "Requests a backend gets at once, as the file says or as was found out (auto); -1 for no bound.";
    BACKEND_READINGS: Counter, "tidegate_backend_signals_total", &["pool", "backend", "outcome"],
        "Readings of a backend's own metrics: read, or failed (no answer, or nothing known in it).";
    BACKEND_BREAKER: Gauge, "tidegate_backend_breaker_state", &["pool", "backend"],
        "Whether a backend is trusted (0), gets one request to show that it is well (1) or is left alone (2): the worst of its models.";
    BACKEND_BREAKER_OPENED: Counter, "tidegate_backend_breaker_opened_total", &["pool", "backend", "reason"],
        "How often a backend was left alone, after faults in a row, too large a part of them, silence, or a failed probe.";
    BACKEND_PICKS: Counter, "tidegate_backend_picks_total", &["pool", "backend", "kind"],
        "Requests a backend was picked for: balanced, as the probe that shows whether it is well again, or because most are out and all are used (panic).";
    IN_FLIGHT: Gauge, "tidegate_requests_in_flight", &[],
        "Requests that are not over.";
    BAD_REQUESTS: Counter, "tidegate_bad_requests_total", &["reason"],
        "Request heads that could not be read, and connections whose PROXY header could not.";
    CONNECTIONS: Gauge, "tidegate_connections", &[],
        "Open client connections.";
    CONNECTIONS_TOTAL: Counter, "tidegate_connections_total", &[],
        "Client connections accepted.";
    CONNECTIONS_REFUSED: Counter, "tidegate_connections_refused_total", &[],
        "Client connections closed at once, because the limit was reached.";
    SHED: Counter, "tidegate_shed_requests_total", &["priority", "reason"],
        "Requests refused because the gateway's own limits are near (limits.shed) or reached, by how urgent they were and which limit: requests or bodies.";
    MEMORY: Gauge, "tidegate_memory_bytes", &["purpose"],
        "Memory by what it is for: bodies in flight, connections of clients (at least: without TLS and what the kernel holds), the cache, answers kept for idempotency keys, recordings of answers that several requests share, the last requests (recent), traces on their way, records and usage that wait to be written.";
    TASKS: Gauge, "tidegate_tasks", &["of"],
        "Tasks that are not over: of clients (connections and streams), of the house (probes, the admin listener, reloads).";
    TASKS_WAITING: Gauge, "tidegate_tasks_waiting", &["of"],
        "Tasks that could go on and wait for a thread, beside those in the threads' own queues: more than a few for long means that there is too little of the processor.";
    CONFIG_SUCCESSFUL: Gauge, "tidegate_config_last_reload_successful", &[],
        "Whether the last reading of the configuration succeeded (1) or the one before is still in use (0).";
    CONFIG_TIME: Gauge, "tidegate_config_last_reload_timestamp_seconds", &[],
        "When the configuration in use was read, in seconds since 1970.";
    CONFIG_INFO: Gauge, "tidegate_config_info", &["hash"],
        "The configuration in use; always 1.";
    CONFIG_RELOADS: Counter, "tidegate_config_reloads_total", &["by", "outcome"],
        "Times that the configuration was to be replaced: applied, unchanged (the same, files read again), refused (it has faults, and the one before stays).";
    UPGRADES: Counter, "tidegate_upgrades_total", &["outcome"],
        "Times that another process was to take over: done, or refused, because it could not serve. Counted on from one process to the next.";
    CERTIFICATE_LOADS: Counter, "tidegate_certificate_loads_total", &["listener", "outcome"],
        "Times that a listener's certificate was loaded, at start and when its files change, or refused, and the one before stays.";
    CERTIFICATE_EXPIRY: Gauge, "tidegate_certificate_expiry_timestamp_seconds", &["listener"],
        "Until when the certificate that a listener shows is valid, in seconds since 1970.";
    DRAINING: Gauge, "tidegate_draining", &[],
        "Whether the process is finishing its last requests (1).";
    LOG_LINES_DROPPED: Counter, "tidegate_log_lines_dropped_total", &[],
        "Log lines that were lost because nobody read the output fast enough.";
    LOG_LEFT_OUT: Counter, "tidegate_log_requests_left_out_total", &[],
        "Requests that leave no line in the log, because log.sample keeps a share only.";
    TRACES: Counter, "tidegate_traces_total", &["outcome"],
        "Requests whose trace was to be kept: sent, dropped because as many wait as may, failed because the collector was away for too long, refused by it.";
    TRACES_WAITING: Gauge, "tidegate_traces_waiting", &[],
        "Requests whose trace waits for the collector.";
    PANICS: Counter, "tidegate_panics_total", &[],
        "Requests that ended in a panic: a fault of ours, please report it.";
    LIMIT_DECISIONS: Counter, DECISIONS, &["limit", "outcome"],
        DECISIONS_HELP;
    LIMITED_REQUESTS: Counter, LIMITED, LIMITED_LABELS,
        LIMITED_HELP;
    LIMIT_ESTIMATED: Counter, ESTIMATED, &["limit"],
        ESTIMATED_HELP;
    LIMIT_SUBJECTS: Gauge, SUBJECTS, &["limit"],
        SUBJECTS_HELP;
    MANAGED_KEYS: Gauge, keys::KEYS, &["state"],
        KEYS_HELP;
    STORE_UP: Gauge, storage::UP, &["store"],
        storage::UP_HELP;
    STORE_QUEUE: Gauge, storage::QUEUE, &["store"],
        storage::QUEUE_HELP;
    STORE_WRITES: Counter, storage::WRITES, &["store", "outcome"],
        storage::WRITES_HELP;
    STORE_ERRORS: Counter, storage::ERRORS, &["store"],
        storage::ERRORS_HELP;
    RECORDS: Counter, records::RECORDS.0, &["sink", "outcome"],
        records::RECORDS.1;
    RECORDS_BYTES: Counter, records::BYTES.0, &["sink"],
        records::BYTES.1;
    RECORDS_WAITING: Gauge, records::WAITING.0, &["sink"],
        records::WAITING.1;
    RECORDS_UP: Gauge, records::UP.0, &["sink"],
        records::UP.1;
    USAGE_RECORDS: Counter, usage::RECORDS.0, &["outcome"],
        usage::RECORDS.1;
    USAGE_BYTES: Counter, usage::BYTES.0, &[],
        usage::BYTES.1;
    USAGE_WAITING: Gauge, usage::WAITING.0, &[],
        usage::WAITING.1;
    USAGE_BEHIND: Gauge, usage::BEHIND.0, &[],
        usage::BEHIND.1;
    USAGE_FAILURES: Counter, usage::FAILURES.0, &["of"],
        usage::FAILURES.1;
    JWT_TOKENS: Counter, jwt::TOKENS, &["issuer", "outcome"],
        jwt::TOKENS_HELP;
    JWKS_FETCHES: Counter, jwt::FETCHES, &["issuer", "outcome"],
        jwt::FETCHES_HELP;
    JWKS_KEYS: Gauge, jwt::KEYS, &["issuer"],
        jwt::KEYS_HELP;
    JWKS_FETCHED: Gauge, jwt::FETCHED, &["issuer"],
        jwt::FETCHED_HELP;
    CACHE_REQUESTS: Counter, cache::REQUESTS.0, cache::REQUESTS.1, cache::REQUESTS.2;
    CACHE_BYPASSES: Counter, cache::BYPASSES.0, cache::BYPASSES.1, cache::BYPASSES.2;
    CACHE_STORES: Counter, cache::STORES.0, cache::STORES.1, cache::STORES.2;
    CACHE_UNSTORED: Counter, cache::UNSTORED.0, cache::UNSTORED.1, cache::UNSTORED.2;
    CACHE_EVICTIONS: Counter, cache::EVICTIONS.0, cache::EVICTIONS.1, cache::EVICTIONS.2;
    CACHE_SAVED: Counter, cache::SAVED.0, cache::SAVED.1, cache::SAVED.2;
    CACHE_SAVED_COST: Counter, cache::SAVED_COST.0, cache::SAVED_COST.1, cache::SAVED_COST.2;
    CACHE_BYTES: Gauge, cache::BYTES.0, cache::BYTES.1, cache::BYTES.2;
    CACHE_ENTRIES: Gauge, cache::ENTRIES.0, cache::ENTRIES.1, cache::ENTRIES.2;
    CLASSIFIER_REQUESTS: Counter, classify::ASKED.0, classify::ASKED.1, classify::ASKED.2;
    CLASSIFIER_CLASSES: Counter, classify::CLASSES.0, classify::CLASSES.1, classify::CLASSES.2;
    CLASSIFIER_DURATION: Histogram(classify::DURATIONS), classify::DURATION.0, classify::DURATION.1, classify::DURATION.2;
    CLASSIFIER_TOKENS: Counter, classify::TOKENS.0, classify::TOKENS.1, classify::TOKENS.2;
    CACHE_FILE_READS: Counter, cache::FILE_READS.0, cache::FILE_READS.1, cache::FILE_READS.2;
    CACHE_FILE_WRITES: Counter, cache::FILE_WRITES.0, cache::FILE_WRITES.1, cache::FILE_WRITES.2;
    CACHE_FILE_FAULTS: Counter, cache::FILE_FAULTS.0, cache::FILE_FAULTS.1, cache::FILE_FAULTS.2;
    CACHE_FILE_BYTES: Gauge, cache::FILE_BYTES.0, cache::FILE_BYTES.1, cache::FILE_BYTES.2;
    CACHE_FILE_ENTRIES: Gauge, cache::FILE_ENTRIES.0, cache::FILE_ENTRIES.1, cache::FILE_ENTRIES.2;
    FLIGHT_REQUESTS: Counter, FLIGHTS.0, &["outcome"],
        FLIGHTS.1;
    FLIGHT_WAITING: Gauge, WAITING.0, &[],
        WAITING.1;
    IDEMPOTENCY_REQUESTS: Counter, KEYS.0, &["outcome"],
        KEYS.1;
    IDEMPOTENCY_BYTES: Gauge, KEPT.0, &[],
        KEPT.1;
    BUILD_INFO: Gauge, "tidegate_build_info", &["version"],
        "This build; always 1.";
}

/// docs/METRICS.md, as it should be.
pub fn documentation() -> String {
    let mut page = String::from(HEAD);
    for spec in ALL {
        let kind = spec.kind.name();
        let labels = spec.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let labels = if labels.is_empty() { "none".to_owned() } else { labels };
        let _ = write!(page, "\n### `{}`\n\n{}\n\n- Kind: {kind}\n- Labels: {labels}\n", spec.name, spec.help);
        if let Histogram(bounds) = spec.kind {
            let bounds = bounds.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
            let _ = writeln!(page, "- Bucket bounds: {bounds}");
        }
    }
    page.push_str(TAIL);
    page
}

const HEAD: &str = include_str!("head.md");
const TAIL: &str = include_str!("tail.md");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_documentation_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).unwrap();
            std::fs::write(path, documentation()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == documentation(), "docs/METRICS.md is stale: run the tests with UPDATE=1");
    }

    #[test]
    fn names_follow_the_conventions() {
        for spec in ALL {
            assert!(spec.help.ends_with('.'), "{}", spec.name);
            assert_eq!(matches!(spec.kind, Counter), spec.name.ends_with("_total"), "{}", spec.name);
            if let Histogram(bounds) = spec.kind {
                assert!(bounds.is_sorted(), "{}", spec.name);
            }
        }
    }
}
