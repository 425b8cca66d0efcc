//! Bytes that mean more than themselves, found many at once.

use wide::u8x16;

/// What processors compare in one step: as much of `wide` as every processor has.
const STEP: usize = 16;

/// Where the first quote or backslash is.
pub(super) fn quote_or_backslash(text: &[u8]) -> Option<usize> {
    const NEAR: usize = 16 * STEP;
    let found = |block: &[u8; STEP]| {
        let block = u8x16::new(*block);
        (block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
    };
    let mut at = 0;
    while let Some(block) = text[at..].first_chunk() {
        let found = found(block);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += STEP;
        if at == NEAR {
            // Its preparations cost more than it saves where strings are short, which most are.
            return memchr::memchr2(b'"', b'\\', &text[at..]).map(|more| at + more);
        }
    }
    let rest = &text[at..];
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|more| at + more)
}

/// Finds the odd bytes of a text, and remembers those of the block that was looked at last: in talk there is an escape
/// every fifty bytes, and who looks for the next would begin anew for each.
pub(crate) struct Odd<'a> {
    text: &'a [u8],
    /// Where the block begins.
    start: usize,
    /// A bit for each odd byte of it, the lowest for the first.
    found: u64,
}

const BLOCK: usize = u64::BITS as usize;

impl<'a> Odd<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        let mut odd = Self { text, start: 0, found: 0 };
        odd.found = odd.look(0);
        odd
    }

    /// The first byte at or after `at` that ends a string, begins an escape, or must not stand in one (RFC 8259 section 7).
    #[inline]
    pub(crate) fn from(&mut self, at: usize) -> Option<usize> {
        if let Some(within) = at.checked_sub(self.start)
            && within < BLOCK
        {
            let found = self.found >> within;
            if found != 0 {
                return Some(at + found.trailing_zeros() as usize);
            }
            return self.seek(self.start + BLOCK, 0);
        }
        self.seek(at - at % BLOCK, at % BLOCK)
    }

    /// The first from the block at `start` on, without the first `behind` bytes of that.
    #[inline(never)]
    fn seek(&mut self, mut start: usize, behind: usize) -> Option<usize> {
        let mut found = self.look(start);
        let mut ahead = found >> behind << behind;
        while ahead == 0 {
            start += BLOCK;
            if start >= self.text.len() {
                return None;
            }
            found = self.look(start);
            ahead = found;
        }
        (self.start, self.found) = (start, found);
        Some(start + ahead.trailing_zeros() as usize)
    }

    /// The odd bytes of the block at `start`.
    #[inline]
    fn look(&self, start: usize) -> u64 {
        let rest = self.text.get(start..).unwrap_or_default();
        rest.first_chunk().map_or_else(|| last(rest), odd)
    }
}

/// The odd bytes of what is less than a block.
#[cold]
fn last(rest: &[u8]) -> u64 {
    let mut block = [b' '; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    odd(&block)
}

#[inline]
fn odd(block: &[u8; BLOCK]) -> u64 {
    let (steps, _) = block.as_chunks::<STEP>();
    steps.iter().rev().fold(0, |found, step| {
        let step = u8x16::new(*step);
        let special = step.simd_eq(u8x16::splat(b'"')) | step.simd_eq(u8x16::splat(b'\\'));
        // What is the lesser of itself and the greatest control character is one.
        let control = step.simd_eq(step.min(u8x16::splat(b' ' - 1)));
        found << STEP | u64::from((special | control).to_bitmask())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_odd_byte_is_found_and_no_other(text in prop::collection::vec(prop::sample::select(
            b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \x7f\x80\xff!#[]\"\\\x00\x1f\n".to_vec()), 0..300), from in 0_usize..320) {
            let is_odd = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
            let at = |from: usize| (from..text.len()).find(|at| is_odd(text[*at]));
            prop_assert_eq!(Odd::new(&text).from(from), at(from));
            let mut odd = Odd::new(&text);
            let (mut one, mut other) = (Vec::new(), 0);
            while let Some(found) = odd.from(other) {
                one.push(found);
                other = found + 1;
            }
            prop_assert_eq!(one, (0..text.len()).filter(|at| is_odd(text[*at])).collect::<Vec<_>>());
            let quote = text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(quote_or_backslash(&text), quote);
        }
    }
}
