//! The way a prompt takes through the tree: one hash a piece, each made from the one before, so that two prompts have the
//! same hash exactly as far as they are the same.
//!
//! Pieces are cut from the bytes of `messages` (or `prompt`, `input`) as the client wrote them: the next turn of a
//! conversation repeats them, and adds to them.

use crate::balancers::choices::mix;
use crate::call::{Call, Key};
use crate::exchange::Exchange;
use std::sync::LazyLock;

/// Sizes of pieces, and how many of each: fine where prompts part, coarse where it does not matter much any more.
const SIZES: [(usize, usize); 3] = [(256, 16), (1 << 10, 28), (4 << 10, 56)];

/// Pieces of the longest path: of the first 256 KiB.
pub(super) const LONGEST: usize = SIZES[0].1 + SIZES[1].1 + SIZES[2].1;

/// Of the tools no more than this is looked at.
const TOOLS: usize = 16 << 10;

/// Different in each process, so that nobody can make up prompts that meet.
static SEED: LazyLock<u64> = LazyLock::new(|| getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15));

/// A prompt's pieces.
pub(super) struct Path {
    hashes: [u64; LONGEST],
    length: usize,
    bytes: usize,
}

impl Path {
    /// The path of a request: empty where there is no prompt, or one too short to be worth finding again.
    pub(super) fn of(exchange: &Exchange) -> Self {
        let mut path = Self { hashes: [0; LONGEST], length: 0, bytes: 0 };
        let Some(call) = exchange.call() else { return path };
        let Some(prompt) = prompt(call, exchange.body()) else { return path };
        path.bytes = prompt.len();
        let mut hash = root(exchange, call);
        let (mut rest, sizes) = (prompt, SIZES.iter().flat_map(|(size, count)| std::iter::repeat_n(*size, *count)));
        for size in sizes {
            let Some((piece, after)) = rest.split_at_checked(size) else { break };
            hash = digest(hash, piece);
            path.hashes[path.length] = hash;
            path.length += 1;
            rest = after;
        }
        path
    }

    /// The hashes, from the beginning of the prompt.
    pub(super) fn hashes(&self) -> &[u64] {
        &self.hashes[..self.length]
    }

    /// How long the whole prompt is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the first `pieces` pieces are.
    pub(super) fn length_of(pieces: usize) -> usize {
        let mut left = pieces;
        SIZES.iter().fold(0, |sum, (size, count)| {
            let of_this = left.min(*count);
            left -= of_this;
            sum + of_this * size
        })
    }
}

/// The prompt as it stands in the body, less the bracket or quote that ends it: there the next turn goes on.
fn prompt<'a>(call: &Call, body: &'a [u8]) -> Option<&'a [u8]> {
    let place = [Key::Messages, Key::Input, Key::Prompt].into_iter().find_map(|key| call.span(key))?;
    body.get(place)?.split_last().map(|(_, prompt)| prompt)
}

/// Where the path begins: nobody shares a cache with another tenant, nor with another model or other tools, which most
/// templates put before the messages.
fn root(exchange: &Exchange, call: &Call) -> u64 {
    let caller = exchange.caller();
    let tenant = caller.and_then(|caller| {
        [&caller.org, &caller.team, &caller.user, &caller.key].into_iter().find_map(|one| one.as_deref())
    });
    let mut hash = digest(*SEED, tenant.unwrap_or_default().as_bytes());
    hash = digest(hash, exchange.model().map_or("", |model| &**model).as_bytes());
    if let Some(tools) = call.span(Key::Tools).and_then(|place| exchange.body().get(place)) {
        hash = digest(hash, &tools[..tools.len().min(TOOLS)]);
    }
    hash
}

/// A hash of what came before and `data`. Fast rather than strong: whoever makes two prompts meet gets a cold cache.
fn digest(before: u64, data: &[u8]) -> u64 {
    const KEYS: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let (mut one, mut other) = (before ^ KEYS[0], before.rotate_left(32) ^ KEYS[1]);
    let mut chunks = data.chunks_exact(32);
    // Two chains side by side: multiplications take their time.
    for chunk in &mut chunks {
        one = fold(one ^ word(&chunk[..8]), KEYS[2] ^ word(&chunk[8..16]));
        other = fold(other ^ word(&chunk[16..24]), KEYS[3] ^ word(&chunk[24..]));
    }
    for rest in chunks.remainder().chunks(8) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        one = fold(one ^ u64::from_le_bytes(last), KEYS[2]);
    }
    // Zero is an empty place in the tree.
    mix(one ^ other.rotate_left(17) ^ data.len() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::exchange;

    fn chat(messages: &[&str]) -> Path {
        let list: Vec<_> = messages.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
        Path::of(&exchange(&format!(r#"{{"model":"m","messages":[{}]}}"#, list.join(","))))
    }

    #[test]
    fn the_next_turn_goes_on_where_the_last_one_ended() {
        let (long, other) = ("a".repeat(3000), "b".repeat(900));
        let (one, two) = (chat(&[&long]), chat(&[&long, &other]));
        assert_eq!(one.hashes().len(), 3000 / 256);
        assert_eq!(two.hashes()[..one.hashes().len()], *one.hashes());
        assert!(two.hashes().len() > one.hashes().len());
    }

    #[test]
    fn prompts_part_where_they_differ_and_never_meet_again() {
        let (a, b) = (chat(&["x", &"a".repeat(9000)]), chat(&["y", &"a".repeat(9000)]));
        assert!(a.hashes().iter().all(|hash| !b.hashes().contains(hash)));
    }

    #[test]
    fn short_prompts_have_no_path_and_long_ones_an_end() {
        assert!(chat(&["hi"]).hashes().is_empty());
        assert_eq!(chat(&[&"a".repeat(1 << 20)]).hashes().len(), LONGEST);
        assert_eq!(Path::length_of(LONGEST), (4 << 10) + (28 << 10) + (224 << 10));
        assert_eq!(Path::length_of(17), 5 << 10);
    }
}
