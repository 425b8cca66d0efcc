//! The top against exact sums, and what bounds it.

use super::tally::{KEPT, Tally};
use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn spent<'a>(user: &'a str, tokens: u64) -> Spent<'a> {
    Spent { org: Some("acme"), user: Some(user), tokens, cost: tokens * 3, ..Spent::default() }
}

fn top(spenders: &Spenders, by: By, window: Window, of: Of, now: Duration) -> Top {
    spenders.gather_at(now);
    lock(&spenders.windows).top(by as usize, window, now, of as usize, 3)
}

fn names(top: &Top) -> Vec<&str> {
    top.spenders.iter().map(|spender| spender.name()).collect()
}

#[test]
fn the_largest_come_first_by_whatever_is_asked_for() {
    let spenders = Spenders::default();
    for (user, requests, tokens, limited) in [("ann", 1, 500, false), ("bob", 5, 10, false), ("eve", 9, 0, true)] {
        (0..requests).for_each(|_| spenders.record(&Spent { limited, ..spent(user, tokens) }));
    }
    let ranked = |of| top(&spenders, By::User, Window::Hour, of, SECOND);
    assert_eq!(names(&ranked(Of::Tokens)), ["ann", "bob"]);
    assert_eq!(names(&ranked(Of::Requests)), ["eve", "bob", "ann"]);
    assert_eq!(names(&ranked(Of::Limited)), ["eve"]);
    let by_cost = ranked(Of::Cost);
    assert_eq!(by_cost.spenders[0].spent, [1, 500, 1500, 0]);
    assert_eq!((by_cost.total, by_cost.error), ([15, 550, 1650, 9], [0; 4]));
    let orgs = top(&spenders, By::Org, Window::Hour, Of::Tokens, SECOND);
    assert_eq!((names(&orgs), orgs.spenders[0].spent), (vec!["acme"], [15, 550, 1650, 9]));
    assert_eq!(names(&top(&spenders, By::Key, Window::Hour, Of::Tokens, SECOND)), [""; 0]);
}

#[test]
fn what_is_long_ago_leaves_one_window_after_the_other() {
    let spenders = Spenders::default();
    spenders.record(&spent("ann", 1));
    spenders.gather_at(SECOND);
    for (later, windows) in [(299, 3), (331, 2), (3_500, 2), (3_901, 1), (86_000, 1), (90_001, 0)] {
        let now = SECOND * later;
        let found = [Window::FiveMinutes, Window::Hour, Window::Day]
            .map(|window| top(&spenders, By::User, window, Of::Tokens, now))
            .map(|top| (top.spenders.len(), top.covers));
        assert_eq!(found.iter().filter(|(count, _)| *count == 1).count(), windows, "{later}: {found:?}");
        assert!(found[0].1 <= SECOND * 330 && found[0].1 >= SECOND * later.min(300), "{found:?}");
    }
}

#[test]
fn memory_is_bounded_and_the_large_stand_out_of_a_crowd() {
    let spenders = Spenders::default();
    for n in 0..60_000_u64 {
        spenders.record(&spent(&format!("user-{n}"), 1));
        if n % 20 == 0 {
            spenders.record(&spent("large", 10));
        }
        if n % 3000 == 0 {
            spenders.gather_at(SECOND * (n / 3000) as u32);
        }
    }
    let found = top(&spenders, By::User, Window::FiveMinutes, Of::Tokens, SECOND * 20);
    let (large, error) = (&found.spenders[0], found.error[Of::Tokens as usize]);
    assert_eq!((large.name(), found.total[1]), ("large", 90_000));
    assert!(large.spent[1] <= 30_000 && large.spent[1] + error >= 30_000, "{large:?} {error}");
    assert!(error <= 90_000 / KEPT as u64, "{error}");
    let windows = lock(&spenders.windows);
    assert!(windows.most() <= 2 * KEPT, "{}", windows.most());
}

#[test]
fn what_one_thread_cannot_keep_apart_is_counted_and_told_as_error() {
    let spenders = Spenders::default();
    (0..NAMES + 100).for_each(|n| spenders.record(&spent(&n.to_string(), 7)));
    let found = top(&spenders, By::User, Window::Day, Of::Tokens, SECOND);
    assert_eq!(found.total[1], 7 * (NAMES as u64 + 100));
    assert!(found.error[1] >= 700, "{}", found.error[1]);
}

#[test]
fn threads_add_up() {
    let spenders = Spenders::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..1000).for_each(|_| spenders.record(&spent("ann", 2))));
        }
        scope.spawn(|| (0..50).for_each(|n| spenders.gather_at(SECOND * n / 100)));
    });
    let found = top(&spenders, By::User, Window::Hour, Of::Tokens, SECOND);
    assert_eq!(found.spenders[0].spent, [8000, 16_000, 48_000, 0]);
}

proptest! {
    #[test]
    fn a_counter_is_never_too_high_and_never_too_low_by_more_than_is_said(
        adds in prop::collection::vec((0..3000_u32, 1..100_u64), 1..6000),
    ) {
        let (mut tally, mut exact) = (Tally::default(), HashMap::new());
        for (name, amount) in adds {
            let name: Arc<str> = name.to_string().into();
            tally.add(&name, amount);
            *exact.entry(name).or_insert(0) += amount;
        }
        tally.prune();
        prop_assert!(tally.counts.len() <= KEPT);
        prop_assert_eq!(tally.total, exact.values().sum::<u64>());
        prop_assert!(tally.error <= tally.total / (KEPT as u64 + 1));
        for (name, exact) in exact {
            let told = tally.counts.get(&name).copied().unwrap_or(0);
            prop_assert!(told <= exact && told + tally.error >= exact, "{} {} {}", told, exact, tally.error);
        }
    }
}
