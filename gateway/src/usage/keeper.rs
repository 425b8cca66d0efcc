//! Brings the journal into the store: closes the segment that is being written, folds it, and takes over what processes
//! have left that were killed.

use super::line::{self, COUNTS, Entry, Sums, Whose};
use super::place::Place;
use super::segment::{Block, Segment};
use super::{MOST, Usages, report};
use crate::storage::{Storage, usage as stored};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tidegate_config::Usage;
use tidegate_plugins::when::When;
use tokio::sync::Mutex;
use uuid::Uuid;

/// How often the store gets what was recorded: what a power failure takes along.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked for what other processes have left.
const LOOK_AROUND: Duration = Duration::from_secs(10);

/// How often days are forgotten that are over long enough.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// So many blocks wait as they are; of more, one is made.
const BLOCKS: usize = 8;

/// Who keeps usage.
pub(crate) struct Keeper {
    usages: Arc<Usages>,
    storage: Storage,
    settings: Usage,
    place: report::Place,
    state: Mutex<State>,
}

/// A journal that is being folded: this process's, or one that another has left.
struct Journal {
    id: Arc<str>,
    place: Option<Place>,
    blocks: VecDeque<Block>,
}

struct State {
    /// Where journals are, and of which store.
    base: Option<PathBuf>,
    store: PathBuf,
    ours: Journal,
    next: u64,
    /// Segments that are closed, but to whom somebody may just be writing.
    closed: VecDeque<Arc<Segment>>,
    left: Vec<Journal>,
    looked: Option<Instant>,
    forgotten: Option<Instant>,
    dropped: u64,
}

impl Keeper {
    /// Begins a journal for the store at `path`. Without a place for it usage is kept all the same, less safely.
    pub(crate) fn begin(storage: Storage, path: &Path, settings: &Usage) -> Self {
        let place = Place::make(settings.journal.as_deref(), path);
        if let Err(error) = &place {
            let what = "there is no journal of usage in memory: a kill loses what was used in the last second";
            tracing::warn!(%error, "{what}");
        }
        let place = place.ok();
        let first = Segment::new(1, place.as_ref().and_then(|place| place.segment(1).ok()));
        let ours = Journal::begin(place);
        let (closed, left) = (VecDeque::new(), Vec::new());
        let (base, store) = (settings.journal.clone(), path.to_owned());
        let state = State { base, store, ours, next: 2, closed, left, looked: None, forgotten: None, dropped: 0 };
        let usages = Arc::new(Usages::new(first, MOST));
        let place = report::Place::of(path, settings.journal.as_deref());
        Self { usages, storage, settings: settings.clone(), place, state: Mutex::new(state) }
    }

    /// Where usage is looked up.
    pub(crate) fn place(&self) -> &report::Place {
        &self.place
    }

    /// Where requests say what they have used.
    pub(crate) fn usages(&self) -> &Arc<Usages> {
        &self.usages
    }

    /// What `/metrics` shows of it.
    pub(crate) fn metrics(&self) -> &super::metrics::UsageMetrics {
        &self.usages.metrics
    }

