//! What is seen from outside: metrics, one log line a request, and the ids that tie both to a trace.
//!
//! The engine fills one [`Record`] a request and hands it over once, when the request is finished:
//! [`Metrics::observe`] counts it and [`Log::request`] writes its line. Neither waits for anything. Every label
//! value comes from the configuration or from a closed set in this module, never from a request.

mod ids;
mod log;
mod metrics;
mod record;

pub use ids::{RequestId, TraceContext, TraceId};
pub use log::{Format, Log, LogGuard};

pub use metrics::{
    BackendFault, BackendSeries, BadHead, FilterSeries, HedgeOutcome, InFlight, IntCounter, Judged, Laps, Metrics,
    NO_POOL, OTHER_ROUTE, Purpose, QueueSeries, ReloadBy, ReloadOutcome, ResumeOutcome, RetryCause, Runtime, Runtimes,
    Series, ShadowDrop, ShadowSeries, ShedReason, UpgradeOutcome, documentation,
};
pub use record::{Cause, Record, bounded, path_for_log};
