//! The order, and what it means for waiting: simulated on a clock of its own, so that the numbers are the same each time.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

fn claim(tenant: &str, cost: u64) -> Claim {
    Claim { priority: 5, tenant: tenant.into(), weight: 1, cost }
}

fn order<T>(line: &mut Line<T>) -> Vec<T> {
    std::iter::from_fn(|| line.next().map(|(_, who)| who)).collect()
}

#[test]
fn one_organisation_alone_is_served_in_order() {
    let mut line = Line::default();
    for n in 0..5 {
        line.join(&claim("a", 100 - n), n);
    }
    assert_eq!(order(&mut line), [0, 1, 2, 3, 4]);
}

#[test]
fn who_comes_after_a_crowd_of_another_organisation_is_next() {
    let mut line = Line::default();
    for n in 0..50 {
        line.join(&claim("heavy", 10), n);
    }
    let (first, second) = (line.join(&claim("b", 10), 100), line.join(&claim("c", 10), 101));
    assert_eq!((line.before(first), line.before(second)), (1, 2));
    assert_eq!(order(&mut line)[..4], [0, 100, 101, 1]);
}

#[test]
fn each_knows_how_many_are_before_it_wherever_it_stands() {
    for crowd in 0..9 {
        let mut line = Line::default();
        let urgent = Claim { priority: 9, ..claim("a", 10) };
        line.join(&urgent, usize::MAX);
        let spots: Vec<Spot> = (0..crowd).map(|n| line.join(&claim("a", 10), n)).collect();
        for (before, spot) in spots.iter().enumerate() {
            assert_eq!(line.before(*spot), 1 + before, "of {crowd}");
        }
        // One that was called is in line no more, and stands where it stood.
        for (before, spot) in spots.iter().enumerate() {
            line.leave(*spot);
            assert_eq!(line.before(*spot), 1 + before, "of {crowd}, having left");
            line.come_back(*spot, before);
        }
    }
}

#[test]
fn a_request_counts_by_its_tokens() {
    let mut line = Line::default();
    for n in 0..3 {
        line.join(&claim("long", 1000), n);
    }
    for n in 10..20 {
        line.join(&claim("short", 100), n);
    }
    assert_eq!(order(&mut line)[..12], [0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 1][..]);
}

#[test]
fn weights_are_shares() {
    let mut line = Line::default();
    for _ in 0..100 {
        line.join(&Claim { weight: 3, ..claim("paying", 30) }, "paying");
        line.join(&claim("free", 30), "free");
    }
    let served = order(&mut line);
    let paying = served[..80].iter().filter(|who| **who == "paying").count();
    assert!((58..=62).contains(&paying), "{paying} of 80");
}

#[test]
fn classes_go_before_one_another_and_none_waits_for_ever() {
    let mut line = Line::default();
    for n in 0..40 {
        line.join(&Claim { priority: 2, ..claim("a", 1) }, ("batch", n));
        line.join(&Claim { priority: 8, ..claim("b", 1) }, ("interactive", n));
    }
    let served = order(&mut line);
    assert!(served[..PATIENCE as usize].iter().all(|(class, _)| *class == "interactive"));
    assert_eq!(served[PATIENCE as usize], ("batch", 0));
    assert_eq!(served[..40].iter().filter(|(class, _)| *class == "batch").count(), 2);
}

#[test]
fn who_leaves_is_gone_and_who_comes_back_has_its_place() {
    let mut line = Line::default();
    let spots: Vec<Spot> = (0..4).map(|n| line.join(&claim("a", 1), n)).collect();
    assert_eq!(line.leave(spots[1]), Some(1));
    assert_eq!(line.leave(spots[1]), None);
    let (spot, who) = line.next().unwrap();
    line.join(&claim("a", 1), 9);
    line.come_back(spot, who);
    assert_eq!((line.len(), order(&mut line)), (4, vec![0, 2, 3, 9]));
}

#[test]
fn nobody_is_remembered_for_longer_than_needed() {
    let mut line = Line::default();
    for n in 0..10_000 {
        line.join(&claim(&n.to_string(), 1), n);
        if n > 3 {
            line.next();
        }
    }
    assert!(line.classes.iter().all(|class| class.ends.len() <= 2 * MANY));
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }
}

/// Ten organisations before eight places, on a clock of its own; the median wait of nine of them in milliseconds. The
/// tenth sends `heavy` times what each of the others does.
fn median_wait(heavy: f64) -> f64 {
    const PLACES: usize = 8;
    const EACH: f64 = 0.094;
    let mut dice = Dice(7);
    // (when, what): an arrival of an organisation, or a place that is free again.
    let mut events = BinaryHeap::new();
    for tenant in 0..10_usize {
        events.push(Reverse((0_u64, tenant)));
    }
    let (mut line, mut free, mut waits, mut sent_away) = (Line::default(), PLACES, Vec::new(), [0, 0]);
    while let Some(Reverse((now, what))) = events.pop() {
        if now > 60_000_000 {
            break;
        }
        match what {
            10 => free += 1,
            tenant => {
                // A mean of 80 ms a request: 10 organisations of 9.4 requests a second each need 94 % of 8 places.
                let rate = EACH / 10.0 * if tenant == 0 { heavy } else { 1.0 };
                events.push(Reverse((now + (dice.exponential(1.0 / rate) * 1000.0) as u64, tenant)));
                let cost = (dice.exponential(80.0) + 1.0) as u64;
                line.join(&claim(&tenant.to_string(), cost), (now, tenant, cost));
                // The queue is bounded, as the real one is: whoever would be last goes.
                if line.len() > 1000
                    && let Some((spot, (_, tenant, cost))) = line.last()
                {
                    line.forgo(spot, &claim(&tenant.to_string(), cost));
                    sent_away[usize::from(tenant != 0)] += 1;
                }
            }
        }
        while free > 0
            && let Some((_, (since, tenant, cost))) = line.next()
        {
            free -= 1;
            events.push(Reverse((now + cost * 1000, 10)));
            if tenant != 0 {
                waits.push(now - since);
            }
        }
    }
    waits.sort_unstable();
    assert_eq!(sent_away[1], 0, "the others are kept out of the line");
    assert_eq!(sent_away[0] > 0, heavy > 1.0);
    waits[waits.len() / 2] as f64 / 1000.0
}

#[test]
fn an_organisation_that_sends_fifty_times_its_share_delays_itself() {
    let (fair, crowded) = (median_wait(1.0), median_wait(50.0));
    assert!(fair > 1.0, "there is a queue to begin with: {fair} ms");
    assert!(crowded < fair * 1.2, "the others' median wait rose from {fair:.1} ms to {crowded:.1} ms");
}
