//! What threads may do to each other in the store, tried in thousands of orders by `shuttle`: see [`super::sync`].

use super::sync::in_every_order;
use super::tests::{level, open, standing, take, who};
use super::*;
use shuttle::thread;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

const ORDERS: usize = 1500;

/// A rate that brings nothing back while a test runs.
fn slow(burst: u64) -> Quota {
    Quota::rate(1, Duration::from_secs(3600), burst).unwrap()
}

fn house() -> (Arc<Local>, Clock) {
    let clock = Clock::manual();
    (Arc::new(Local::new(clock.clone())), clock)
}

/// Runs these on a thread each, to their end.
fn together(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Forgets who is idle, where `subject` is.
fn search(ledger: &Ledger, store: &Local, subject: Subject) {
    ledger.search((subject.0[0] >> 58) as usize, store.now());
}

#[test]
fn what_is_granted_at_one_time_is_never_more_than_there_is() {
    in_every_order(ORDERS, || {
        let (store, _) = house();
        let (tokens, places) = (open(&store, "tokens", slow(6)), open(&store, "places", Quota::InFlight { most: 2 }));
        let held = [(); 2].map(|()| Arc::new(AtomicI64::new(0)));
        let spent = Arc::new(AtomicU64::new(0));
        let task = |n: u64| -> Box<dyn FnOnce() + Send> {
            let (store, tokens, places) = (store.clone(), tokens.clone(), places.clone());
            let ([in_tokens, in_places], spent) = (held.clone(), spent.clone());
            Box::new(move || {
                for _ in 0..2 {
                    let mut demands = [(&tokens, 2), (&places, 1)]
                        .map(|(ledger, amount)| Demand::new(Arc::clone(ledger), who(1), amount));
                    if !take(&store, &mut demands) {
                        continue;
                    }
                    assert!(in_tokens.fetch_add(2, SeqCst) + 2 <= 6);
                    assert!(in_places.fetch_add(1, SeqCst) < 2);
                    thread::yield_now();
                    // The first thread spends one of the two, the others none.
                    demands[0].spent = u64::from(n == 0);
                    in_tokens.fetch_sub(2, SeqCst);
                    in_places.fetch_sub(1, SeqCst);
                    spent.fetch_add(demands[0].spent, SeqCst);
                    store.settle(&demands);
                }
            })
        };
        together((0..3).map(task).collect());
        assert_eq!(level(&store, &tokens, who(1)).left, 6 - spent.load(SeqCst));
        assert_eq!(level(&store, &places, who(1)).left, 2);
        assert_eq!([&tokens, &places].map(|ledger| standing(&store, ledger, who(1)).reserved), [0, 0]);
    });
}

#[test]
fn a_bucket_that_is_forgotten_while_others_use_it_loses_and_gains_nothing() {
    in_every_order(ORDERS, || {
        let (store, clock) = house();
        let ledger = open(&store, "rate", super::tests::per_second(1, 2));
        let spent = Arc::new(AtomicU64::new(0));
        let spender = |_| -> Box<dyn FnOnce() + Send> {
            let (store, ledger, spent) = (store.clone(), ledger.clone(), spent.clone());
            Box::new(move || {
                for _ in 0..3 {
                    let mut demand = [Demand::new(ledger.clone(), who(1), 1)];
                    if take(&store, &mut demand) {
                        thread::yield_now();
                        demand[0].spent = 1;
                        store.settle(&demand);
                        spent.fetch_add(1, SeqCst);
                    }
                }
            })
        };
        let mut tasks: Vec<_> = (0..2).map(spender).collect();
        let (of_time, buckets) = (store.clone(), ledger.clone());
        let ticking = clock.clone();
        tasks.push(Box::new(move || {
            for _ in 0..2 {
                ticking.advance(Duration::from_secs(1));
                search(&buckets, &of_time, who(1));
            }
        }));
        together(tasks);
        // Two at once, and one in each of two seconds.
        let (spent, left) = (spent.load(SeqCst), level(&store, &ledger, who(1)).left);
        assert!((2..=4).contains(&(spent + left)), "{spent} spent, {left} left");
        clock.advance(Duration::from_secs(3));
        search(&ledger, &store, who(1));
        assert_eq!((level(&store, &ledger, who(1)).left, ledger.subjects()), (2, 0));
    });
}

#[test]
fn those_beyond_the_bound_give_back_to_the_bucket_that_they_took_from() {
    in_every_order(ORDERS, || {
        let (store, _) = house();
        let (id, quota): (Arc<str>, _) = ("places".into(), Quota::InFlight { most: 2 });
        let ledger =
            Arc::new(Ledger::keeping(1, Spec { id: id.clone(), label: id, quota, calendar: None, shared: false }));
        let task = |n: u64| -> Box<dyn FnOnce() + Send> {
            let (store, ledger) = (store.clone(), ledger.clone());
            Box::new(move || {
                for _ in 0..2 {
                    let mut demand = [Demand::new(ledger.clone(), who(n), 1)];
                    if take(&store, &mut demand) {
                        thread::yield_now();
                        store.settle(&demand);
                    }
                    search(&ledger, &store, who(n));
                }
            })
        };
        together((0..3).map(task).collect());
        (0..3).for_each(|n| search(&ledger, &store, who(n)));
        assert_eq!(ledger.subjects(), 0);
        // Whoever comes now fills the bound, and the one after looks at what those beyond it share.
        assert!(take(&store, &mut [Demand::new(ledger.clone(), who(7), 1)]));
        assert_eq!((ledger.subjects(), level(&store, &ledger, who(8)).left), (1, 2));
    });
}

#[test]
fn all_or_none_holds_in_whatever_order_two_limits_are_won_and_lost() {
    in_every_order(ORDERS, || {
        let (store, _) = house();
        let (a, b) = (open(&store, "a", Quota::InFlight { most: 1 }), open(&store, "b", slow(2)));
        let granted = Arc::new(AtomicU64::new(0));
        let task = |n: u64| -> Box<dyn FnOnce() + Send> {
            let (store, granted) = (store.clone(), granted.clone());
            // Two of them share a place, all share the tokens; one asks the other way round.
            let mut demands = vec![Demand::new(a.clone(), who(n / 2), 1), Demand::new(b.clone(), who(9), 1)];
            if n == 1 {
                demands.reverse();
            }
            Box::new(move || {
                if take(&store, &mut demands) {
                    granted.fetch_add(1, SeqCst);
                    demands.iter_mut().for_each(|demand| demand.spent = u64::from(demand.ledger.id().as_ref() == "b"));
                    store.settle(&demands);
                }
            })
        };
        together((0..3).map(task).collect());
        let granted = granted.load(SeqCst);
        assert!(granted <= 2, "{granted}");
        assert_eq!(level(&store, &b, who(9)).left, 2 - granted);
        assert_eq!([0, 1].map(|n| level(&store, &a, who(n)).left), [1, 1]);
        assert_eq!(standing(&store, &b, who(9)).reserved, 0);
    });
}

#[test]
fn who_opens_a_limit_at_the_same_time_gets_the_same_one() {
    in_every_order(ORDERS, || {
        let (store, _) = house();
        let (one, other) = (store.clone(), store.clone());
        let one = thread::spawn(move || open(&one, "l", slow(1)));
        let other = thread::spawn(move || open(&other, "l", slow(1)));
        assert!(one.join().unwrap().shares_with(&other.join().unwrap()));
    });
}
