//! The store against a plain model of it, and under many threads.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Instant;

/// Decides without a runtime: the local form never waits.
pub(super) fn take(store: &Local, demands: &mut [Demand]) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match store.try_take(demands).as_mut().poll(&mut context) {
        std::task::Poll::Ready(granted) => granted,
        std::task::Poll::Pending => panic!("the local form waited"),
    }
}

pub(super) fn level(store: &Local, ledger: &Ledger, subject: Subject) -> Level {
    standing(store, ledger, subject).level
}

pub(super) fn standing(store: &Local, ledger: &Ledger, subject: Subject) -> Standing {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match store.peek(ledger, subject).as_mut().poll(&mut context) {
        std::task::Poll::Ready(standing) => standing,
        std::task::Poll::Pending => panic!("the local form waited"),
    }
}

pub(super) fn open(store: &Local, id: &str, quota: Quota) -> Arc<Ledger> {
    store.open(Spec { id: id.into(), label: id.into(), quota, calendar: None, shared: false })
}

pub(super) fn per_second(count: u64, burst: u64) -> Quota {
    Quota::rate(count, Duration::from_secs(1), burst).unwrap()
}

pub(super) fn who(n: u64) -> Subject {
    Subject::of(&n.to_le_bytes())
}

/// The plain model: a bucket with a level in millionths, that fills with time. Rates of it divide a million.
#[derive(Debug, Clone, Copy)]
enum Plain {
    Bucket { rate: i128, burst: i128, level: i128 },
    Places { most: u64, taken: u64 },
}

const MILLION: i128 = 1_000_000;

impl Plain {
    fn of(quota: &Quota, rate: u64) -> Self {
        match *quota {
            Quota::Rate { burst, .. } => {
                let burst = i128::from(burst) * MILLION;
                Self::Bucket { rate: rate.into(), burst, level: burst }
            }
            Quota::InFlight { most } => Self::Places { most, taken: 0 },
            Quota::Budget { .. } => panic!("budgets have a model of their own"),
        }
    }

    fn pass(&mut self, micros: u64) {
        if let Self::Bucket { rate, burst, level } = self {
            *level = (*level + *rate * i128::from(micros)).min(*burst);
        }
    }

    fn has(&self, amount: u64) -> bool {
        match *self {
            Self::Bucket { level, .. } => amount == 0 || level >= i128::from(amount) * MILLION,
            Self::Places { most, taken } => taken + amount <= most,
        }
    }

    fn spend(&mut self, amount: i128) {
        match self {
            Self::Bucket { burst, level, .. } => *level = (*level - amount * MILLION).min(*burst),
            Self::Places { taken, .. } => *taken = taken.checked_add_signed(amount as i64).unwrap(),
        }
    }

