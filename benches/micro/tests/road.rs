//! How many allocations a whole exchange takes, against what `benches/results/allocations.txt` says it takes. They are counted
//! and not timed: the number is the same on every machine, and one more is seen.

use allocation_counter::measure;
use std::collections::BTreeMap;
use tidegate_bench_micro::road::{Answer, Features, Road};

/// Of so many exchanges the one that takes the least: the others meet what grows, or what is tidied up.
const ROUNDS: usize = 51;

/// Allocations of one exchange.
fn counted(features: Features, body: usize, answer: Answer) -> u64 {
    let mut road = Road::new(features, body, answer);
    // What grows at first has grown.
    (0..10).for_each(|_| road.pass());
    (0..ROUNDS).map(|_| measure(|| road.pass()).count_total).min().unwrap_or(0)
}

fn known() -> BTreeMap<&'static str, u64> {
    let lines = include_str!("../../results/allocations.txt").lines().filter(|line| !line.starts_with('#'));
    let number = |line: &'static str| {
        let (name, number) = line.rsplit_once(' ').expect("a name and a number");
        (name.trim(), number.parse().expect("a number"))
    };
    lines.map(number).collect()
}

#[test]
fn an_exchange_takes_no_more_allocations_than_it_is_known_to_take() {
    let mut found = BTreeMap::new();
    for (name, features) in [("bare", Features::Bare), ("everything", Features::Everything)] {
        let whole = |body| counted(features, body, Answer::Whole(504));
        let [one, many] = [1, 65].map(|tokens| counted(features, 1 << 10, Answer::Tokens(tokens)));
        found.insert(format!("{name} 1_kib"), whole(1 << 10));
        found.insert(format!("{name} 32_kib"), whole(32 << 10));
        found.insert(format!("{name} stream"), one);
        found.insert(format!("{name} 64_more_tokens"), many.saturating_sub(one));
    }
    let known = known();
    let told: Vec<_> = found.iter().map(|(name, number)| format!("{name:28} {number:8}")).collect();
    let told = told.join("\n");
    assert!(known.keys().eq(found.keys()), "other things are counted than are known:\n{told}");
    for (name, number) in &found {
        let known = known[&**name];
        assert!(
            *number <= known,
            "{name}: {number} allocations, benches/results/allocations.txt says {known}: mend it, or write down why\n{told}"
        );
    }
}
