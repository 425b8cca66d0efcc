//! What a request costs on its way to a backend: a place there, the breaker, the queue, the look at whether it is hedged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidegate::assemble::{self, Parts};
use tidegate::snapshot::Snapshot;
use tidegate::telemetry::Metrics;
use tidegate::upstream::breaker::{Breakers, Verdict};
use tidegate::upstream::hedge::Hedging;
use tidegate::upstream::queue::{Claim, Queue, Ticket};
use tidegate_bench_micro::file;
use tidegate_config::{Breaker, Hedge};
use tidegate_plugins::testing::exchange;
use tidegate_plugins::{Exchange, Registry};
use tokio::runtime::{Builder, Runtime};

/// As long as anybody waits here.
const LONG: Duration = Duration::from_secs(3600);

/// A pool as a file makes it.
pub(crate) struct Pool {
    snapshot: Snapshot,
    request: Exchange,
}

impl Pool {
    /// Of so many backends, among which `balance` picks.
    pub(crate) fn new(balance: &str, count: usize) -> Self {
        let urls: Vec<_> = (0..count).map(|n| format!("{{ url: \"http://b{n}:1\", max_in_flight: 64 }}")).collect();
        let text = format!("pools:\n  main: {{ balance: {balance}, backends: [{}] }}\n", urls.join(", "));
        let config = file::config(text);
        let (registry, metrics) = (Registry::built_in(), Metrics::new());
        let parts = Parts { registry: &registry, metrics: &metrics, previous: None };
        let snapshot = assemble::assemble(&config, &parts).expect("a good file");
        let mut request = exchange(r#"{"model": "m", "messages": []}"#);
        request.send_to("m".into());
        let pool = Self { snapshot, request };
        pool.lease();
        pool
    }

    /// A place, taken and given back.
    pub(crate) fn lease(&self) {
        drop(self.snapshot.pools[0].lease(&self.request, &[]));
    }
}

/// The breakers of a backend, one of which has seen a fault.
pub(crate) struct Broken(Breakers, Breaker);

impl Broken {
    pub(crate) fn new() -> Self {
        let broken = Self(Breakers::default(), Breaker::default());
        broken.0.judge(7, Verdict::Fault, false, &broken.1);
        broken
    }

    /// What one request does with them.
    pub(crate) fn pass(&self) {
        let admits = self.0.find(7).is_some_and(|breaker| breaker.admits(std::time::Instant::now()));
        assert!(admits);
        self.0.judge(7, Verdict::Good, false, &self.1);
    }

    /// A fault opens one, a request is let through to see, and its answer closes it.
    pub(crate) fn open_and_close(&self) {
        let at_once = Breaker { consecutive: 1, pause: Duration::ZERO, ..self.1.clone() };
        let opened = self.0.judge(7, Verdict::Fault, false, &at_once);
        let probing = self.0.find(7).and_then(|breaker| breaker.enter(std::time::Instant::now()));
        let closed = self.0.judge(7, Verdict::Good, true, &at_once);
        assert!(opened.is_some() && probing == Some(true) && closed.is_some());
    }
}

/// A queue in which so many wait.
pub(crate) struct Line {
    queue: Arc<Queue>,
    claim: Claim,
    waiting: VecDeque<Ticket>,
    runtime: Runtime,
}

impl Line {
    pub(crate) fn new(waiting: usize) -> Self {
        let settings = tidegate_config::Queue { most: waiting + 1, ..tidegate_config::Queue::default() };
        let queue = Arc::new(Queue::new(settings, Metrics::new().queue("main")));
        let claim = |n: usize| Claim { priority: 5, tenant: format!("org-{}", n % 50).into(), weight: 1, cost: 600 };
        let join = |n| queue.join(&claim(n), LONG).expect("there is room");
        let waiting: VecDeque<_> = (0..waiting).map(join).collect();
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut line = Self { claim: claim(0), queue, waiting, runtime };
        line.turn();
        line
    }

    /// One joins and leaves.
    pub(crate) fn pass(&self) {
        drop(self.queue.join(&self.claim, LONG).expect("there is room"));
    }

    /// A place comes free: the first in line is called, and takes it.
    pub(crate) fn turn(&mut self) {
        self.queue.freed();
        let mut first = self.waiting.pop_front().expect("somebody waits");
        assert!(self.runtime.block_on(first.called()));
        first.served();
    }
}

/// Hedging that has learned.
pub(crate) fn learned() -> Hedging {
    let hedging = Hedging::new(Hedge::default());
    (0..500).for_each(|n| hedging.took(true, Duration::from_millis(50 + n)));
    hedging
}

/// What one stream does with it, hedge included.
pub(crate) fn decide(hedging: &Hedging) {
    hedging.budget.earn();
    assert!(hedging.patience(true).is_some());
    hedging.budget.spend();
    hedging.took(true, Duration::from_millis(90));
}