    /// Keeps what is used for as long as the gateway runs.
    pub(crate) async fn run(&self) {
        loop {
            self.keep().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Brings what there is into the store; whether that is all now.
    pub(crate) async fn keep(&self) -> bool {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        state.turn(&self.usages);
        if state.looked.is_none_or(|then| then.elapsed() > LOOK_AROUND) {
            state.look_around();
            state.looked = Some(Instant::now());
        }
        state.measure(&self.usages);
        let mut is_there = true;
        for journal in std::iter::once(&mut state.ours).chain(&mut state.left) {
            // Where one is not taken, the others need not wait for that as well.
            is_there = is_there && self.fold(journal).await;
        }
        if !is_there {
            state.ours.gather(&self.usages);
        }
        state.tidy();
        if state.forgotten.is_none_or(|then| then.elapsed() > FORGET_EVERY) {
            let first = today().saturating_sub(days(self.settings.keep));
            state.forgotten =
                self.storage.enqueue(move |transaction| stored::forget(transaction, first)).then(Instant::now);
        }
        state.measure(&self.usages);
        is_there && state.closed.is_empty()
    }

    /// The last that is kept: for the end of the process, once nobody records any more.
    pub(crate) async fn end(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.keep().await {
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut state = self.state.lock().await;
        if let Some(place) = state.ours.place.take() {
            // Should it stay, the next process finds nothing in it.
            let _ = place.remove();
        }
        true
    }

    /// Folds one block after the other; whether all of them are in the store.
    async fn fold(&self, journal: &mut Journal) -> bool {
        while let Some(block) = journal.blocks.front_mut() {
            let mut sums = HashMap::new();
            if let Err(error) = block.add_to(&mut sums) {
                self.usages.metrics.journal_failed.inc();
                tracing::error!(%error, "a part of the journal of usage cannot be read, and is lost");
            }
            let (id, to, most) = (journal.id.clone(), block.to, self.settings.rows);
            let rows: Vec<_> = sums.into_iter().filter(|(_, sums)| *sums != [0; COUNTS.len()]).collect();
            if !rows.is_empty() {
                block.is_tried = true;
                let fold = move |transaction: &rusqlite::Transaction<'_>| {
                    stored::fold(transaction, &id, to, &rows, most, When::now().unix())
                };
                if let Err(error) = self.storage.commit(fold).await {
                    self.usages.metrics.store_failed.inc();
                    tracing::debug!(%error, "usage waits for the store");
                    return false;
                }
            }
            if let Some(block) = journal.blocks.pop_front() {
                block.remove();
                self.usages.waiting.fetch_sub(block.bytes, Relaxed);
            }
        }
        true
    }
}

impl State {
    /// Begins another segment, if there is something in this one.
    fn turn(&mut self, usages: &Usages) {
        let current = usages.current.load();
        if current.bytes() > 0 || !current.is_in_a_file() && self.ours.place.is_some() {
            let file = self.file();
            if let Some(Err(error)) = &file {
                if usages.metrics.journal_failed.get() == 0 || current.is_in_a_file() {
                    tracing::error!(%error, "the journal of usage cannot be written; a kill loses what is used now");
                }
                usages.metrics.journal_failed.inc();
            }
            let next = Segment::new(self.next, file.and_then(Result::ok));
            self.next += 1;
            drop(current);
            self.closed.push_back(usages.current.swap(Arc::new(next)));
        } else {
            drop(current);
        }
        // Whoever still writes to one holds it.
        while let Some(segment) = self.closed.pop_front() {
            match Arc::try_unwrap(segment) {
                Ok(segment) => self.ours.blocks.push_back(segment.close()),
                Err(segment) => {
                    self.closed.push_front(segment);
                    break;
                }
            }
        }
    }

    /// A file for the next segment. A journal that was taken away while it was used is begun anew elsewhere.
    fn file(&mut self) -> Option<io::Result<(File, PathBuf)>> {
        let place = self.ours.place.as_ref()?;
        match place.segment(self.next) {
            Err(error) if error.kind() == ErrorKind::NotFound => match Place::make(self.base.as_deref(), &self.store) {
                Ok(place) => {
                    let file = place.segment(self.next);
                    // What was in it before is still open, and goes on under its old name.
                    let before = std::mem::replace(&mut self.ours, Journal::begin(Some(place)));
                    self.left.push(before);
                    Some(file)
                }
                Err(_) => Some(Err(error)),
            },
            made => Some(made),
        }
    }

    /// Takes over the journals of processes that are no more.
    fn look_around(&mut self) {
        let Some(place) = &self.ours.place else { return };
        let left = match place.left_behind() {
            Ok(left) => left,
            Err(error) => return tracing::debug!(%error, "no other journals of usage can be found"),
        };
        for place in left {
            let pieces = place.pieces().unwrap_or_default();
            let blocks: VecDeque<_> = pieces.into_iter().filter_map(|piece| Block::open(piece).ok()).collect();
            tracing::info!(journal = place.id, pieces = blocks.len(), "usage is taken over that a process has left");
            self.left.push(Journal { blocks, ..Journal::begin(Some(place)) });
        }
    }

    /// Removes the journals of others that are in the store.
    fn tidy(&mut self) {
        for journal in self.left.extract_if(.., |journal| journal.blocks.is_empty()) {
            if let Some(Err(error)) = journal.place.map(Place::remove) {
                tracing::debug!(%error, "an empty journal of usage stays");
            }
        }
    }

    fn measure(&mut self, usages: &Usages) {
        let metrics = &usages.metrics;
        metrics.waiting.set(i64::try_from(usages.waiting.load(Relaxed)).unwrap_or(i64::MAX));
        let closed = self.closed.front().map(|segment| segment.begun);
        let oldest = self.ours.blocks.front().map(|block| block.begun).or(closed);
        let behind = oldest.map_or(0, |oldest| oldest.elapsed().as_secs());
        metrics.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        let dropped = metrics.dropped.get();
        if dropped > self.dropped {
            let records = dropped - self.dropped;
            tracing::error!(records, "usage is lost: too much waits for the store");
        }
        self.dropped = dropped;
    }
}

impl Journal {
    fn begin(place: Option<Place>) -> Self {
        let id = place.as_ref().map_or_else(|| Uuid::now_v7().to_string(), |place| place.id.clone());
        Self { id: id.into(), place, blocks: VecDeque::new() }
    }

    /// Makes one block of those that the store has not seen: as long as it is away, no more waits than there are names.
    fn gather(&mut self, usages: &Usages) {
        let seen = self.blocks.iter().take_while(|block| block.is_tried).count();
        if self.blocks.len() - seen <= BLOCKS {
            return;
        }
        let mut sums: HashMap<Whose, Sums> = HashMap::new();
        for block in self.blocks.iter().skip(seen) {
            if block.add_to(&mut sums).is_err() {
                return;
            }
        }
        let mut lines = Vec::new();
        for (Whose { day, names }, sums) in &sums {
            let names = names.each_ref().map(|name| &**name);
            line::write(&mut lines, &[Entry { day: *day, names, sums: *sums }]);
        }
        let (Some(first), Some(last)) = (self.blocks.get(seen), self.blocks.back()) else { return };
        let (from, to, begun) = (first.from, last.to, first.begun);
        let put = self.place.as_ref().map(|place| place.put(from, to, &lines));
        let bytes = lines.len() as u64;
        let (file, rest) = match put {
            Some(Ok(file)) => (Some(file), Vec::new()),
            // There is no room for one more: those that are there stay.
            Some(Err(_)) => return,
            None => (None, lines),
        };
        let one = Block { from, to, file, rest, bytes, begun, is_tried: false };
        usages.waiting.fetch_add(bytes, Relaxed);
        for block in self.blocks.drain(seen..) {
            block.remove();
            usages.waiting.fetch_sub(block.bytes, Relaxed);
        }
        self.blocks.push_back(one);
    }
}

#[cfg(test)]
pub(super) struct ByHand<'a>(tokio::sync::MutexGuard<'a, State>);

#[cfg(test)]
impl Keeper {
    /// The state, so that a test can do in a moment what otherwise takes minutes.
    pub(super) async fn by_hand(&self) -> ByHand<'_> {
        ByHand(self.state.lock().await)
    }
}

#[cfg(test)]
impl ByHand<'_> {
    /// What happens in a second in which the store is away.
    pub(super) fn turn_and_gather(&mut self, usages: &Usages) {
        self.0.turn(usages);
        if let Some(first) = self.0.ours.blocks.front_mut() {
            first.is_tried = true;
        }
        self.0.ours.gather(usages);
    }

    pub(super) fn blocks(&self) -> usize {
        self.0.ours.blocks.len()
    }
}

/// The day by the clock on the wall, counted from 1970-01-01 (UTC).
pub(crate) fn today() -> u32 {
    day_of(When::now().unix())
}

/// The day of a moment in seconds.
pub(super) fn day_of(unix: i64) -> u32 {
    u32::try_from(unix.div_euclid(86_400)).unwrap_or(0)
}

fn days(time: Duration) -> u32 {
    u32::try_from(time.as_secs().div_ceil(86_400)).unwrap_or(u32::MAX)
}
