//! Budgets against a plain model of them, under clocks that are set, and beyond the end of a process.

use super::tests::{level, take, who};
use super::*;
use crate::services::{Journal, Spent};
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const HOUR: u64 = 3600;

fn at(text: &str) -> u64 {
    text.parse::<Timestamp>().unwrap().as_second().try_into().unwrap()
}

fn budget(store: &Local, id: &str, most: u64, period: Period, zone: &str) -> Arc<Ledger> {
    let calendar = Some(Arc::new(Calendar::new(period, zone).unwrap()));
    store.open(Spec { id: id.into(), label: id.into(), quota: Quota::Budget { most, period }, calendar, shared: false })
}

fn ask(store: &Local, ledger: &Arc<Ledger>, amount: u64) -> Option<Demand> {
    let mut demand = [Demand::new(ledger.clone(), who(1), amount)];
    let granted = take(store, &mut demand);
    let [demand] = demand;
    granted.then_some(demand)
}

fn spend(store: &Local, ledger: &Arc<Ledger>, amount: u64) -> bool {
    let Some(mut demand) = ask(store, ledger, amount) else { return false };
    demand.spent = amount;
    store.settle(&[demand]);
    true
}

type Kept = HashMap<(Arc<str>, [u8; 16], u32), u64>;

/// A journal in memory, that can be told to fail.
#[derive(Default)]
struct Paper {
    spent: Mutex<Kept>,
    is_gone: AtomicBool,
}

impl Paper {
    fn load(&self) -> Vec<Spent> {
        let spent = self.spent.lock().unwrap();
        let entry = |((limit, subject, window), amount): (&(Arc<str>, [u8; 16], u32), &u64)| Spent {
            limit: limit.clone(),
            subject: *subject,
            window: *window,
            amount: *amount,
        };
        spent.iter().map(entry).collect()
    }
}

/// A store that goes on from what is written on `paper`.
fn keeping(clock: &Clock, paper: &Paper) -> Local {
    let store = Local::new(clock.clone());
    store.go_on_from(Some(paper.load()));
    store
}

impl Journal for Paper {
    fn add(&self, spent: &[Spent]) -> io::Result<()> {
        if self.is_gone.load(SeqCst) {
            return Err(io::Error::other("the disk is full"));
        }
        let mut kept = self.spent.lock().unwrap();
        for Spent { limit, subject, window, amount } in spent {
            *kept.entry((limit.clone(), *subject, *window)).or_default() += amount;
        }
        Ok(())
    }
}