    fn left(&self) -> u64 {
        match *self {
            Self::Bucket { level, .. } => u64::try_from(level.div_euclid(MILLION)).unwrap_or(0),
            Self::Places { most, taken } => most - taken,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    /// Takes amounts, of one of three subjects.
    Take(u64, [u64; 3]),
    /// Settles one of the open reservations for a part of it, in percent: more than 100 is a debt.
    Settle(prop::sample::Index, u64),
    /// Drops one of them.
    Drop(prop::sample::Index),
    /// Forgets the idle.
    Tidy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..400_000_u64).prop_map(Step::Pass),
        6 => (0..3_u64, [0..2_u64, 0..60, 0..2]).prop_map(|(who, amounts)| Step::Take(who, amounts)),
        3 => (any::<prop::sample::Index>(), 0..150_u64).prop_map(|(which, part)| Step::Settle(which, part)),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => Just(Step::Tidy),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn the_store_decides_as_a_plain_model_does(steps in steps()) {
        let clock = Clock::manual();
        let store = Local::new(clock.clone());
        // Requests, tokens, places: rates whose units are whole ticks, as most are, so that both are exact.
        let quotas = [per_second(10, 5), per_second(100, 60), Quota::InFlight { most: 3 }];
        let ledgers = ["requests", "tokens", "places"].map(|name| name);
        let ledgers: Vec<_> = ledgers.iter().zip(quotas).map(|(id, quota)| open(&store, id, quota)).collect();
        let fresh = [Plain::of(&quotas[0], 10), Plain::of(&quotas[1], 100), Plain::of(&quotas[2], 0)];
        let mut plain = [fresh; 3];
        let mut held: Vec<(usize, Vec<Demand>)> = Vec::new();
        for step in steps {
            match step {
                Step::Pass(micros) => {
                    clock.advance(Duration::from_micros(micros));
                    plain.iter_mut().flatten().for_each(|bucket| bucket.pass(micros));
                }
                Step::Take(subject, amounts) => {
                    let of = &mut plain[subject as usize];
                    let demand = |(ledger, amount): (&Arc<Ledger>, u64)| Demand::new(ledger.clone(), who(subject), amount);
                    let mut demands: Vec<_> = ledgers.iter().zip(amounts).map(demand).collect();
                    let granted = take(&store, &mut demands);
                    prop_assert_eq!(granted, of.iter().zip(amounts).all(|(bucket, amount)| bucket.has(amount)));
                    if granted {
                        of.iter_mut().zip(amounts).for_each(|(bucket, amount)| bucket.spend(amount.into()));
                        held.push((subject as usize, demands));
                    } else {
                        // The waits are true, and not a tick too long.
                        let wait = demands.iter().filter_map(|demand| demand.wait).max().unwrap();
                        if demands[2].wait.is_none() {
                            let mut then = *of;
                            then.iter_mut().for_each(|bucket| bucket.pass(wait.as_micros() as u64 + 1));
                            prop_assert!(then.iter().zip(amounts).all(|(bucket, amount)| bucket.has(amount)));
                            let mut before = *of;
                            before.iter_mut().for_each(|bucket| bucket.pass((wait.as_micros() as u64).saturating_sub(1)));
                            prop_assert!(!before.iter().zip(amounts).all(|(bucket, amount)| bucket.has(amount)));
                        }
                    }
                }
                Step::Settle(which, part) if !held.is_empty() => {
                    let (subject, mut demands) = held.swap_remove(which.index(held.len()));
                    for (at, demand) in demands.iter_mut().enumerate() {
                        demand.spent = if at == 2 { 0 } else { demand.amount * part / 100 };
                        plain[subject][at].spend(i128::from(demand.spent) - i128::from(demand.amount));
                    }
                    store.settle(&demands);
                }
                Step::Drop(which) if !held.is_empty() => {
                    let (subject, demands) = held.swap_remove(which.index(held.len()));
                    for (at, demand) in demands.iter().enumerate() {
                        plain[subject][at].spend(-i128::from(demand.amount));
                    }
                    store.settle(&demands);
                }
                Step::Settle(..) | Step::Drop(_) => {}
                Step::Tidy => for ledger in &ledgers {
                    (0..ledger::PARTS).for_each(|part| ledger.search(part, store.now()));
                },
            }
            for (subject, of) in plain.iter().enumerate() {
                for (bucket, ledger) in of.iter().zip(&ledgers) {
                    prop_assert_eq!(level(&store, ledger, who(subject as u64)).left, bucket.left());
                }
            }
        }
    }

    #[test]
    fn no_rate_admits_more_than_its_burst_and_what_time_brings(
        count in 1..1_000_000_u64, window in prop_oneof![Just(1_u64), Just(60), Just(3600)], burst in 1..2000_u64, amount in 1..2000_u64,
    ) {
        let window = Duration::from_secs(window);
        let Some(quota) = Quota::rate(count, window, burst) else { return Ok(()) };
        let (clock, amount) = (Clock::manual(), amount.min(burst));
        let store = Local::new(clock.clone());
        let ledger = open(&store, "l", quota);
        let (mut admitted, mut passed) = (0_u64, Duration::ZERO);
        for _ in 0..300 + burst / amount {
            let mut demand = [Demand::new(ledger.clone(), who(1), amount)];
            let allowed = |passed: Duration| burst as f64 + count as f64 * passed.as_secs_f64() / window.as_secs_f64();
            match take(&store, &mut demand) {
                true => admitted += amount,
                false => {
                    // Whoever always asks at the right time gets all of it, but for what does not fill a request.
                    let allowed = allowed(passed);
                    prop_assert!((admitted + amount) as f64 >= allowed * 0.99, "{admitted} of {allowed}");
                    let wait = demand[0].wait.unwrap();
                    clock.advance(wait);
                    passed += wait;
                }
            }
            let allowed = allowed(passed);
            prop_assert!(admitted as f64 <= allowed * (1.0 + 1e-9), "{admitted} of {allowed}");
        }
    }
}

/// Threads take single units for a while; gives how many they got, and how long it was.
fn hammer(quota: Quota, threads: u64, time: Duration) -> (u64, Duration) {
    let store = Arc::new(Local::default());
    let ledger = open(&store, "l", quota);
    let (over, admitted) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (store, ledger, over, admitted) = (&store, &ledger, &over, &admitted);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    // A neighbour's bucket besides, so that what is taken and given back is there, too.
                    let others = Demand::new(ledger.clone(), who(2 + thread % 2), 0);
                    if take(store, &mut [others, Demand::new(ledger.clone(), who(1), 1)]) {
                        admitted.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        std::thread::sleep(time);
        over.store(true, SeqCst);
    });
    (admitted.load(SeqCst), start.elapsed())
}

