//! The store of one machine: everything in memory.

use super::calendar::Calendar;
use super::clock::{Clock, Moment};
use super::ledger::{Book, Ledger, PARTS, Spec};
use super::pending::Pending;
use super::quota::{At, Quota};
use super::sync::{AtomicUsize, Mutex};
use super::{Demand, Standing, Store, Subject};
use crate::services::{Journal, Spent};
use async_trait::async_trait;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// Idle subjects are looked for in so many parts of each ledger at a time: four times for all of them.
const TIDIED: usize = PARTS / 4;

/// How long somebody is told to wait for what others have reserved of a budget: nobody knows, and asking again costs
/// little.
const COMES_BACK: Duration = Duration::from_secs(1);

/// Counts in memory.
#[derive(Debug, Default)]
pub struct Local {
    clock: Clock,
    books: Mutex<HashMap<Arc<str>, Weak<Book>>>,
    /// Those of budgets, whose buckets stay while anything is spent in them, also if a reload does not know them.
    lasting: Mutex<Vec<Arc<Book>>>,
    /// What was spent of budgets, to be written down; nothing if there is nowhere to.
    pending: OnceLock<Pending>,
    next_part: AtomicUsize,
}

impl Local {
    /// A store that runs by `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The buckets of limits that somebody holds.
    pub(super) fn books(&self) -> Vec<Arc<Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }

    /// The buckets of a limit, and what was spent of them before the process began.
    fn book(&self, spec: Spec) -> Arc<Book> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(book) = books.get(&spec.id).and_then(Weak::upgrade) {
            return book;
        }
        books.retain(|_, book| book.strong_count() > 0);
        let book = Arc::new(Book::new(spec));
        books.insert(book.spec().id.clone(), Arc::downgrade(&book));
        drop(books);
        if let Some(calendar) = book.spec().calendar.clone() {
            let now = self.clock.now();
            self.restore(&book, &calendar, now);
            let at = At { ticks: now.ticks, window: calendar.window(now.wall) };
            let mut lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
            lasting.retain(|book| Arc::strong_count(book) > 1 || !book.is_unspent(at));
            lasting.push(book.clone());
        }
        book
    }

    /// Adds what was spent of a budget before the process began.
    fn restore(&self, book: &Book, calendar: &Calendar, now: Moment) {
        if let Some(pending) = self.pending.get() {
            restore(book, calendar, now, &pending.before(&book.spec().id));
        }
    }
}

/// Adds what was spent of a budget, but not here.
fn restore(book: &Book, calendar: &Calendar, now: Moment, spent: &[Spent]) {
    let at = At { ticks: now.ticks, window: calendar.window(now.wall) };
    for spent in spent {
        book.restore(Subject::from_bytes(spent.subject), at, spent.window, spent.amount);
    }
}

/// Whether all that bind could be met now; tells each how it stands.
fn look(demands: &mut [Demand], now: Moment) -> bool {
    let mut all = true;
    for demand in demands {
        demand.at = demand.ledger.at(now);
        let state = demand.ledger.state(demand.subject);
        demand.level = demand.ledger.quota().level(state, demand.at);
        demand.wait = demand.ledger.after(state, demand.at, demand.amount).err();
        // What open requests have reserved of a budget comes back long before the next one begins.
        demand.is_reserved = false;
        if demand.wait.is_some() && demand.ledger.is_budget() {
            let reserved = demand.ledger.standing(demand.subject, demand.at).reserved;
            demand.is_reserved = demand.level.left.saturating_add(reserved) >= demand.amount;
        }
        if demand.is_reserved {
            demand.wait = demand.wait.min(Some(COMES_BACK));
        }
        all &= demand.wait.is_none() || !demand.binding;
    }
    all
}

/// Takes each, unless somebody else was faster; then what was taken goes back.
fn take(demands: &mut [Demand]) -> bool {
    for at in 0..demands.len() {
        let demand = &mut demands[at];
        if demand.amount == 0 {
            // Nothing to take, but there may be something to settle.
            demand.taken = true;
            continue;
        }
        let (taken, overflow) = demand.ledger.take(demand.subject, &mut demand.at, demand.amount);
        match taken {
            Ok(state) => {
                let quota = demand.ledger.quota();
                demand.level = quota.level(state, demand.at);
                demand.at.window.number = quota.window(state, demand.at);
                (demand.taken, demand.overflow, demand.wait) = (true, overflow, None);
            }
            Err(wait) => {
                demand.wait = Some(wait);
                if demand.binding {
                    demands[..at].iter_mut().for_each(give_back);
                    return false;
                }
            }
        }
    }
    true
}

