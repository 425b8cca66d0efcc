//! From the list to families, and to what others collect.

use super::family::{AmountVec, Cell, Family, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Written};
use super::list::Spec;
use std::cell::RefCell;

/// Makes metrics as the list says, and keeps them for the scrape.
#[derive(Default)]
pub(super) struct Builder(RefCell<Vec<Box<dyn Written>>>);

impl Builder {
    pub(super) fn counter(&self, spec: &'static Spec) -> IntCounter {
        self.counters(spec).with_label_values(&[])
    }

    pub(super) fn gauge(&self, spec: &'static Spec) -> IntGauge {
        self.gauges(spec).with_label_values(&[])
    }

    pub(super) fn counters(&self, spec: &'static Spec) -> IntCounterVec {
        self.family(spec)
    }

    pub(super) fn amounts(&self, spec: &'static Spec) -> AmountVec {
        self.family(spec)
    }

    pub(super) fn gauges(&self, spec: &'static Spec) -> IntGaugeVec {
        self.family(spec)
    }

    pub(super) fn histograms(&self, spec: &'static Spec) -> HistogramVec {
        self.family(spec)
    }

    pub(super) fn finish(self) -> Vec<Box<dyn Written>> {
        self.0.into_inner()
    }

    fn family<T: Cell + Send + Sync + 'static>(&self, spec: &'static Spec) -> Family<T> {
        let family = Family::new(spec);
        self.0.borrow_mut().push(Box::new(family.clone()));
        family
    }
}
