//! What engines say of themselves: requests they have, requests that wait, how full their KV cache is.
//!
//! It is how a pool learns of the load that others put on its backends: other gateways, batch jobs, somebody's notebook.
//! It is never trusted alone: our own count of what is in flight is exact and always counts, what an engine tells only
//! adds to it, and the older it is the less.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The last reading of one backend's metrics.
#[derive(Debug)]
pub struct Signals {
    epoch: Instant,
    /// When it was read, in milliseconds since `epoch`, counted from 1; 0 if never.
    at: AtomicU64,
    /// How long it counts, in milliseconds.
    believe: AtomicU64,
    elsewhere: AtomicU32,
    cache_used: AtomicU32,
}

/// What the metrics of an engine say.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Requests that are being run.
    pub running: f32,
    /// Requests that wait for their turn.
    pub waiting: f32,
    /// How much of the KV cache is taken, 0 to 1.
    pub cache_used: f32,
}

/// Names in Prometheus' text, and what they say. vLLM, SGLang, llama.cpp; vLLM's older name for its cache too.
const NAMES: [(&str, Kind); 10] = [
    ("vllm:num_requests_running", Kind::Running),
    ("vllm:num_requests_waiting", Kind::Waiting),
    ("vllm:kv_cache_usage_perc", Kind::Cache),
    ("vllm:gpu_cache_usage_perc", Kind::Cache),
    ("sglang:num_running_reqs", Kind::Running),
    ("sglang:num_queue_reqs", Kind::Waiting),
    ("sglang:token_usage", Kind::Cache),
    ("llamacpp:requests_processing", Kind::Running),
    ("llamacpp:requests_deferred", Kind::Waiting),
    ("llamacpp:kv_cache_usage_ratio", Kind::Cache),
];

#[derive(Clone, Copy)]
enum Kind {
    Running,
    Waiting,
    Cache,
}

/// A number of requests beyond which a reading is nonsense.
const MOST: f32 = 1e6;

impl Reading {
    /// Reads an engine's metrics; none if they say nothing that is known. What an engine tells for each model or rank
    /// apart is added up; of several caches the fullest counts.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reading = Self::default();
        let mut found = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let Some((_, kind)) = NAMES.iter().find(|(name, _)| *name == &line[..end]) else { continue };
            // Labels may hold blanks and braces; a timestamp may follow.
            let rest = line.rfind('}').map_or(&line[end..], |at| &line[at + 1..]);
            let value = rest.split_ascii_whitespace().next().and_then(|value| value.parse::<f32>().ok());
            let Some(value) = value.filter(|value| (0.0..=MOST).contains(value)) else { continue };
            found = true;
            match kind {
                Kind::Running => reading.running += value,
                Kind::Waiting => reading.waiting += value,
                Kind::Cache => reading.cache_used = reading.cache_used.max(value.min(1.0)),
            }
        }
        found.then_some(reading)
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            at: AtomicU64::new(0),
            believe: AtomicU64::new(0),
            elsewhere: AtomicU32::new(0),
            cache_used: AtomicU32::new(0),
        }
    }
}

impl Signals {
    /// Takes in what a backend told while it had `ours` requests of ours.
    pub fn told(&self, reading: Reading, ours: usize, believe: Duration) {
        // What waits there waits for what is before it: it weighs twice.
        let elsewhere = (reading.running + 2.0 * reading.waiting - ours as f32).max(0.0);
        self.elsewhere.store(elsewhere.to_bits(), Ordering::Relaxed);
        self.cache_used.store(reading.cache_used.to_bits(), Ordering::Relaxed);
        self.believe.store(millis(believe), Ordering::Relaxed);
        self.at.store(1 + millis(self.epoch.elapsed()), Ordering::Relaxed);
    }

    /// Requests it has from elsewhere and how full its cache is, as far as that is known and still counts.
    pub fn now(&self, now: Instant) -> (f32, f32) {
        let at = self.at.load(Ordering::Relaxed);
        if at == 0 {
            return (0.0, 0.0);
        }
        let age = millis(now.saturating_duration_since(self.epoch)).saturating_sub(at - 1) as f32;
        let counts = (1.0 - age / self.believe.load(Ordering::Relaxed).max(1) as f32).max(0.0);
        let value = |bits: &AtomicU32| f32::from_bits(bits.load(Ordering::Relaxed)) * counts;
        (value(&self.elsewhere), value(&self.cache_used))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLLM: &str = "\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"a {b} c\"} 3.0
vllm:num_requests_running{engine=\"1\",model_name=\"a\"} 2.0 1730000000000
vllm:num_requests_waiting{engine=\"0\",model_name=\"a\"} 4.0
vllm:kv_cache_usage_perc{engine=\"0\"} 0.25
vllm:kv_cache_usage_perc{engine=\"1\"} 0.75
vllm:request_success_total{finished_reason=\"stop\"} 812.0
";

    #[test]
    fn engines_are_read_in_their_own_words() {
        let reading = Reading { running: 5.0, waiting: 4.0, cache_used: 0.75 };
        assert_eq!(Reading::parse(VLLM), Some(reading));
        let sglang = "sglang:num_running_reqs{model_name=\"m\"} 7\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n";
        assert_eq!(Reading::parse(sglang), Some(Reading { running: 7.0, waiting: 1.0, cache_used: 0.5 }));
        let llama = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n";
        assert_eq!(Reading::parse(llama), Some(Reading { running: 1.0, waiting: 2.0, cache_used: 0.0 }));
    }

    #[test]
    fn what_says_nothing_is_no_reading() {
        for text in [
            "",
            "<html>",
            "vllm:num_requests_running NaN",
            "vllm:num_requests_running{",
            "vllm:num_requests_running -1",
        ] {
            assert_eq!(Reading::parse(text), None, "{text}");
        }
    }

    #[test]
    fn our_own_requests_are_not_counted_twice_and_old_readings_fade() {
        let signals = Signals::default();
        assert_eq!(signals.now(Instant::now()), (0.0, 0.0));
        signals.told(Reading { running: 6.0, waiting: 2.0, cache_used: 0.5 }, 4, Duration::from_secs(10));
        let now = Instant::now();
        let (elsewhere, cache_used) = signals.now(now);
        assert!((5.9..=6.0).contains(&elsewhere) && (0.49..=0.5).contains(&cache_used), "{elsewhere} {cache_used}");
        let (elsewhere, _) = signals.now(now + Duration::from_secs(5));
        assert!((2.9..3.1).contains(&elsewhere), "{elsewhere}");
        assert_eq!(signals.now(now + Duration::from_secs(11)), (0.0, 0.0));
        signals.told(Reading { running: 1.0, ..Reading::default() }, 4, Duration::from_secs(10));
        assert_eq!(signals.now(Instant::now()).0, 0.0, "an engine that tells less than we know changes nothing");
    }
}
