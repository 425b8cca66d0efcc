//! One request at one backend, and what it shows about the backend: heard once by the breaker and the balancer.

use super::backend::Backend;
use super::breaker::Verdict;
use super::pool::Pool;
use crate::telemetry::Cause;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tidegate_plugins::balancer::Observed;

/// An attempt. The first verdict counts; one that is dropped without a verdict says nothing.
pub struct Attempt {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    /// The model, as breakers know it.
    model: u64,
    /// Whether it is the one that shows whether the backend is well again.
    probing: bool,
    began: Instant,
    /// Requests that the backend had then, this one included.
    among: usize,
    answered: AtomicBool,
    judged: AtomicBool,
}

impl Attempt {
    pub(super) fn new(pool: &Arc<Pool>, backend: &Arc<Backend>, model: u64, probing: bool) -> Self {
        pool.balancer.observe(backend.member.id, Observed::Started);
        Self {
            pool: pool.clone(),
            backend: backend.clone(),
            model,
            probing,
            began: Instant::now(),
            among: backend.in_flight() + 1,
            answered: AtomicBool::new(false),
            judged: AtomicBool::new(false),
        }
    }

    /// The first token has come, or the answer whole. What comes later is not heard.
    pub fn first_token(&self, now: Instant) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            let time = now.saturating_duration_since(self.began);
            self.backend.answered(time, self.among);
            self.pool.balancer.observe(self.backend.member.id, Observed::FirstToken(time));
        }
    }

    /// How the backend ended its answer, once the client's request is over.
    pub fn ended(&self, cause: Cause, upstream_status: Option<u16>) {
        self.judge(match (cause, upstream_status) {
            (Cause::UpstreamError | Cause::UpstreamTimeout, _) => Verdict::Fault,
            (Cause::UpstreamOverload, _) => Verdict::Full,
            (Cause::None | Cause::Client, Some(_)) => Verdict::Good,
            _ => Verdict::Nothing,
        });
    }

    /// It answered with this status, and the request goes on elsewhere.
    pub fn refused(&self, status: u16) {
        self.judge(match status {
            429 | 503 | 529 => Verdict::Full,
            501 => Verdict::Good,
            500.. => Verdict::Fault,
            _ => Verdict::Good,
        });
    }

    /// It could not be reached, broke off, or sent what is no answer.
    pub fn failed(&self) {
        self.judge(Verdict::Fault);
    }

    /// It did not begin to answer for as long as it may. If it sent something to others meanwhile it is only slow.
    pub fn silent(&self) {
        let alive = self.backend.health.was_alive_since(self.began);
        self.judge(if alive { Verdict::Fault } else { Verdict::Silent });
    }

    /// It came to an end that shows nothing.
    pub fn said_nothing(&self) {
        self.judge(Verdict::Nothing);
    }

    fn judge(&self, verdict: Verdict) {
        if self.judged.swap(true, Ordering::Relaxed) {
            return;
        }
        if matches!(verdict, Verdict::Fault | Verdict::Silent) {
            self.pool.balancer.observe(self.backend.member.id, Observed::Failed);
        }
        if let Some(settings) = &self.pool.breaker {
            self.backend.judge(self.model, verdict, self.probing, settings);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.judge(Verdict::Nothing);
        self.pool.balancer.observe(self.backend.member.id, Observed::Ended);
    }
}
