//! Bytes that mean more than themselves, found many at once.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x16, u8x64};
use std::marker::PhantomData;

/// What every processor compares in one step.
const STEP: usize = 16;

/// Where the first quote or backslash is.
pub(super) fn quote_or_backslash(text: &[u8]) -> Option<usize> {
    // Its preparations cost more than it saves where strings are short, which most are: those go by steps.
    const NEAR: usize = 16 * STEP;
    let near = &text[..text.len().min(NEAR)];
    // Known when this is compiled: nothing is chosen at run time.
    let found = dispatch!(Level::baseline(), simd => first_of_either(simd, near));
    if found.is_some() {
        return found;
    }
    let at = near.len() / STEP * STEP;
    let rest = &text[at..];
    match at {
        NEAR => memchr::memchr2(b'"', b'\\', rest).map(|more| at + more),
        _ => rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|more| at + more),
    }
}

/// Where the first quote or backslash is in the whole steps of `text`.
#[inline(always)]
fn first_of_either<S: Simd>(simd: S, text: &[u8]) -> Option<usize> {
    for (index, step) in text.as_chunks::<STEP>().0.iter().enumerate() {
        let step = u8x16::from_slice(simd, step);
        let found = step.simd_eq(u8x16::splat(simd, b'"')) | step.simd_eq(u8x16::splat(simd, b'\\'));
        let found = found.to_bitmask();
        if found != 0 {
            return Some(index * STEP + found.trailing_zeros() as usize);
        }
    }
    None
}

/// Bytes to look for.
pub(crate) trait Mark {
    /// A bit for each of them in `block`, the lowest for its first byte.
    fn bits<S: Simd>(simd: S, block: u8x64<S>) -> u64;
}

/// What ends a string, begins an escape, or must not stand in one (RFC 8259 section 7).
pub(crate) enum Odd {}

impl Mark for Odd {
    #[inline(always)]
    fn bits<S: Simd>(simd: S, block: u8x64<S>) -> u64 {
        let special = block.simd_eq(u8x64::splat(simd, b'"')) | block.simd_eq(u8x64::splat(simd, b'\\'));
        // What is the lesser of itself and the greatest control character is one.
        let control = block.simd_eq(block.min(u8x64::splat(simd, b' ' - 1)));
        (special | control).to_bitmask()
    }
}

/// A quote, of which an escaped one is one too.
pub(crate) enum Quote {}

impl Mark for Quote {
    #[inline(always)]
    fn bits<S: Simd>(simd: S, block: u8x64<S>) -> u64 {
        block.simd_eq(u8x64::splat(simd, b'"')).to_bitmask()
    }
}

/// Finds one marked byte of a text after the other. A window of it is looked over at a time, with the widest registers that
/// the processor has: in talk there is an escape every fifty bytes, and who looks for the next would begin anew for each.
pub(crate) struct Marked<'a, M> {
    text: &'a [u8],
    /// Where the window begins.
    start: usize,
    /// A bit for each marked byte of the window, the lowest of the first word for its first.
    found: [u64; WORDS],
    mark: PhantomData<M>,
}

const BLOCK: usize = u64::BITS as usize;

/// As much as most requests have; to choose the registers costs as much as a block.
const WORDS: usize = 16;

const WINDOW: usize = WORDS * BLOCK;

impl<'a, M: Mark> Marked<'a, M> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let mut marked = Self { text, start: 0, found: [0; WORDS], mark: PhantomData };
        marked.look();
        marked
    }

    /// The first marked byte at or after `at`. Who goes back pays for another look.
    #[inline]
    pub(crate) fn from(&mut self, at: usize) -> Option<usize> {
        let within = at.wrapping_sub(self.start);
        if within < WINDOW {
            let found = self.found[within / BLOCK] >> (within % BLOCK);
            if found != 0 {
                return Some(at + found.trailing_zeros() as usize);
            }
            return self.seek(within / BLOCK + 1);
        }
        self.start = at;
        self.look();
        self.seek(0)
    }

    /// The first from the word `next` of the window on.
    #[inline(never)]
    fn seek(&mut self, mut next: usize) -> Option<usize> {
        loop {
            while let Some(found) = self.found.get(next) {
                if *found != 0 {
                    return Some(self.start + next * BLOCK + found.trailing_zeros() as usize);
                }
                next += 1;
            }
            if self.text.len().saturating_sub(self.start) <= WINDOW {
                return None;
            }
            self.start += WINDOW;
            self.look();
            next = 0;
        }
    }

    /// Looks over the window at `start`.
    fn look(&mut self) {
        let rest = self.text.get(self.start..).unwrap_or_default();
        let window = &rest[..rest.len().min(WINDOW)];
        dispatch!(Level::new(), simd => mark::<M, _>(simd, window, &mut self.found));
    }
}

