//! What is counted: atomics that requests add to, in families that a scrape writes out.
//!
//! A scrape of a large gateway is tens of thousands of lines. All but the number of each is settled when its labels are:
//! so a scrape copies text and writes digits, and asks for no memory but the page's. (The `prometheus` crate makes
//! objects of everything first, and takes twenty times as long.)

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::list::{Kind, Spec};

/// The labels of one row, by name.
pub(super) type Labels<'a> = HashMap<&'a str, &'a str>;

/// Only goes up.
#[derive(Debug, Clone, Default)]
pub struct IntCounter(Arc<AtomicU64>);

impl IntCounter {
    /// One more.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// So many more.
    pub fn inc_by(&self, number: u64) {
        self.0.fetch_add(number, Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// An amount of money that only goes up, added up in billionths.
#[derive(Debug, Clone, Default)]
pub struct Amount(IntCounter);

impl Amount {
    /// So many billionths more.
    pub fn add(&self, nanos: u64) {
        self.0.inc_by(nanos);
    }

    /// How much so far.
    pub fn get(&self) -> f64 {
        self.0.get() as f64 / 1e9
    }
}

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct IntGauge(Arc<AtomicI64>);

impl IntGauge {
    /// Is this from now on.
    pub fn set(&self, number: i64) {
        self.0.store(number, Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// How many now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How often values fell between which bounds. There is no count beside the buckets: it is their sum, in each scrape.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    /// In parts of a whole, as the sum: whole numbers are compared and added up in one step.
    bounds: Box<[u64]>,
    /// One for each bound, and one for what is above the last.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    parts: f64,
}

/// Times are added up in nanoseconds, counts in ones.
fn parts_of(name: &str) -> f64 {
    if name.ends_with("_seconds") { 1e9 } else { 1.0 }
}

impl Histogram {
    /// Adds one value.
    pub fn observe(&self, value: f64) {
        // What is added is never negative, and what is too large becomes the largest there is.
        self.add((value * self.0.parts + 0.5) as u64);
    }

    /// Adds a time.
    pub fn observe_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many values each bucket has had, and the sum of all.
    pub(super) fn so_far(&self) -> (Vec<u64>, f64) {
        let buckets = self.0.buckets.iter().map(|bucket| bucket.load(Acquire)).collect();
        (buckets, self.0.sum.load(Relaxed) as f64 / self.0.parts)
    }

    /// Whoever reads that it is there reads all that was added to others before.
    fn add(&self, value: u64) {
        let cells = &*self.0;
        let bucket = cells.bounds.partition_point(|bound| *bound < value);
        cells.sum.fetch_add(value, Relaxed);
        cells.buckets[bucket].fetch_add(1, Release);
    }
}

/// What all rows of a family have in common.
pub(super) struct Frame {
    spec: &'static Spec,
    /// How the lines of a histogram's buckets go on behind the labels: `le="0.5"} `.
    bounds: Box<[String]>,
}

impl Frame {
    fn new(spec: &'static Spec) -> Self {
        let bounds = if let Kind::Histogram(bounds) = spec.kind { bounds } else { &[] };
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        Self { spec, bounds: bounds.map(|bound| format!("le=\"{bound}\"}} ")).collect() }
    }
}

/// What a family is made of.
pub(super) trait Cell: Clone {
    fn new(spec: &Spec) -> Self;

    /// Writes the lines of one row; `labels` are as they stand between the braces, or nothing.
    fn write(&self, frame: &Frame, labels: &str, page: &mut String);
}

impl Cell for IntCounter {
    fn new(_: &Spec) -> Self {
        Self::default()
    }

    fn write(&self, frame: &Frame, labels: &str, page: &mut String) {
        line(page, frame.spec.name, labels, self.get(), false);
    }
}

impl Cell for Amount {
    fn new(_: &Spec) -> Self {
        Self::default()
    }

    fn write(&self, frame: &Frame, labels: &str, page: &mut String) {
        page.push_str(frame.spec.name);
        braced(page, labels);
        page.push_str(&self.get().to_string());
        page.push('\n');
    }
}

impl Cell for IntGauge {
    fn new(_: &Spec) -> Self {
        Self::default()
    }

    fn write(&self, frame: &Frame, labels: &str, page: &mut String) {
        let now = self.get();
        line(page, frame.spec.name, labels, now.unsigned_abs(), now < 0);
    }
}

impl Cell for Histogram {
    fn new(spec: &Spec) -> Self {
        let bounds = if let Kind::Histogram(bounds) = spec.kind { bounds } else { &[] };
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        let parts = parts_of(spec.name);
        let bounds = bounds.iter().map(|bound| (bound * parts).round() as u64).collect();
        Self(Arc::new(Cells { bounds, buckets, sum: AtomicU64::new(0), parts }))
    }

    fn write(&self, frame: &Frame, labels: &str, page: &mut String) {
        let (name, comma) = (frame.spec.name, if labels.is_empty() { "" } else { "," });
        let mut count = 0;
        for (bucket, bound) in self.0.buckets.iter().zip(&frame.bounds) {
            count += bucket.load(Acquire);
            for piece in [name, "_bucket{", labels, comma, bound] {
                page.push_str(piece);
            }
            digits(page, count);
            page.push('\n');
        }
        page.push_str(name);
        page.push_str("_sum");
        braced(page, labels);
        let sum = self.0.sum.load(Relaxed) as f64 / self.0.parts;
        page.push_str(&sum.to_string());
        page.push('\n');
        page.push_str(name);
        line(page, "_count", labels, count, false);
    }
}

fn line(page: &mut String, name: &str, labels: &str, number: u64, negative: bool) {
    page.push_str(name);
    braced(page, labels);
    if negative {
        page.push('-');
    }
    digits(page, number);
    page.push('\n');
}

fn braced(page: &mut String, labels: &str) {
    if !labels.is_empty() {
        for piece in ["{", labels, "}"] {
            page.push_str(piece);
        }
    }
    page.push(' ');
}

fn digits(page: &mut String, mut number: u64) {
    let mut text = [b'0'; 20];
    let mut start = text.len();
    while number > 0 || start == text.len() {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    page.push_str(std::str::from_utf8(&text[start..]).unwrap_or_default());
}

/// All rows of one name. Cheap to clone.
#[derive(Clone)]
pub(super) struct Family<T>(Arc<Rows<T>>);

struct Rows<T> {
    frame: Frame,
    /// By the values of the labels, in the order of the list.
    rows: RwLock<BTreeMap<Values, Row<T>>>,
}

type Values = Box<[Box<str>]>;

struct Row<T> {
    /// As they stand between the braces, in the order of the alphabet.
    labels: Box<str>,
    cell: T,
}

pub(super) type IntCounterVec = Family<IntCounter>;
pub(super) type AmountVec = Family<Amount>;
pub(super) type IntGaugeVec = Family<IntGauge>;
pub(super) type HistogramVec = Family<Histogram>;

impl<T: Cell> Family<T> {
    pub(super) fn new(spec: &'static Spec) -> Self {
        Self(Arc::new(Rows { frame: Frame::new(spec), rows: RwLock::default() }))
    }

    /// The row with these values, in the order of the list; it is there from now on.
    pub(super) fn with_label_values(&self, values: &[&str]) -> T {
        let values: Values = values.iter().map(|value| Box::from(*value)).collect();
        let labels = text_of(self.0.frame.spec.labels, &values);
        let mut rows = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.entry(values).or_insert_with(|| Row { labels, cell: T::new(self.0.frame.spec) }).cell.clone()
    }

    /// Shows each row, with the values of its labels in the order of the list.
    pub(super) fn each(&self, mut see: impl FnMut(&[Box<str>], &T)) {
        let rows = self.0.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().for_each(|(values, row)| see(values, &row.cell));
    }

    /// Forgets the rows that `keep` refuses.
    pub(super) fn retain(&self, keep: impl Fn(&Labels<'_>) -> bool) {
        let names = self.0.frame.spec.labels;
        let mut rows = self.0.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|values, _| keep(&names.iter().copied().zip(values.iter().map(|value| &**value)).collect()));
    }
}

/// Labels as they stand between the braces.
fn text_of(names: &[&str], values: &[Box<str>]) -> Box<str> {
    let mut pairs: Vec<_> = names.iter().zip(values).collect();
    pairs.sort();
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    pairs.join(",").into()
}

/// What a scrape writes out.
pub(super) trait Written: Send + Sync {
    fn write(&self, page: &mut String);
}

impl<T: Cell + Send + Sync> Written for Family<T> {
    fn write(&self, page: &mut String) {
        let Spec { name, kind, help, .. } = self.0.frame.spec;
        let rows = self.0.rows.read().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() {
            return;
        }
        for piece in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind.name(), "\n"] {
            page.push_str(piece);
        }
        for row in rows.values() {
            row.cell.write(&self.0.frame, &row.labels, page);
        }
    }
}