fn give_back(demand: &mut Demand) {
    if std::mem::take(&mut demand.taken) {
        demand.ledger.settle(demand.subject, demand.overflow, demand.at, demand.amount, 0);
    }
}

fn count(demands: &[Demand], granted: bool) {
    for demand in demands {
        let counts = demand.ledger.counts();
        match demand.wait {
            Some(_) if demand.binding => counts.refused.fetch_add(1, Relaxed),
            Some(_) => counts.would_refuse.fetch_add(1, Relaxed),
            None if granted => counts.granted.fetch_add(1, Relaxed),
            // Another limit refused: this one was not asked to say anything.
            None => continue,
        };
    }
}

#[async_trait]
impl Store for Local {
    fn open(&self, spec: Spec) -> Arc<Ledger> {
        let (quota, calendar) = (spec.quota, spec.calendar.clone());
        Arc::new(Ledger::over(self.book(spec), quota, calendar))
    }

    async fn try_take(&self, demands: &mut [Demand]) -> bool {
        let now = self.clock.now();
        // Looking first means that who is refused takes nothing, not even for a moment, so that it keeps nobody else
        // out. Only a race that is lost after that takes and gives back.
        let granted = look(demands, now) && take(demands);
        count(demands, granted);
        granted
    }

    fn settle(&self, demands: &[Demand]) {
        let now = self.clock.now();
        for demand in demands.iter().filter(|demand| demand.taken) {
            let ledger = &demand.ledger;
            if demand.amount > 0 || demand.spent > 0 {
                let at = At { ticks: now.ticks, ..demand.at };
                ledger.settle(demand.subject, demand.overflow, at, demand.amount, demand.spent);
            }
            if matches!(ledger.quota(), Quota::InFlight { .. }) {
                ledger.learn_held(now.ticks.saturating_sub(demand.at.ticks));
            }
            if demand.estimated {
                ledger.counts().estimated.fetch_add(1, Relaxed);
            }
            if let Some(pending) = self.pending.get().filter(|_| ledger.is_budget() && demand.spent > 0) {
                pending.add(ledger.id(), demand.subject, demand.at.window.number, demand.spent);
            }
        }
    }

    fn tidy(&self) {
        let now = self.clock.now();
        let first = self.next_part.fetch_add(TIDIED, Relaxed);
        for book in self.books() {
            (first..first + TIDIED).for_each(|part| book.search(part % PARTS, now));
        }
    }

    async fn peek(&self, ledger: &Ledger, subject: Subject) -> Standing {
        ledger.standing(subject, ledger.at(self.clock.now()))
    }

    fn go_on_from(&self, spent: Option<Vec<Spent>>) {
        let pending = self.pending.get_or_init(Pending::default);
        if spent.is_some_and(|spent| pending.go_on_from(spent)) {
            let now = self.clock.now();
            for book in self.books() {
                if let Some(calendar) = &book.spec().calendar {
                    self.restore(&book, calendar, now);
                }
            }
        }
    }

    fn spent_elsewhere(&self, spent: Vec<Spent>) {
        let now = self.clock.now();
        for book in self.books() {
            if let Some(calendar) = &book.spec().calendar {
                let of_it: Vec<_> = spent.iter().filter(|spent| spent.limit == book.spec().id).cloned().collect();
                restore(&book, calendar, now, &of_it);
            }
        }
        self.pending.get_or_init(Pending::default).spent_elsewhere(spent);
    }

    fn write_down(&self, journal: &dyn Journal) -> io::Result<usize> {
        self.pending.get().map_or(Ok(0), |pending| pending.write_down(journal))
    }

    fn has_budgets(&self) -> bool {
        self.books().iter().any(|book| book.spec().calendar.is_some())
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }
}