#[test]
fn many_threads_get_what_the_rate_allows_and_no_less() {
    // Bursts that outlast the moments in which a busy machine runs none of the threads.
    for (count, burst) in [(2_000, 500), (200, 40)] {
        let (admitted, time) = hammer(per_second(count, burst), 16, Duration::from_millis(500));
        let most = burst as f64 + count as f64 * time.as_secs_f64();
        assert!(admitted as f64 <= most, "{admitted} of {most}");
        // The clock stops for the threads a little before it stops here.
        let least = (burst as f64 + count as f64 * 0.5) * 0.95;
        assert!(admitted as f64 >= least, "{admitted} of {least}");
    }
}

#[test]
fn nothing_is_left_reserved_whatever_was_granted_refused_settled_or_dropped() {
    let store = Arc::new(Local::new(Clock::manual()));
    // Nothing comes back with time: what is missing at the end is what was spent.
    let quota = Quota::rate(1, Duration::from_secs(3600), 700).unwrap();
    let (tokens, places) = (open(&store, "tokens", quota), open(&store, "places", Quota::InFlight { most: 7 }));
    let tight = open(&store, "tight", Quota::InFlight { most: 2 });
    let spent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (store, tokens, places, tight, spent) = (&store, &tokens, &places, &tight, &spent);
            scope.spawn(move || {
                let mut random = thread * 7919 + 1;
                for _ in 0..4000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let amount = random >> 40 & 31;
                    let mut demands = [
                        Demand::new(tokens.clone(), who(1), amount),
                        Demand::new(places.clone(), who(1), 1),
                        Demand::new(tight.clone(), who(random >> 50 & 1), 1),
                    ];
                    if !take(store, &mut demands) {
                        continue;
                    }
                    std::thread::yield_now();
                    if random >> 60 == 0 && spent.fetch_update(SeqCst, SeqCst, |s| (s < 300).then_some(s + 1)).is_ok() {
                        demands[0].spent = 1;
                    }
                    store.settle(&demands);
                }
            });
        }
    });
    assert_eq!(level(&store, &tokens, who(1)).left, 700 - spent.load(SeqCst));
    assert_eq!(level(&store, &places, who(1)).left, 7);
    assert_eq!([0, 1].map(|n| level(&store, &tight, who(n)).left), [2, 2]);
}