/// How letters of a string are written, the oddest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spelled {
    /// As themselves.
    Plainly,
    /// In the shortest way.
    Escaped,
    /// In a way that need not be.
    Oddly,
}

/// What follows a backslash (RFC 8259 section 7): nothing that may, a letter, one that needs no backslash, or digits.
const ESCAPES: [u8; 256] = {
    let mut table = [NONE; 256];
    let mut letters: &[u8] = b"\"\\bfnrt";
    while let [letter, rest @ ..] = letters {
        (table[*letter as usize], letters) = (LETTER, rest);
    }
    (table[b'/' as usize], table[b'u' as usize]) = (NEEDLESS, DIGITS);
    table
};
const NONE: u8 = 0;
const LETTER: u8 = 1;
const NEEDLESS: u8 = 2;
const DIGITS: u8 = 3;

impl Marked<'_, Odd> {
    /// Where the quote is that ends the string which goes on at `at`, and how it is written up to there. None if nothing ends
    /// it, or something stands in it that may not.
    pub(super) fn closing_quote(&mut self, mut at: usize) -> Option<(usize, Spelled)> {
        let mut spelled = Spelled::Plainly;
        'window: loop {
            let mut within = at.wrapping_sub(self.start);
            if within >= WINDOW {
                self.start = at;
                self.look();
                within = 0;
            }
            let mut index = within / BLOCK;
            let mut word = self.found[index] & (u64::MAX << (within % BLOCK));
            loop {
                while word == 0 {
                    index += 1;
                    if index == WORDS {
                        at = self.start + WINDOW;
                        if at >= self.text.len() {
                            return None;
                        }
                        continue 'window;
                    }
                    word = self.found[index];
                }
                let bit = word.trailing_zeros();
                at = self.start + index * BLOCK + bit as usize;
                match self.text[at] {
                    b'"' => return Some((at, spelled)),
                    b'\\' => {}
                    _ => return None,
                }
                let way = match ESCAPES[usize::from(*self.text.get(at + 1)?)] {
                    LETTER => Spelled::Escaped,
                    NEEDLESS => Spelled::Oddly,
                    DIGITS if self.text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => Spelled::Oddly,
                    _ => return None,
                };
                spelled = spelled.max(way);
                if bit == u64::BITS - 1 {
                    at += 2;
                    continue 'window;
                }
                // What is escaped ends nothing.
                word &= !(3 << bit);
            }
        }
    }
}

/// Marks what is in `window`.
#[inline(always)]
fn mark<M: Mark, S: Simd>(simd: S, window: &[u8], found: &mut [u64; WORDS]) {
    let (blocks, rest) = window.as_chunks::<BLOCK>();
    let mut words = found.iter_mut();
    for (block, word) in blocks.iter().zip(&mut words) {
        *word = M::bits(simd, u8x64::from_slice(simd, block));
    }
    // The last window alone has less than a block, and words of which there is no text.
    if let Some(word) = words.next() {
        let mut block = [b' '; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        *word = M::bits(simd, u8x64::from_slice(simd, &block));
        words.for_each(|word| *word = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all<M: Mark>(text: &[u8]) -> Vec<usize> {
        let (mut marked, mut found, mut from) = (Marked::<M>::new(text), Vec::new(), 0);
        while let Some(at) = marked.from(from) {
            found.push(at);
            from = at + 1;
        }
        assert_eq!(marked.from(from), None);
        found
    }

    fn every_one_is_found(text: &[u8], from: usize) {
        let is_odd = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        let at = |from: usize| (from..text.len()).find(|at| is_odd(text[*at]));
        let mut odd = Marked::<Odd>::new(text);
        assert_eq!(odd.from(from), at(from));
        // Back to the beginning.
        assert_eq!(odd.from(0), at(0));
        assert_eq!(all::<Odd>(text), (0..text.len()).filter(|at| is_odd(text[*at])).collect::<Vec<_>>());
        assert_eq!(all::<Quote>(text), (0..text.len()).filter(|at| text[*at] == b'"').collect::<Vec<_>>());
        let first = text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        assert_eq!(quote_or_backslash(text), first);
    }

    const BYTES: &[u8] = b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \x7f\x80\xff!#[]\"\\\x00\x1f\n";

    proptest! {
        #[test]
        fn every_marked_byte_is_found_and_no_other(
            text in prop::collection::vec(prop::sample::select(BYTES), 0..300), from in 0_usize..320,
        ) {
            every_one_is_found(&text, from);
        }

        #[test]
        fn and_where_they_are_far_apart(
            places in prop::collection::vec((0..5 * WINDOW, prop::sample::select(BYTES)), 0..8),
            length in 0..5 * WINDOW, from in 0..6 * WINDOW,
        ) {
            let mut text = vec![b'a'; length];
            places.iter().for_each(|(at, byte)| text.iter_mut().skip(*at).take(1).for_each(|it| *it = *byte));
            every_one_is_found(&text, from);
        }
    }
}
