//! What became of records, by the place that they are kept in.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// The names and help texts of the metrics.
pub(crate) const RECORDS: (&str, &str) = (
    "tidegate_records_total",
    "Records of requests, by place: written, dropped because there was no memory for them, lost because the place could not be written until the end; refused: requests that were not answered because there was no memory.",
);
pub(crate) const BYTES: (&str, &str) =
    ("tidegate_records_bytes_total", "Bytes of records that were written, by place.");
pub(crate) const WAITING: (&str, &str) = (
    "tidegate_records_waiting",
    "Records that are not written yet, those of requests under way included where they may be refused, by place.",
);
pub(crate) const UP: (&str, &str) =
    ("tidegate_records_up", "Whether a place for records can be written (1) or not (0).");

/// Of all places.
#[derive(Clone)]
pub(crate) struct RecordMetrics {
    records: IntCounterVec,
    bytes: IntCounterVec,
    waiting: IntGaugeVec,
    up: IntGaugeVec,
}

/// Of one place.
pub(super) struct Series {
    pub(super) written: IntCounter,
    pub(super) dropped: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) lost: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) waiting: IntGauge,
    pub(super) up: IntGauge,
}

impl RecordMetrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        Ok(Self {
            records: IntCounterVec::new(Opts::new(RECORDS.0, RECORDS.1), &["sink", "outcome"])?,
            bytes: IntCounterVec::new(Opts::new(BYTES.0, BYTES.1), &["sink"])?,
            waiting: IntGaugeVec::new(Opts::new(WAITING.0, WAITING.1), &["sink"])?,
            up: IntGaugeVec::new(Opts::new(UP.0, UP.1), &["sink"])?,
        })
    }

    pub(super) fn series(&self, sink: &str) -> Series {
        let outcome = |outcome| self.records.with_label_values(&[sink, outcome]);
        Series {
            written: outcome("written"),
            dropped: outcome("dropped"),
            refused: outcome("refused"),
            lost: outcome("lost"),
            bytes: self.bytes.with_label_values(&[sink]),
            waiting: self.waiting.with_label_values(&[sink]),
            up: self.up.with_label_values(&[sink]),
        }
    }

    fn all(&self) -> [&dyn Collector; 4] {
        [&self.records, &self.bytes, &self.waiting, &self.up]
    }
}

impl Collector for RecordMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