#[test]
fn a_million_subjects_fit_and_are_forgotten_when_idle() {
    let clock = Clock::manual();
    let store = Local::new(clock.clone());
    let ledger = open(&store, "ip", per_second(20, 40));
    let many = 1_100_000;
    for n in 0..many {
        let mut demand = [Demand::new(ledger.clone(), who(n), 1)];
        assert!(take(&store, &mut demand), "{n}");
        demand[0].spent = 1;
        store.settle(&demand);
        // Idle within 50 ms each: here all are busy at once, so the bound is met, and beyond it one bucket is shared.
        if n == MAX_SUBJECTS as u64 + 39 {
            break;
        }
    }
    assert_eq!(ledger.subjects(), MAX_SUBJECTS as u64);
    assert!(!take(&store, &mut [Demand::new(ledger.clone(), who(many), 1)]), "those beyond the bound share 40");
    let mut again = [Demand::new(ledger.clone(), who(1), 1)];
    assert!(take(&store, &mut again), "who has a bucket keeps it");
    store.settle(&again);
    assert!(ledger.bytes() < 150 << 20, "{}", ledger.bytes());
    clock.advance(Duration::from_secs(60));
    for _ in 0..ledger::PARTS {
        clock.advance(Duration::from_millis(250));
        store.tidy();
    }
    assert_eq!(ledger.subjects(), 0);
    assert!(ledger.bytes() < 1 << 20, "{}", ledger.bytes());
}

#[test]
fn a_ledger_stays_for_as_long_as_somebody_holds_it() {
    let store = Local::new(Clock::manual());
    let first = open(&store, "a", per_second(1, 1));
    assert!(first.shares_with(&open(&store, "a", per_second(1, 1))));
    assert!(take(&store, &mut [Demand::new(first.clone(), who(1), 1)]));
    drop(first);
    assert_eq!(level(&store, &open(&store, "a", per_second(1, 1)), who(1)).left, 1);
    assert_eq!(store.books().len(), 0);
}

#[test]
fn a_bucket_tells_what_is_reserved_what_is_owed_and_when_there_is_more() {
    let (clock, second) = (Clock::manual(), Duration::from_secs(1));
    let store = Local::new(clock.clone());
    let ledger = open(&store, "tokens", per_second(10, 100));
    let full = Standing { level: Level { most: 100, left: 100, full_in: Duration::ZERO }, ..Standing::default() };
    assert_eq!(standing(&store, &ledger, who(1)), full);
    let mut demand = [Demand::new(ledger.clone(), who(1), 60)];
    assert!(take(&store, &mut demand));
    let open = standing(&store, &ledger, who(1));
    assert_eq!((open.level.left, open.reserved, open.owed, open.next_in), (40, 60, 0, Some(second / 10)));
    demand[0].spent = 150;
    store.settle(&demand);
    let owing = standing(&store, &ledger, who(1));
    assert_eq!((owing.level.left, owing.reserved, owing.owed), (0, 0, 50));
    assert_eq!((owing.next_in, owing.level.full_in), (Some(second * 51 / 10), second * 15));
    clock.advance(second * 15);
    assert_eq!(standing(&store, &ledger, who(1)), full);
}

#[test]
fn what_is_reserved_keeps_its_bucket() {
    let clock = Clock::manual();
    let store = Local::new(clock.clone());
    let ledger = open(&store, "requests", per_second(10, 10));
    let mut demand = [Demand::new(ledger.clone(), who(1), 1)];
    assert!(take(&store, &mut demand));
    clock.advance(Duration::from_secs(60));
    (0..ledger::PARTS).for_each(|part| ledger.search(part, store.now()));
    assert_eq!((ledger.subjects(), standing(&store, &ledger, who(1)).reserved), (1, 1));
    demand[0].spent = 1;
    store.settle(&demand);
    (0..ledger::PARTS).for_each(|part| ledger.search(part, store.now()));
    assert_eq!(ledger.subjects(), 0);
}