#[test]
fn a_budget_is_whole_again_at_midnight_and_not_before() {
    let clock = Clock::manual();
    clock.set(at("2026-03-28T22:00:00Z"));
    let store = Local::new(clock.clone());
    // In Berlin 23:00, the day before one of 23 hours.
    let day = budget(&store, "day", 10, Period::Day, "Europe/Berlin");
    assert!(spend(&store, &day, 10));
    for next in [at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z"), at("2026-03-30T22:00:00Z")] {
        let mut refused = [Demand::new(day.clone(), who(1), 1)];
        assert!(!take(&store, &mut refused));
        let wait = refused[0].wait.unwrap();
        assert_eq!(clock.wall() + wait.as_secs(), next);
        clock.advance(wait - Duration::from_secs(1));
        assert!(!spend(&store, &day, 1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(level(&store, &day, who(1)).left, 10);
        assert!(spend(&store, &day, 10));
    }
}

#[test]
fn a_request_counts_in_the_window_it_began_in() {
    let clock = Clock::manual();
    clock.set(at("2026-03-05T23:59:00Z"));
    let store = Local::new(clock.clone());
    let day = budget(&store, "day", 10, Period::Day, "UTC");
    let mut open = ask(&store, &day, 8).unwrap();
    clock.advance(Duration::from_secs(120));
    assert!(spend(&store, &day, 3));
    open.spent = 9;
    store.settle(&[open]);
    assert_eq!(level(&store, &day, who(1)).left, 7, "neither given back to the new day nor taken from it");
}

#[test]
fn a_clock_that_is_set_opens_and_blocks_nobody_beyond_one_window() {
    for (period, jumps) in [(Period::Day, 1..3), (Period::Week, 1..26), (Period::Month, 1..26)] {
        for jump in jumps.map(|hours| hours * HOUR) {
            let clock = Clock::manual();
            // Half an hour before a new month, which is a Monday.
            let before = at("2026-05-31T23:30:00Z");
            clock.set(before);
            let store = Local::new(clock.clone());
            let ledger = budget(&store, "b", 10, period, "UTC");
            assert!(spend(&store, &ledger, 10));
            // Ahead: the next window opens early, once.
            clock.set(before + jump);
            assert!(spend(&store, &ledger, 10) && !spend(&store, &ledger, 1), "{period:?}");
            // Back: what was spent stays spent, in the window it was spent in.
            clock.set(before);
            assert!(!spend(&store, &ledger, 1), "{period:?}");
            clock.set(before + HOUR);
            assert!(!spend(&store, &ledger, 1), "{period:?}: the window that was opened early is spent");
            // Nobody is kept out for longer than the window that was opened early.
            let longest = Duration::from_secs(jump) + period.longest();
            assert!(level(&store, &ledger, who(1)).full_in <= longest);
            clock.set(before + jump + period.longest().as_secs());
            assert!(spend(&store, &ledger, 10), "{period:?}");
        }
    }
}

#[test]
fn a_clock_that_was_far_ahead_blocks_nobody_when_it_is_set_right() {
    let clock = Clock::manual();
    let now = at("2026-05-15T12:00:00Z");
    clock.set(now + 400 * 24 * HOUR);
    let store = Local::new(clock.clone());
    let day = budget(&store, "day", 10, Period::Day, "UTC");
    assert!(spend(&store, &day, 10));
    clock.set(now);
    assert!(spend(&store, &day, 10) && !spend(&store, &day, 1));
}

#[test]
fn a_budget_that_is_made_larger_or_smaller_keeps_what_is_spent() {
    let clock = Clock::manual();
    clock.set(at("2026-05-15T12:00:00Z"));
    let store = Local::new(clock.clone());
    let small = budget(&store, "b", 10, Period::Month, "UTC");
    assert!(spend(&store, &small, 9));
    let large = budget(&store, "b", 100, Period::Month, "UTC");
    assert_eq!((level(&store, &large, who(1)).left, level(&store, &small, who(1)).left), (91, 1));
    drop((small, large));
    // A reload that did not know it, and one that does again.
    let tiny = budget(&store, "b", 5, Period::Month, "UTC");
    assert_eq!(level(&store, &tiny, who(1)).left, 0);
    drop(tiny);
    clock.advance(Duration::from_secs(60 * 86_400));
    for _ in 0..ledger::PARTS {
        clock.advance(Duration::from_millis(250));
        store.tidy();
    }
    assert_eq!(budget(&store, "other", 1, Period::Day, "UTC").subjects(), 0);
    assert_eq!(store.books().len(), 1, "nothing is spent of the first any more, so it is gone");
}

#[test]
fn what_is_spent_outlives_the_process_and_what_was_only_reserved_does_not() {
    let (paper, clock) = (Paper::default(), Clock::manual());
    clock.set(at("2026-05-15T12:00:00Z"));
    let first = keeping(&clock, &paper);
    let [day, month] =
        [("day", Period::Day), ("month", Period::Month)].map(|(id, p)| budget(&first, id, 100, p, "UTC"));
    assert!(spend(&first, &day, 30) && spend(&first, &month, 40));
    let _open = ask(&first, &day, 50).unwrap();
    assert_eq!(first.write_down(&paper).unwrap(), 2);
    assert_eq!(first.write_down(&paper).unwrap(), 0);
    assert!(spend(&first, &day, 5));
    // The disk is full for a while: nothing is lost, nothing counted twice.
    paper.is_gone.store(true, SeqCst);
    assert!(first.write_down(&paper).is_err());
    assert!(spend(&first, &day, 2));
    assert!(first.write_down(&paper).is_err());
    paper.is_gone.store(false, SeqCst);
    assert_eq!(first.write_down(&paper).unwrap(), 1);

    clock.advance(Duration::from_secs(13 * HOUR));
    let later = keeping(&clock, &paper);
    let [day, month] =
        [("day", Period::Day), ("month", Period::Month)].map(|(id, p)| budget(&later, id, 100, p, "UTC"));
    assert_eq!([&day, &month].map(|ledger| level(&later, ledger, who(1)).left), [100, 60]);
    clock.set(clock.wall() - 13 * HOUR);
    // The journal is away when the process begins, and back when something is spent already.
    let same_day = Local::new(clock.clone());
    let day = budget(&same_day, "day", 100, Period::Day, "UTC");
    same_day.go_on_from(None);
    assert!(spend(&same_day, &day, 3));
    same_day.go_on_from(Some(paper.load()));
    same_day.go_on_from(Some(paper.load()));
    assert_eq!((level(&same_day, &day, who(1)).left, level(&same_day, &day, who(2)).left), (60, 100));
    assert_eq!(same_day.write_down(&paper).unwrap(), 1);
    let day = budget(&keeping(&clock, &paper), "day", 100, Period::Day, "UTC");
    assert_eq!(level(&same_day, &day, who(1)).left, 60);
}

#[test]
fn what_another_process_spends_meanwhile_counts_once_and_is_not_written_down_again() {
    let (clock, paper) = (Clock::manual(), Paper::default());
    let old = keeping(&clock, &paper);
    let theirs = budget(&old, "day", 100, Period::Day, "UTC");
    let new = keeping(&clock, &paper);
    let ours = budget(&new, "day", 100, Period::Day, "UTC");
    assert!(spend(&old, &theirs, 30) && spend(&new, &ours, 5));
    old.write_down(&paper).unwrap();
    new.spent_elsewhere(paper.load());
    assert_eq!(level(&new, &ours, who(1)).left, 65);
    assert_eq!(new.write_down(&paper).unwrap(), 1);
    // Whoever opens the budget only now knows of it, too, in its own window.
    let month = budget(&new, "month", 100, Period::Month, "UTC");
    assert_eq!(level(&new, &month, who(1)).left, 100);
    let again = budget(&keeping(&clock, &paper), "day", 100, Period::Day, "UTC");
    assert_eq!(level(&new, &again, who(1)).left, 65);
}

/// The plain model: what each has spent, by day and subject.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    /// The clock is set by so many minutes.
    Set(i64),
    Take(u64, u64),
    Settle(prop::sample::Index, u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..20 * HOUR).prop_map(Step::Pass),
        1 => (-60..60_i64).prop_map(Step::Set),
        6 => (0..3_u64, 0..60_u64).prop_map(|(who, amount)| Step::Take(who, amount)),
        4 => (any::<prop::sample::Index>(), 0..150_u64).prop_map(|(which, part)| Step::Settle(which, part)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..100)
}

proptest! {
    #[test]
    fn budgets_are_kept_as_a_plain_model_keeps_them(steps in steps()) {
        let (clock, paper) = (Clock::manual(), Paper::default());
        clock.set(at("2026-03-20T12:00:00Z"));
        let mut store = keeping(&clock, &paper);
        let open = |store: &Local| budget(store, "b", 100, Period::Day, "UTC");
        let mut ledger = open(&store);
        // What is spent and what is reserved by day; and the latest day that each subject has been seen in.
        let mut spent: HashMap<(u64, u64), u64> = HashMap::new();
        let mut latest: HashMap<u64, u64> = HashMap::new();
        let mut held: Vec<(u64, u64, Demand)> = Vec::new();
        let mut begun = 0;
        let day_of = |clock: &Clock, latest: &HashMap<u64, u64>, who: u64| {
            let today = clock.wall() / 86_400;
            latest.get(&who).copied().filter(|day| *day > today).unwrap_or(today)
        };
        for step in steps {
            match step {
                Step::Pass(seconds) => clock.advance(Duration::from_secs(seconds)),
                // Not before the day of a restart: what was over by then may be brought back, or not.
                Step::Set(minutes) => clock.set(clock.wall().saturating_add_signed(minutes * 60).max(begun)),
                Step::Take(subject, amount) => {
                    let day = day_of(&clock, &latest, subject);
                    let mut demand = [Demand::new(ledger.clone(), who(subject), amount)];
                    let granted = take(&store, &mut demand);
                    let sum = spent.entry((subject, day)).or_default();
                    prop_assert_eq!(granted, amount == 0 || *sum + amount <= 100);
                    if granted {
                        *sum += amount;
                        if amount > 0 {
                            latest.insert(subject, day);
                        }
                        let [demand] = demand;
                        held.push((subject, day, demand));
                    }
                }
                Step::Settle(which, part) if !held.is_empty() => {
                    let (subject, day, mut demand) = held.swap_remove(which.index(held.len()));
                    demand.spent = demand.amount * part / 100;
                    let sum = spent.entry((subject, day)).or_default();
                    *sum = *sum - demand.amount + demand.spent;
                    store.settle(&[demand]);
                }
                Step::Settle(..) => {}
                Step::Restart => {
                    for (subject, day, demand) in held.drain(..) {
                        *spent.entry((subject, day)).or_default() -= demand.amount;
                        store.settle(&[demand]);
                    }
                    store.write_down(&paper).unwrap();
                    store = keeping(&clock, &paper);
                    ledger = open(&store);
                    let today = clock.wall() / 86_400;
                    begun = today * 86_400;
                    spent.retain(|(_, day), _| *day >= today);
                    // A day in which nothing was spent in the end is as good as one that nobody has seen.
                    latest.retain(|subject, day| spent.get(&(*subject, *day)).is_some_and(|spent| *spent > 0));
                }
            }
            for subject in 0..3 {
                let day = day_of(&clock, &latest, subject);
                let sum = spent.get(&(subject, day)).copied().unwrap_or(0);
                prop_assert_eq!(level(&store, &ledger, who(subject)).left, 100_u64.saturating_sub(sum));
            }
        }
    }
}
