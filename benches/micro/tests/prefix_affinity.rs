//! What `prefix_affinity` is worth: conversations replayed over four backends with KV caches, next to `round_robin`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, whose numbers are meant to be read")]

use tidegate_bench_micro::replay::{Outcome, replay};
use tidegate_plugins::balancers::{LeastBusy, PrefixAffinity, RoundRobin, prefix_affinity};
use tidegate_plugins::store::Clock;
use tidegate_plugins::{Balancer, BalancerPlugin};

const BACKENDS: usize = 4;
const TALKS: usize = 500;

fn show(name: &str, outcome: &Outcome) {
    println!(
        "{name:<16} {:>10} of {} prompt tokens from caches ({:.0} %), most requests {:.3} and tokens {:.3} of the mean, first token after {:.0} ms",
        outcome.hit_tokens,
        outcome.prompt_tokens,
        100.0 * outcome.hit_tokens as f64 / outcome.prompt_tokens as f64,
        Outcome::most(&outcome.requests),
        Outcome::most(&outcome.tokens),
        outcome.first_token * 1000.0,
    );
}

fn run(name: &str, make: impl Fn(&Clock) -> Box<dyn Balancer>) -> Outcome {
    let clock = Clock::manual();
    let outcome = replay(&*make(&clock), &clock, BACKENDS, TALKS);
    show(name, &outcome);
    outcome
}

#[test]
fn it_finds_two_and_a_half_times_the_tokens_of_round_robin_with_no_backend_above_its_bound() {
    let turns = run("round_robin", |_| Box::new(RoundRobin::default()));
    run("least_busy", |_| Box::new(LeastBusy::default()));
    let affine = run("prefix_affinity", |clock| {
        let balancer = PrefixAffinity::new(prefix_affinity::Settings::default()).unwrap();
        Box::new(balancer.with_clock(clock.clone()))
    });
    let gain = affine.hit_tokens as f64 / turns.hit_tokens as f64;
    println!("prefix_affinity finds {gain:.2} times the tokens of round_robin");
    assert!(gain >= 2.5, "{gain}");
    for load in [&affine.requests, &affine.tokens] {
        assert!(Outcome::most(load) <= 1.25, "{load:?}");
    }
}
