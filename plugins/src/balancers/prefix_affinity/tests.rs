use super::*;
use crate::exchange::Caller;
use crate::testing::{self, Backends};
use std::sync::Arc;

fn balancer() -> PrefixAffinity {
    PrefixAffinity::new(Settings::default()).unwrap()
}

/// A conversation with `turns` messages of 500 bytes; `name` is how it begins.
fn conversation(name: &str, turns: usize) -> Exchange {
    let text = |turn: usize| format!("{name} says {turn} {}", "and so on ".repeat(50));
    let list: Vec<_> = (0..turns).map(|turn| format!(r#"{{"role":"user","content":"{}"}}"#, text(turn))).collect();
    testing::exchange(&format!(r#"{{"model":"m","messages":[{}]}}"#, list.join(",")))
}

#[test]
fn any_turn_of_a_conversation_goes_where_it_began() {
    let (balancer, field) = (balancer(), Backends::busy(&[0; 16]));
    for name in ["anna", "bert", "carl", "dora"] {
        let first = balancer.pick(&conversation(name, 2), &field);
        for turns in [3, 5, 4, 9] {
            assert_eq!(balancer.pick(&conversation(name, turns), &field), first, "{name} {turns}");
        }
    }
}

#[test]
fn tenants_share_no_cache() {
    let (balancer, field) = (balancer(), Backends::busy(&[0; 4]));
    let of = |org: &str| {
        let mut exchange = conversation("the same", 4);
        exchange.identify(Arc::new(Caller { org: Some(org.into()), ..Caller::default() }));
        exchange
    };
    let first = balancer.pick(&of("acme"), &field).unwrap();
    assert_eq!(balancer.pick(&of("acme"), &field), Some(first));
    assert_ne!(balancer.pick(&of("evil"), &field), Some(first), "the least loaded one, not the warm one");
}

#[test]
fn load_wins_beyond_the_bound() {
    let (balancer, mut field) = (balancer(), Backends::busy(&[0, 0, 0, 0]));
    let first = balancer.pick(&conversation("anna", 4), &field).unwrap();
    field.list[first].in_flight = 3;
    field.list[(first + 1) % 4].in_flight = 2;
    assert_ne!(balancer.pick(&conversation("anna", 5), &field), Some(first), "4 where 1.9 would be fair");
    field.list.iter_mut().for_each(|one| one.in_flight = 3);
    assert!(balancer.pick(&conversation("bert", 5), &field).is_some());
}

#[test]
fn a_system_prompt_that_all_share_does_not_send_all_to_one() {
    let (balancer, field) = (balancer(), Backends::busy(&[0; 4]));
    let mut picked = [0_usize; 4];
    for n in 0..400 {
        let system = "You are a helpful assistant. ".repeat(100);
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"question {n}"}}]}}"#
        );
        picked[balancer.pick(&testing::exchange(&body), &field).unwrap()] += 1;
    }
    assert!(picked.iter().all(|&n| (40..=133).contains(&n)), "{picked:?}");
}

#[test]
fn a_warm_backend_that_cannot_take_it_is_passed_over() {
    let (balancer, mut field) = (balancer(), Backends::busy(&[0; 4]));
    let first = balancer.pick(&conversation("anna", 4), &field).unwrap();
    field.closed.insert(first);
    let second = balancer.pick(&conversation("anna", 5), &field).unwrap();
    assert_ne!(second, first);
    field.closed.clear();
    assert_eq!(balancer.pick(&conversation("anna", 6), &field), Some(second), "it has the longer beginning now");
}

#[test]
fn old_pieces_make_room_for_new_ones() {
    let balancer = PrefixAffinity::new(Settings { pieces: 1024, ..Settings::default() }).unwrap();
    let field = Backends::busy(&[0; 4]);
    (0..2000).for_each(|n| _ = balancer.pick(&conversation(&format!("c{n}"), 4), &field));
    let last = balancer.pick(&conversation("last", 4), &field);
    assert_eq!(balancer.pick(&conversation("last", 5), &field), last);
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let faults = PrefixAffinity::new(Settings { imbalance: 1.0, pieces: 0 }).unwrap_err();
    let paths: Vec<_> = faults.iter().map(|fault| &*fault.path).collect();
    assert_eq!(paths, ["imbalance", "pieces"]);
}
