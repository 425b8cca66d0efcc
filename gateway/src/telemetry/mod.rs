//! What is seen from outside: metrics, one log line a request, and the ids that tie both to a trace.
//!
//! The engine fills one [`Record`] a request and hands it over once, when the request is finished:
//! [`Metrics::observe`] counts it and [`Log::request`] writes its line. Neither waits for anything. Every label
//! value comes from the configuration or from a closed set in this module, never from a request.

mod course;
mod finished;
mod ids;
pub mod live;
mod log;
mod metrics;
mod recent;
mod record;
#[cfg(feature = "otlp")]
mod traces;

pub use course::{Attempted, Course, Step, What};
pub use finished::Finished;
pub use ids::{RequestId, SpanId, TraceContext, TraceId};
pub use log::{Clean, Format, Log, LogGuard};
pub(crate) use log::{Stamp, write_json_string, write_millis};

pub use metrics::{
    BackendFault, BackendSeries, BadHead, FilterSeries, HedgeOutcome, InFlight, IntCounter, Judged, Laps, Metrics,
    NO_POOL, OTHER_ROUTE, Purpose, QueueSeries, ReloadBy, ReloadOutcome, ResumeOutcome, RetryCause, Runtime, Runtimes,
    Series, ShadowDrop, ShadowSeries, ShedReason, TraceSeries, Traced, UpgradeOutcome, documentation,
};
pub use recent::{Page, Recent};
pub use record::{Cause, Record, bounded, path_for_log};
#[cfg(feature = "otlp")]
pub use traces::{Content, Exporter, Rule};
