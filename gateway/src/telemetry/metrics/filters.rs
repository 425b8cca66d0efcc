//! What the filters do: how long each takes, and what it says.

use std::sync::Arc;
use std::time::Instant;

use super::Families;
use super::family::{Histogram, IntCounter};
use super::sets::closed_set;

closed_set! {
    /// What came of asking a filter.
    Judged {
        /// The request goes on.
        Continue = "continue",
        /// It goes on, and the filter sees its answer.
        Follow = "follow",
        /// The filter has the answer.
        Answer = "answer",
        /// The filter itself failed.
        Fault = "fault",
        /// Nobody waited for its verdict any more.
        Left = "left",
    }
}

/// The metrics of one filter.
pub struct FilterSeries {
    /// What it is called there.
    pub name: Arc<str>,
    seconds: Histogram,
    verdicts: [IntCounter; Judged::ALL.len()],
}

impl FilterSeries {
    pub(super) fn new(families: &Families, name: &str) -> Self {
        let verdict = |judged: Judged| families.filter_verdicts.with_label_values(&[name, judged.label()]);
        let seconds = families.filter_seconds.with_label_values(&[name]);
        Self { name: name.into(), seconds, verdicts: Judged::ALL.map(verdict) }
    }

    /// Counts one request that it was asked about, from when to when.
    pub fn judged(&self, judged: Judged, (began, ended): (Instant, Instant)) {
        self.seconds.observe_time(ended.saturating_duration_since(began));
        self.verdicts[judged as usize].inc();
    }
}

/// Times one filter after the other, for one look at the clock each.
pub struct Laps(Instant);

impl Laps {
    /// The first begins.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// When the one began that ends here, and when that is; the next begins.
    pub fn lap(&mut self) -> (Instant, Instant) {
        let now = Instant::now();
        (std::mem::replace(&mut self.0, now), now)
    }
}
