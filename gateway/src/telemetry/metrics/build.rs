//! From the list to metrics in a registry, and out of it again when a reload removes a route.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::process_collector::ProcessCollector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::list::{Kind, Spec};

/// The labels of one series, by name.
pub(super) type Labels<'a> = HashMap<&'a str, &'a str>;

const VALID: &str = "the list has valid names, each once";

/// Makes metrics as the list says and registers them.
pub(super) struct Builder(Registry);

impl Builder {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self())).expect(VALID);
        Self(registry)
    }

    pub(super) fn counter(&self, spec: &Spec) -> IntCounter {
        self.register(IntCounter::new(spec.name, spec.help).expect(VALID))
    }

    pub(super) fn gauge(&self, spec: &Spec) -> IntGauge {
        self.register(IntGauge::new(spec.name, spec.help).expect(VALID))
    }

    pub(super) fn counters(&self, spec: &Spec) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(spec.name, spec.help), spec.labels).expect(VALID))
    }

    pub(super) fn gauges(&self, spec: &Spec) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(spec.name, spec.help), spec.labels).expect(VALID))
    }

    pub(super) fn histograms(&self, spec: &Spec) -> HistogramVec {
        let bounds = if let Kind::Histogram(bounds) = spec.kind { bounds } else { &[] };
        let options = HistogramOpts::new(spec.name, spec.help).buckets(bounds.to_vec());
        self.register(HistogramVec::new(options, spec.labels).expect(VALID))
    }

    pub(super) fn finish(self) -> Registry {
        self.0
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.0.register(Box::new(metric.clone())).expect(VALID);
        metric
    }
}

/// Removes the series of a family whose labels `keep` refuses.
pub(super) fn retain<B: MetricVecBuilder>(family: &MetricVec<B>, keep: impl Fn(&Labels<'_>) -> bool)
where
    MetricVec<B>: Collector,
{
    for group in family.collect() {
        for metric in group.get_metric() {
            let labels: Labels<'_> = metric.get_label().iter().map(|l| (l.name(), l.value())).collect();
            if !keep(&labels) {
                // Gone already if another reload was faster: just as well.
                let _ = family.remove(&labels);
            }
        }
    }
}