#[test]
fn who_comes_for_the_first_time_is_not_refused_because_others_are_being_forgotten() {
    let clock = Clock::manual();
    let store = Local::new(clock.clone());
    let ledger = open(&store, "requests", per_second(1, 1));
    // A request looks at the clock; before it takes, others are forgotten.
    let looked = store.now();
    clock.advance(Duration::from_millis(1));
    (0..ledger::PARTS).for_each(|part| ledger.search(part, store.now()));
    let take = || ledger.take(who(1), &mut ledger.at(looked), 1).0;
    assert!(take().is_ok());
    assert_eq!(level(&store, &ledger, who(1)).left, 0);
    assert!(take().is_err(), "and nobody gets more by having looked earlier");
}

#[test]
fn a_debt_is_paid_off_within_an_hour_whatever_a_backend_reports() {
    let clock = Clock::manual();
    let store = Local::new(clock.clone());
    let ledger = open(&store, "tokens", per_second(10, 10));
    let mut demand = [Demand::new(ledger.clone(), who(1), 1)];
    assert!(take(&store, &mut demand));
    demand[0].spent = u64::MAX;
    store.settle(&demand);
    assert_eq!(level(&store, &ledger, who(1)).left, 0);
    clock.advance(Duration::from_secs(3602));
    assert_eq!(level(&store, &ledger, who(1)).left, 10);
}

#[test]
fn what_does_not_bind_is_counted_and_refuses_nothing() {
    let store = Local::new(Clock::manual());
    let (real, shadow) = (open(&store, "real", per_second(9, 9)), open(&store, "shadow", per_second(1, 1)));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut demands = [real.clone(), shadow.clone()].map(|ledger| Demand::new(ledger, who(1), 1));
        demands[1].binding = false;
        seen.push((take(&store, &mut demands), demands[1].would_refuse()));
    }
    assert_eq!(seen, [(true, false), (true, true), (true, true)]);
    let counts = shadow.counts();
    assert_eq!((counts.granted.load(SeqCst), counts.would_refuse.load(SeqCst)), (1, 2));
}

#[test]
fn rates_that_cannot_be_kept_are_none() {
    let hour = Duration::from_secs(3600);
    assert_eq!(Quota::rate(0, hour, 1), None);
    assert_eq!(Quota::rate(1, hour, 0), None);
    assert_eq!(Quota::rate(1, hour, 721), None, "more than 30 days' worth");
    assert_eq!(Quota::rate(1_000_000_001, Duration::from_secs(1), 1), None);
    assert!(Quota::rate(1_000_000_000, Duration::from_secs(1), 1_000_000_000).is_some());
}

#[test]
fn the_wait_for_a_place_in_flight_is_learned() {
    let clock = Clock::manual();
    let store = Local::new(clock.clone());
    let (one, many) =
        (open(&store, "one", Quota::InFlight { most: 1 }), open(&store, "many", Quota::InFlight { most: 9 }));
    let wait = |ledger: &Arc<Ledger>, places: u64| {
        let mut all = [Demand::new(ledger.clone(), who(1), places)];
        assert!(take(&store, &mut all));
        let mut refused = [Demand::new(ledger.clone(), who(1), 1)];
        assert!(!take(&store, &mut refused));
        (all, refused[0].wait.unwrap())
    };
    let (first, unknown) = wait(&one, 1);
    assert_eq!(unknown, Duration::from_secs(1));
    clock.advance(Duration::from_secs(8));
    store.settle(&first);
    assert_eq!(wait(&one, 1).1, Duration::from_secs(8), "all of the time that the only one is held");
    for _ in 0..60 {
        let (held, _) = wait(&many, 9);
        clock.advance(Duration::from_secs(10));
        store.settle(&held);
    }
    let learned = wait(&many, 9).1.as_secs_f64();
    assert!((1.9..2.1).contains(&learned), "{learned}");
}
