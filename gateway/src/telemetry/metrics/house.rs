//! What the process has at the moment of a scrape: memory by purpose, tasks by runtime.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;

use super::Metrics;
use super::family::{IntCounter, IntGauge};
use super::sets::closed_set;

closed_set! {
    /// What memory is for.
    Purpose {
        /// Requests and whole answers in flight.
        Bodies = "bodies",
        /// Connections of clients and what is going on on them.
        Connections = "connections",
        /// Answers kept to be given again.
        Cache = "cache",
        /// Answers kept for idempotency keys.
        Idempotency = "idempotency",
        /// Answers that several requests share while they come.
        Recordings = "recordings",
        /// The last requests, to be looked at.
        Recent = "recent",
        /// Records that are not written yet.
        Records = "records",
        /// Usage that is not in the store yet.
        Usage = "usage",
        /// Requests whose traces wait for the collector.
        Traces = "traces",
    }
}

closed_set! {
    /// Whose tasks.
    Runtime {
        /// Connections of clients and their streams.
        Clients = "clients",
        /// What goes on beside the requests.
        House = "house",
    }
}

closed_set! {
    /// What became of a request whose trace was to be kept.
    Traced {
        /// The collector has it.
        Sent = "sent",
        /// As many waited as may.
        Dropped = "dropped",
        /// The collector was away, for as long as is waited.
        Failed = "failed",
        /// The collector does not want it.
        Refused = "refused",
    }
}

closed_set! {
    /// Who asked for another configuration.
    ReloadBy {
        /// SIGHUP.
        Signal = "signal",
        /// `POST /admin/reload`.
        Request = "request",
        /// A file that has changed.
        Watch = "watch",
        /// An operator, for one that was in use before.
        Rollback = "rollback",
    }
}

closed_set! {
    /// What came of it.
    ReloadOutcome {
        /// Another is in use.
        Applied = "applied",
        /// It says what it said; files that it names have been read again.
        Unchanged = "unchanged",
        /// It has faults.
        Refused = "refused",
    }
}

/// Counts requests whose trace was to be kept, by what became of it.
pub struct TraceSeries {
    /// The collector has it.
    pub sent: IntCounter,
    /// As many waited as may.
    pub dropped: IntCounter,
    /// The collector was away, for as long as is waited.
    pub failed: IntCounter,
    /// The collector does not want it.
    pub refused: IntCounter,
}

closed_set! {
    /// What came of an upgrade.
    UpgradeOutcome {
        /// Another process serves.
        Done = "done",
        /// The new process could not serve, and the old one went on.
        Refused = "refused",
    }
}

/// The runtimes that tasks run on; several may be of one kind.
#[derive(Default)]
pub struct Runtimes(Mutex<Vec<(Runtime, Handle)>>);

impl Runtimes {
    /// Whoever runs the current task counts as this from now on.
    pub fn add(&self, of: Runtime, handle: Handle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((of, handle));
    }

    /// Says in `metrics` how many tasks there are.
    pub fn count(&self, metrics: &Metrics) {
        let mut tasks = [[0; 2]; Runtime::ALL.len()];
        for (of, handle) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let now = handle.metrics();
            for (sum, number) in tasks[*of as usize].iter_mut().zip([now.num_alive_tasks(), now.global_queue_depth()]) {
                *sum += number;
            }
        }
        for (gauges, numbers) in metrics.tasks.iter().zip(tasks) {
            gauges.iter().zip(numbers).for_each(|(gauge, number)| set(gauge, number));
        }
    }
}

impl Metrics {
    /// The configuration was to be replaced.
    pub fn reloaded(&self, by: ReloadBy, outcome: ReloadOutcome) {
        self.reloads[by as usize][outcome as usize].inc();
    }

    /// What counts requests whose trace was to be kept.
    pub fn traced(&self) -> TraceSeries {
        let [sent, dropped, failed, refused] = self.traces.clone();
        TraceSeries { sent, dropped, failed, refused }
    }

    /// Another process was to take over.
    pub fn upgraded(&self, outcome: UpgradeOutcome) {
        self.upgrades[outcome as usize].inc();
    }

    /// How often another process took over, and could not.
    pub fn upgrades(&self) -> [u64; UpgradeOutcome::ALL.len()] {
        self.upgrades.each_ref().map(IntCounter::get)
    }

    /// Goes on from what the process before this one has counted.
    pub fn upgraded_before(&self, done: u64, refused: u64) {
        for (counter, before) in self.upgrades.iter().zip([done, refused]) {
            counter.inc_by(before);
        }
    }

    /// How often a listener's certificate was loaded, and refused.
    pub fn certificate_loads(&self, listener: &str) -> [IntCounter; 2] {
        ["loaded", "refused"].map(|outcome| self.families.certificate_loads.with_label_values(&[listener, outcome]))
    }

    /// Until when a listener's certificate is valid, in seconds since 1970.
    pub fn certificate_expires(&self, listener: &str, at: i64) {
        self.families.certificate_expiry.with_label_values(&[listener]).set(at);
    }

    /// So much memory is held for this.
    pub fn holds(&self, purpose: Purpose, bytes: usize) {
        set(&self.memory[purpose as usize], bytes);
    }
}

fn set(gauge: &IntGauge, number: usize) {
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
}
