//! One version of everything a request needs. A request takes the current one when it arrives and keeps it to its
//! end; a reload builds the next one whole and swaps it in.

use crate::exchange::own::Own;
use crate::exchange::shadow::ShadowMetrics;
use crate::models::Models;
use crate::networks::{Lists, Networks};
use crate::telemetry::{FilterSeries, Series};
use crate::upstream::Pool;
use http::HeaderName;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::{Cors, Limits, Recent};
use tidegate_plugins::Filter;
use tidegate_plugins::filters::limits::{OwnLimits, Views};
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::prices::Prices;
use tidegate_plugins::services::Shared;
use tidegate_plugins::tenants::Tenants;

/// One version of everything.
pub struct Snapshot {
    /// What clients may take of the gateway.
    pub limits: Limits,
    /// Who may say on whose behalf it connects.
    pub trusted_proxies: Networks,
    /// Which clients may call.
    pub clients: Lists,
    /// What filters keep although the configuration changes.
    pub shared: Shared,
    /// Who there is, if the file says so.
    pub tenants: Option<Arc<Tenants>>,
    /// What opens limits that keys bring along.
    pub own_limits: Arc<OwnLimits>,
    /// How keys are hashed.
    pub hasher: KeyHasher,
    /// How long a rotated key still works, unless somebody says otherwise.
    pub overlap: Duration,
    /// The limits of the filters, to look at.
    pub views: Arc<Views>,
    /// What is kept of the last requests.
    pub recent: Recent,
    /// Which requests leave a trace; none: none does.
    #[cfg(feature = "otlp")]
    pub traces: Option<Arc<crate::telemetry::Rule>>,
    /// What requests cost.
    pub prices: Arc<Prices>,
    /// Filters that are asked before the body is read: the head of the file's list, as far as none needs the body.
    pub early: Vec<MeasuredFilter>,
    /// The other filters, in the order of the file.
    pub late: Vec<MeasuredFilter>,
    /// Whether a filter among those finds out who the caller is.
    pub identifies_late: bool,
    /// Requests of the gateway's own.
    pub own: Arc<Own>,
    /// The metrics of shadows, once they have been used.
    pub shadows: ShadowMetrics,
    /// Headers of requests that are for a filter alone.
    pub kept_headers: Vec<HeaderName>,
    /// Which model is answered by whom.
    pub models: Models,
    /// All pools, in the order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// Who gets paths that are not ours; none: they are refused.
    pub other_paths: Option<OtherPaths>,
    /// What browsers are told.
    pub cors: Option<Cors>,
    /// Whether answers carry `x-tidegate-*`.
    pub answer_headers: bool,
    /// For requests that reach no route.
    pub no_route: Arc<Series>,
    /// Files that filters were built from.
    pub files: BTreeSet<PathBuf>,
    /// BLAKE3 of the file as meant, 16 hex digits: tells whether two gateways run the same.
    pub hash: String,
}

/// Where unknown `/v1/*` paths go.
pub struct OtherPaths {
    /// To whom.
    pub pool: Arc<Pool>,
    /// Their metrics.
    pub series: Arc<Series>,
}

/// A filter and the name it has in the file.
pub struct NamedFilter {
    /// Its name.
    pub name: Arc<str>,
    /// Itself.
    pub filter: Arc<dyn Filter>,
}

/// A filter that is asked about requests, and what it says counted.
pub struct MeasuredFilter {
    /// Its name.
    pub name: Arc<str>,
    /// Itself.
    pub filter: Arc<dyn Filter>,
    /// Its metrics.
    pub series: FilterSeries,
}

impl Snapshot {
    /// Whether anybody is told what a request meets on its way.
    pub fn keeps_course(&self) -> bool {
        #[cfg(feature = "otlp")]
        if self.traces.is_some() {
            return true;
        }
        self.recent.requests > 0
    }

    /// Whether limits that keys bring along are decided.
    pub fn decides_limits(&self) -> bool {
        self.early.iter().chain(&self.late).any(|named| &*named.name == "limits")
    }

    /// Whether a managed key lets anybody in.
    pub fn takes_managed_keys(&self) -> bool {
        self.early.iter().chain(&self.late).any(|named| named.filter.takes_managed_keys())
    }
}
