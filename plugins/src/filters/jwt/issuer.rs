//! An issuer's public keys, fetched beside the requests and kept.
//!
//! One task a URL fetches them: at the start, every while, and when a token names a key that is not among them, which is
//! how a new key shows itself. A flood of made-up names brings about one fetch each cooldown. While the issuer is away,
//! the keys that are known stay good, and it is asked again after 1, 2, 4, ... seconds.

use super::key::Keys;
use super::metrics::{Fetches, Metrics};
use crate::outbound::{Bounds, Outbound};
use futures_util::FutureExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// What fetching may take.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(5), size: 1 << 20 };

/// How long a request waits for a key that it names and nobody knows.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many may wait at a time.
const MOST_WAITING: usize = 64;

/// The first pause after a fetch that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// One version of the keys.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) keys: Arc<Keys>,
    /// Counts the versions; 0 before the first.
    pub(super) number: u64,
}

/// When the keys are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    pub(super) refresh: Duration,
    pub(super) cooldown: Duration,
}

/// The keys at one URL.
pub(super) struct Issuer {
    url: Box<str>,
    pace: Pace,
    current: RwLock<Version>,
    /// The document of the current version.
    document: Mutex<Option<blake3::Hash>>,
    wanted: Arc<Notify>,
    fetched: watch::Sender<u64>,
    /// Whether the cooldown runs: nothing is fetched now whoever wants it.
    resting: AtomicBool,
    waiting: AtomicUsize,
    fetches: Fetches,
}

impl Issuer {
    /// Keys that are not there yet, or those that were known at this URL before.
    fn new(url: &str, pace: Pace, known: Option<&Self>, fetches: Fetches) -> Self {
        let nothing = || Version { keys: Arc::default(), number: 0 };
        Self {
            url: url.into(),
            pace,
            current: RwLock::new(known.map_or_else(nothing, Self::current)),
            document: Mutex::new(
                known.and_then(|known| *known.document.lock().unwrap_or_else(PoisonError::into_inner)),
            ),
            wanted: Arc::default(),
            fetched: watch::Sender::new(0),
            resting: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            fetches,
        }
    }

    /// The keys as they are known now.
    pub(super) fn current(&self) -> Version {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wants the keys fetched again, and waits for it a moment if it can be now. The keys as they are known then.
    pub(super) async fn look_again(&self) -> Version {
        let mut fetched = self.fetched.subscribe();
        // What is wanted during the cooldown is fetched after it.
        self.wanted.notify_one();
        let _waiting = Waiting(&self.waiting);
        let crowded = self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING;
        if !crowded && !self.resting.load(Ordering::Relaxed) {
            let _ = tokio::time::timeout(PATIENCE, fetched.changed()).await;
        }
        self.current()
    }

    /// Fetches once. Whether it went well.
    async fn fetch(&self, outbound: &dyn Outbound) -> bool {
        let read = match outbound.get(&self.url, BOUNDS).await {
            Ok(document) => self.take(&document),
            Err(error) => Err(error),
        };
        let count = match &read {
            Ok(count) => Some(*count),
            Err(error) => {
                tracing::warn!(
                    url = &*self.url,
                    error,
                    "the keys of an issuer of tokens could not be fetched; those that are known stay"
                );
                None
            }
        };
        self.fetches.over(count);
        count.is_some()
    }

    /// Takes a document's keys, if it has any. How many.
    fn take(&self, document: &[u8]) -> Result<usize, String> {
        let hash = blake3::hash(document);
        let mut known = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == Some(hash) {
            return Ok(self.current().keys.len());
        }
        let set = serde_json::from_slice(document).map_err(|error| format!("not JSON: {error}"))?;
        let keys = Keys::read(&set)?;
        let count = keys.len();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Version { keys: Arc::new(keys), number: current.number + 1 };
        *known = Some(hash);
        Ok(count)
    }
}

/// Counts a request that waits out again.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes the task that fetches, so that it finds out that nobody needs it any more.
impl Drop for Issuer {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

/// Fetches for as long as somebody has use for the keys.
async fn keep(issuer: Weak<Issuer>, outbound: Arc<dyn Outbound>) {
    let mut failures = 0_u32;
    loop {
        let Some(held) = issuer.upgrade() else { return };
        let (pace, wanted) = (held.pace, held.wanted.clone());
        let began = Instant::now();
        // A panic would end all fetching: it counts as a failure.
        let went_well = std::panic::AssertUnwindSafe(held.fetch(&*outbound)).catch_unwind().await.unwrap_or(false);
        failures = if went_well { 0 } else { failures.saturating_add(1) };
        let due = match failures.checked_sub(1) {
            None => pace.refresh,
            Some(before) => (FIRST_PAUSE * 2_u32.saturating_pow(before.min(10))).min(pace.refresh),
        };
        let rest = pace.cooldown.saturating_sub(began.elapsed()).min(due);
        // Whoever wanted this fetch has it.
        let _ = wanted.notified().now_or_never();
        held.resting.store(true, Ordering::Relaxed);
        held.fetched.send_modify(|fetch| *fetch += 1);
        drop(held);
        tokio::time::sleep(rest).await;
        match issuer.upgrade() {
            Some(held) => held.resting.store(false, Ordering::Relaxed),
            None => return,
        }
        let _ = tokio::time::timeout(due.saturating_sub(rest), wanted.notified()).await;
    }
}

/// By URL and pace.
type Known = HashMap<(Box<str>, Pace), Weak<Issuer>>;

/// The issuers whose keys are kept, whatever version of the configuration wants them: a reload while an issuer is away
/// loses nothing.
#[derive(Default)]
pub struct Issuers {
    known: Mutex<Known>,
    /// What tokens and issuers did.
    pub metrics: Metrics,
}

impl Issuers {
    /// The keys at `url`; `name` is the issuer's.
    pub(super) fn at(&self, url: &str, name: &str, pace: Pace, outbound: &Arc<dyn Outbound>) -> Arc<Issuer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, issuer| issuer.strong_count() > 0);
        if let Some(issuer) = known.get(&(url.into(), pace)).and_then(Weak::upgrade) {
            return issuer;
        }
        let before = known.iter().find(|((known, _), _)| **known == *url).and_then(|(_, issuer)| issuer.upgrade());
        let issuer = Arc::new(Issuer::new(url, pace, before.as_deref(), self.metrics.fetches(name)));
        known.insert((url.into(), pace), Arc::downgrade(&issuer));
        outbound.spawn(keep(Arc::downgrade(&issuer), outbound.clone()).boxed());
        issuer
    }
}
