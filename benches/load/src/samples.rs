//! What was measured, in histograms that keep their precision at every magnitude.

use crate::fault::Fault;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Everything that was seen from outside.
pub struct Samples {
    /// From when a request was due to the end of its answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// The same of answers that are no good ones: refusals, say.
    pub refusals: Histogram<u64>,
    /// From when a request was due to its answer's first event.
    pub first_token: Histogram<u64>,
    /// From one event to the next.
    pub between_tokens: Histogram<u64>,
    /// Good answers that came whole.
    pub requests: u64,
    /// Events that came.
    pub events: u64,
    /// Tokens that answers said they have.
    pub tokens: u64,
    /// Whole answers, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Failures, by kind.
    pub errors: BTreeMap<Fault, u64>,
    /// Requests that began late because no connection was free, or because this process was.
    pub late: u64,
    /// Requests that were due and had no whole answer when it was over.
    pub unfinished: u64,
    /// What happens before this does not count.
    pub from: Instant,
}

/// A request that begins so long after it was due is late.
const LATE: Duration = Duration::from_millis(1);

impl Samples {
    /// Nothing yet.
    pub(crate) fn new(from: Instant) -> Self {
        let [latency, refusals, first_token, between_tokens] = [(); 4].map(|()| histogram());
        Self {
            latency,
            refusals,
            first_token,
            between_tokens,
            requests: 0,
            events: 0,
            tokens: 0,
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            late: 0,
            unfinished: 0,
            from,
        }
    }

    /// A request begins that was due.
    pub(crate) fn began(&mut self, due: Instant, now: Instant) {
        self.late += u64::from(now >= self.from && now - due > LATE);
    }

    /// A good answer that came whole.
    pub(crate) fn answered(&mut self, status: u16, tokens: u64, due: Instant, now: Instant) {
        if now >= self.from {
            self.requests += 1;
            self.tokens += tokens;
            *self.statuses.entry(status).or_default() += 1;
            record(&mut self.latency, now - due);
        }
    }

    /// An answer that came whole and is no good one.
    pub(crate) fn refused(&mut self, status: u16, due: Instant, now: Instant) {
        if now >= self.from {
            *self.statuses.entry(status).or_default() += 1;
            record(&mut self.refusals, now - due);
        }
    }

    /// Events that came with one read: the first of them after `gap`, the others with it.
    pub(crate) fn events(&mut self, count: u64, gap: Gap, now: Instant) {
        if now < self.from {
            return;
        }
        self.events += count;
        match gap {
            Gap::First(time) => record(&mut self.first_token, time),
            Gap::Next(time) => record(&mut self.between_tokens, time),
        }
        // A histogram that resizes itself takes every value.
        let _ = self.between_tokens.record_n(0, count - 1);
    }

    /// A request that failed. Failures count whenever they happen: there should be none.
    pub(crate) fn failed(&mut self, kind: Fault) {
        *self.errors.entry(kind).or_default() += 1;
    }

    /// It is over, and these requests were due and have not been answered: so long have they waited.
    ///
    /// In an open loop those count as answered now that have waited longer than nearly all that were answered: to leave
    /// them out would hide just the stall that they wait for. The others would only have looked faster than they are.
    pub(crate) fn over(&mut self, waited: &[Duration], is_open: bool) {
        self.unfinished = waited.len() as u64;
        let slow = Duration::from_nanos(self.latency.value_at_quantile(0.99));
        for time in waited.iter().filter(|time| is_open && **time > slow) {
            record(&mut self.latency, *time);
        }
    }
}

/// What the time before an event is.
pub(crate) enum Gap {
    /// The time to the first token.
    First(Duration),
    /// The time since the last.
    Next(Duration),
}

fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are a valid precision"));
    histogram.auto(true);
    histogram
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    // As above.
    let _ = histogram.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn answered(count: u32, time: Duration) -> Samples {
        let due = Instant::now();
        let mut samples = Samples::new(due);
        (0..count).for_each(|_| samples.answered(200, 0, due, due + time));
        samples
    }

    #[test]
    fn a_stall_at_the_end_of_an_open_loop_shows_in_its_percentiles_and_not_in_a_closed_one() {
        // A second at 1,000 requests a second, and then a second in which none is answered.
        let waited: Vec<_> = (0..1000).map(|index| MS * index).collect();
        for is_open in [true, false] {
            let mut samples = answered(1000, MS);
            samples.over(&waited, is_open);
            assert_eq!((samples.unfinished, samples.requests), (1000, 1000));
            let p90 = Duration::from_nanos(samples.latency.value_at_quantile(0.9));
            assert_eq!(p90 > 700 * MS, is_open, "{p90:?}");
        }
    }

    #[test]
    fn what_is_under_way_at_the_end_makes_nothing_look_faster() {
        let mut samples = answered(100, 1000 * MS);
        samples.over(&[MS, 500 * MS, 999 * MS], true);
        assert_eq!((samples.latency.len(), samples.unfinished), (100, 3));
    }

    #[test]
    fn what_was_before_it_counts_is_left_out_but_for_failures() {
        let now = Instant::now();
        let mut samples = Samples::new(now + MS);
        samples.began(now - MS * 9, now);
        samples.answered(200, 5, now, now);
        samples.refused(429, now, now);
        samples.events(2, Gap::First(MS), now);
        samples.failed(Fault::Reset);
        assert_eq!((samples.requests, samples.events, samples.late, samples.statuses.len()), (0, 0, 0, 0));
        assert_eq!(samples.errors[&Fault::Reset], 1);
    }

    #[test]
    fn events_that_come_together_have_no_time_between_them() {
        let now = Instant::now();
        let mut samples = Samples::new(now);
        samples.events(3, Gap::First(MS), now);
        samples.events(1, Gap::Next(20 * MS), now);
        assert_eq!((samples.first_token.len(), samples.between_tokens.len(), samples.events), (1, 3, 4));
        assert_eq!((samples.between_tokens.min(), samples.between_tokens.max() / 1_000_000), (0, 20));
    }
}
