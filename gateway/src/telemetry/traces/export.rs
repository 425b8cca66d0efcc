//! The way to the collector: a bounded queue, and a thread that sends what is in it, many requests at a time.

use super::rule::Rule;
use super::{Content, Finished, Kept, spans};
use crate::outbound::{self, Answered, Fetcher};
use crate::telemetry::metrics::{IntCounter, TraceSeries};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tidegate_plugins::outbound::Bounds;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// The most memory that waiting requests take, whatever the file says of their number.
const MOST_BYTES: usize = 32 << 20;

/// From so many bytes on a message is large enough: collectors refuse those of a few MiB.
const MESSAGE: usize = 1 << 20;

/// The longest answer of a collector that is read.
const ANSWER: usize = 64 << 10;

/// The pauses before a message is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Sends requests that are over to a collector.
pub struct Exporter {
    shared: Arc<Shared>,
    thread: OnceLock<Option<Handle>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    rule: ArcSwapOption<Rule>,
    series: TraceSeries,
    /// Whether the process ends: nothing is waited for any more.
    closing: AtomicBool,
    fetcher: Fetcher,
}

#[derive(Default)]
struct Queue {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Requests that are being sent.
    leaving: usize,
}

impl Exporter {
    /// One that counts here.
    pub fn new(series: TraceSeries) -> Self {
        let shared = Shared {
            queue: Mutex::default(),
            wake: Notify::new(),
            rule: ArcSwapOption::empty(),
            series,
            closing: AtomicBool::new(false),
            fetcher: Fetcher::default(),
        };
        Self { shared: Arc::new(shared), thread: OnceLock::new() }
    }

    /// From now on the file says this. The first time that it wants traces, there is a thread for them.
    pub fn adopt(&self, rule: Option<Arc<Rule>>) {
        let wanted = rule.is_some();
        self.shared.rule.store(rule);
        if !wanted {
            return;
        }
        let begin = || {
            let handle = outbound::thread("traces", &mut Builder::new_current_thread())?;
            handle.spawn(run(self.shared.clone()));
            Some(handle)
        };
        if self.thread.get_or_init(begin).is_none() {
            tracing::error!("no thread can be had to send traces on");
        }
    }

    /// Takes a request that is over, or drops and counts it. Waits for nobody.
    pub fn offer(&self, finished: &Arc<Finished>, content: Option<Box<Content>>) {
        let Some(rule) = &*self.shared.rule.load() else { return };
        let kept = Kept { finished: finished.clone(), content };
        let (weight, settings) = (kept.weight(), rule.settings());
        let mut queue = self.shared.queue();
        if queue.kept.len() >= settings.queue || queue.bytes + weight > MOST_BYTES {
            drop(queue);
            self.shared.series.dropped.inc();
            return;
        }
        queue.bytes += weight;
        queue.kept.push_back(kept);
        let waiting = queue.kept.len();
        drop(queue);
        if waiting == 1 || waiting == settings.batch {
            self.shared.wake.notify_one();
        }
    }

    /// Requests that wait, and the memory they take.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.shared.queue();
        (queue.kept.len() + queue.leaving, queue.bytes)
    }

    /// Sends what is left, once, for no longer than this: the process ends.
    pub async fn flush(&self, patience: Duration) {
        self.shared.closing.store(true, Relaxed);
        self.shared.wake.notify_one();
        let sent = async {
            while self.waiting().0 > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(patience, sent).await.is_err() {
            tracing::warn!(traces = self.waiting().0, "the collector has not taken the last traces");
        }
    }
}

