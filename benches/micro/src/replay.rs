//! Conversations replayed over backends with KV caches: what a balancer's picks are worth.
//!
//! People come and go, ask, read the answer for a while and ask again; each request repeats what was said before, behind
//! the system prompt of its app. A backend computes a prompt at a fixed speed, except for the beginning that lies in its
//! cache, and then answers token by token; its cache holds so many blocks and forgets those used longest ago. The clock is
//! the replay's own.

use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;
use tidegate_plugins::Balancer;
use tidegate_plugins::balancer::Field;
use tidegate_plugins::store::Clock;
use tidegate_plugins::testing::{Backends, exchange};

/// Bytes of a block of the cache: sixteen tokens of four bytes.
const BLOCK: usize = 64;

/// Blocks that a backend's cache holds: 256,000 tokens. All conversations that are under way at one time do not fit into
/// one cache, but about into four.
const CACHE: usize = 16_000;

/// Tokens a second that are computed of a prompt, and that are answered.
const PREFILL: f64 = 8_000.0;
const DECODE: f64 = 50.0;

/// What a replay came to.
#[derive(Debug)]
pub struct Outcome {
    /// Tokens of prompts that lay in a cache.
    pub hit_tokens: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Requests that each backend got.
    pub requests: Vec<u64>,
    /// Tokens of the prompts that each backend got.
    pub tokens: Vec<u64>,
    /// The mean time to the first token, in seconds.
    pub first_token: f64,
}

impl Outcome {
    /// The most that a backend had of something, in shares of the mean.
    pub fn most(of: &[u64]) -> f64 {
        let mean = of.iter().sum::<u64>() as f64 / of.len() as f64;
        of.iter().copied().max().unwrap_or(0) as f64 / mean
    }
}

/// A cache of blocks, the ones used longest ago forgotten first.
#[derive(Default)]
struct Cache {
    used: HashMap<u64, u64>,
    by_age: BinaryHeap<Reverse<(u64, u64)>>,
    clock: u64,
}

impl Cache {
    /// Bytes of this prompt's beginning that are there; all of it is from now on.
    fn compute(&mut self, prompt: &[u8]) -> usize {
        let (mut hash, mut hit, mut warm) = (0xcbf2_9ce4_8422_2325_u64, 0, true);
        for block in prompt.chunks_exact(BLOCK) {
            let words = block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            hash = words.fold(hash, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
            self.clock += 1;
            warm &= self.used.insert(hash, self.clock).is_some();
            self.by_age.push(Reverse((self.clock, hash)));
            hit += if warm { BLOCK } else { 0 };
        }
        while self.used.len() > CACHE {
            let Some(Reverse((age, hash))) = self.by_age.pop() else { break };
            if self.used.get(&hash) == Some(&age) {
                self.used.remove(&hash);
            }
        }
        hit
    }
}

/// A number after the other, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        least + (self.roll() * (most - least + 1) as f64) as usize
    }

    /// Times between things that happen now and then.
    fn pause(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }

    fn words(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            text.push_str(&format!("{:x} ", self.0 >> 8));
            self.roll();
        }
        text
    }
}

/// Somebody who talks to an app.
struct Talk {
    messages: Vec<serde_json::Value>,
    left: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// This conversation asks.
    Ask(usize),
    /// A backend has ended an answer.
    Over(usize),
}

/// Replays `talks` conversations over `count` backends, which `balancer` picks from.
///
/// # Panics
/// If the balancer picks nobody.
pub fn replay(balancer: &dyn Balancer, clock: &Clock, count: usize, talks: usize) -> Outcome {
    let mut dice = Dice(20_251_121);
    // A few apps have most of the users.
    let apps: Vec<String> = (0..12)
        .map(|_| {
            let size = dice.between(400, 2_000);
            dice.words(size)
        })
        .collect();
    let mut events = BinaryHeap::new();
    let mut at = 0.0;
    let mut all: Vec<Talk> = (0..talks)
        .map(|talk| {
            at += dice.pause(0.4);
            events.push(Reverse((micros(at), Event::Ask(talk))));
            let app = (dice.roll() * dice.roll() * apps.len() as f64) as usize;
            let messages = vec![json!({ "role": "system", "content": apps[app] })];
            Talk { messages, left: dice.between(4, 12) }
        })
        .collect();
    let mut field = Backends::busy(&vec![0; count]);
    let mut caches: Vec<Cache> = (0..count).map(|_| Cache::default()).collect();
    let mut outcome =
        Outcome { hit_tokens: 0, prompt_tokens: 0, requests: vec![0; count], tokens: vec![0; count], first_token: 0.0 };
    while let Some(Reverse((now, event))) = events.pop() {
        clock.advance(Duration::from_micros(now).saturating_sub(clock.elapsed()));
        let talk = match event {
            Event::Over(backend) => {
                field.list[backend].in_flight -= 1;
                continue;
            }
            Event::Ask(talk) => talk,
        };
        let asks = &mut all[talk];
        let size = dice.between(100, 2_000);
        asks.messages.push(json!({ "role": "user", "content": dice.words(size) }));
        let body = json!({ "model": "m", "messages": asks.messages }).to_string();
        let picked = balancer.pick(&exchange(&body), &field).expect("somebody is free");
        assert!(field.candidate(picked).is_some());
        let prompt = json!(asks.messages).to_string();
        let hit = caches[picked].compute(&prompt.as_bytes()[..prompt.len() - 1]);
        // Who has more to do takes longer for each.
        let busy = 1.0 + field.list[picked].in_flight as f64 / 16.0;
        let first = (prompt.len() - hit) as f64 / 4.0 / PREFILL * busy;
        let answer = dice.between(400, 2_400);
        let time = first + answer as f64 / 4.0 / DECODE * busy;
        field.list[picked].in_flight += 1;
        events.push(Reverse((now + micros(time), Event::Over(picked))));
        outcome.hit_tokens += (hit / 4) as u64;
        outcome.prompt_tokens += (prompt.len() / 4) as u64;
        outcome.requests[picked] += 1;
        outcome.tokens[picked] += (prompt.len() / 4) as u64;
        outcome.first_token += first;
        asks.messages.push(json!({ "role": "assistant", "content": dice.words(answer) }));
        asks.left -= 1;
        if asks.left > 0 {
            let next = now + micros(time + dice.pause(15.0));
            events.push(Reverse((next, Event::Ask(talk))));
        }
    }
    outcome.first_token /= outcome.requests.iter().sum::<u64>() as f64;
    outcome
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}