async fn run(shared: Arc<Shared>) {
    let mut is_away = false;
    loop {
        let Some(rule) = shared.gathered().await else { continue };
        let batch = shared.take(&rule);
        let requests = batch.len() as u64;
        let outcome = shared.send(&rule, &batch).await;
        drop(batch);
        shared.queue().leaving = 0;
        // Said once, not with each message.
        match &outcome {
            Ok(()) if is_away => tracing::info!("the collector takes traces again"),
            Err((_, why)) if !is_away => tracing::warn!(reason = why, "the collector takes no traces"),
            _ => {}
        }
        is_away = outcome.is_err();
        let counted = match &outcome {
            Ok(()) => &shared.series.sent,
            Err((counted, _)) => counted,
        };
        counted.inc_by(requests);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to be sent: a batch, or what has come in the time that the file gives it.
    async fn gathered(&self) -> Option<Arc<Rule>> {
        let waiting = || self.queue().kept.len();
        while waiting() == 0 {
            self.wake.notified().await;
        }
        let rule = self.rule.load_full();
        let Some(rule) = rule else {
            // Traces were turned off while these waited.
            let left = std::mem::take(&mut *self.queue()).kept.len();
            self.series.dropped.inc_by(left as u64);
            return None;
        };
        let until = Instant::now() + rule.settings().every;
        let mut over = pin!(sleep_until(until));
        while waiting() < rule.settings().batch && !self.closing.load(Relaxed) {
            tokio::select! {
                () = &mut over => break,
                () = self.wake.notified() => {}
            }
        }
        Some(rule)
    }

    fn take(&self, rule: &Rule) -> Vec<Kept> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut queue = self.queue();
        while batch.len() < rule.settings().batch
            && bytes < MESSAGE
            && let Some(kept) = queue.kept.pop_front()
        {
            bytes += kept.weight();
            batch.push(kept);
        }
        queue.bytes -= bytes;
        queue.leaving = batch.len();
        batch
    }

    /// Waits, unless the process ends.
    async fn rest(&self, wait: Duration) {
        let mut over = pin!(sleep(wait));
        while !self.closing.load(Relaxed) {
            tokio::select! {
                () = &mut over => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Sends requests until they are taken, or nobody will.
    async fn send(&self, rule: &Rule, batch: &[Kept]) -> Result<(), (IntCounter, String)> {
        let settings = rule.settings();
        let failed = |why: String| (self.series.failed.clone(), why);
        let url = settings.url().parse().map_err(|_| failed("its URL is none".to_owned()))?;
        let body = Bytes::from(spans::message(settings, batch).to_string());
        let give_up = Instant::now() + settings.retry;
        let mut pause = FIRST_PAUSE;
        loop {
            let bounds = Bounds { size: ANSWER, time: settings.timeout };
            let posted = self.fetcher.send(Method::POST, &url, headers(rule), body.clone(), bounds).await;
            let (why, wait) = match posted {
                Ok(Answered { status, body, .. }) if status.is_success() => {
                    told(&body);
                    return Ok(());
                }
                Ok(Answered { status, retry_after, .. }) if matches!(status.as_u16(), 429 | 502..=504) => {
                    (format!("it answered {status}"), retry_after)
                }
                Ok(Answered { status, .. }) => {
                    return Err((self.series.refused.clone(), format!("it answered {status}")));
                }
                Err(error) => (error, None),
            };
            let wait = wait.unwrap_or(pause).min(LONGEST_PAUSE);
            if self.closing.load(Relaxed) || Instant::now() + wait > give_up {
                return Err(failed(why));
            }
            self.rest(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What a collector says that has not taken all of a message.
fn told(answer: &[u8]) {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    let rejected = &partial["rejectedSpans"];
    let number = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0);
    if number > 0 {
        let why = partial["errorMessage"].as_str().unwrap_or_default();
        tracing::warn!(spans = number, why, "the collector has refused spans");
    }
}

fn headers(rule: &Rule) -> HeaderMap {
    let pair = |(name, value): (&String, &tidegate_config::Secret)| {
        let name: HeaderName = name.parse().ok()?;
        let mut value: HeaderValue = value.expose().parse().ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    rule.settings().headers.iter().filter_map(pair).chain([json]).collect()
}
