//! What one request adds to the sums, and the line that says so in the journal.
//!
//! A line has a line break before it and one behind: what a killed process left half written ends where the next line
//! begins. Its first eight letters are the CRC of the rest, so that half a line is never taken for a whole one.

use crate::telemetry::write_json_string;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use tidegate_plugins::units::write_digits;

/// What usage is told by: who, what, and how it ended. In the order of the columns.
pub const NAMES: [&str; 7] = ["org", "team", "user", "service", "key", "model", "cause"];

/// What is added up. In the order of the columns.
pub const COUNTS: [&str; 9] = [
    "requests",
    "again",
    "estimated",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "saved_prompt_tokens",
    "saved_completion_tokens",
    "cost",
];

/// One number for each of [`COUNTS`]. Below 0 where something is taken back.
pub type Sums = [i64; COUNTS.len()];

/// The longest name that is kept, in bytes.
const LONGEST: usize = 256;

/// The most that one request can add to a sum: no backend can make one overflow.
const MOST: u64 = 1 << 53;

/// Whose usage, of which day (counted from 1970-01-01, UTC).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The day.
    pub day: u32,
    /// One for each of [`NAMES`]; empty where there is none.
    pub names: [Box<str>; NAMES.len()],
}

/// What a line says, while it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) day: u32,
    pub(crate) names: [&'a str; NAMES.len()],
    pub(crate) sums: Sums,
}

/// A number of a request, as it is added up.
pub(crate) fn count(number: u64) -> i64 {
    i64::try_from(number.min(MOST)).unwrap_or(i64::MAX)
}

/// Adds `more`.
pub(crate) fn plus(sums: &mut Sums, more: &Sums) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
}

/// Appends a line. All of its entries count, or none.
pub(crate) fn write(out: &mut Vec<u8>, entries: &[Entry<'_>]) {
    out.extend_from_slice(b"\n00000000 [");
    let body = out.len() - 1;
    for (index, entry) in entries.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[" } else { b",[" });
        write_digits(out, entry.day.into(), 1);
        for (index, name) in entry.names.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b",[" } else { b"," });
            write_json_string(out, &name[..name.floor_char_boundary(LONGEST)]);
        }
        for (index, sum) in entry.sums.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"],[" } else { b"," });
            if *sum < 0 {
                out.push(b'-');
            }
            write_digits(out, sum.unsigned_abs(), 1);
        }
        out.extend_from_slice(b"]]");
    }
    out.push(b']');
    let sum = crc32fast::hash(&out[body..]);
    // Eight letters in a place for eight.
    drop(write!(&mut out[body - 9..body - 1], "{sum:08x}"));
    out.push(b'\n');
}

/// Adds up what whole lines say. Others are left out: whoever was about to write them was killed before anyone was told.
pub(crate) fn read(lines: &[u8], sums: &mut HashMap<Whose, Sums>) {
    for line in lines.split(|byte| *byte == b'\n') {
        for (whose, more) in entries(line).unwrap_or_default() {
            plus(sums.entry(whose).or_insert([0; COUNTS.len()]), &more);
        }
    }
}

fn entries(line: &[u8]) -> Option<Vec<(Whose, Sums)>> {
    #[derive(Deserialize)]
    struct Read<'a>(u32, #[serde(borrow)] [Cow<'a, str>; NAMES.len()], Sums);
    let (sum, body) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32fast::hash(body) != sum {
        return None;
    }
    let read: Vec<Read<'_>> = serde_json::from_slice(body).ok()?;
    let whose = |day, names: [Cow<'_, str>; NAMES.len()]| Whose { day, names: names.map(|name| name.as_ref().into()) };
    Some(read.into_iter().map(|Read(day, names, sums)| (whose(day, names), sums)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry<'a>(user: &'a str, sums: Sums) -> Entry<'a> {
        Entry { day: 20_000, names: ["acme", "", user, "", "k1", "m", "none"], sums }
    }

    fn all(lines: &[u8]) -> HashMap<Whose, Sums> {
        let mut sums = HashMap::new();
        read(lines, &mut sums);
        sums
    }

    const ONE: Sums = [1, 0, 0, 10, 2, 5, 0, 0, 700];

    #[test]
    fn lines_add_up_by_day_and_name() {
        let mut lines = Vec::new();
        write(&mut lines, &[entry("ann", ONE)]);
        write(&mut lines, &[entry("ann", ONE), entry("bob", ONE), entry("bob", ONE.map(|sum| -sum))]);
        let sums = all(&lines);
        let of = |user| {
            let names = entry(user, ONE).names.map(Box::from);
            sums[&Whose { day: 20_000, names }]
        };
        assert_eq!((of("ann"), of("bob")), ([2, 0, 0, 20, 4, 10, 0, 0, 1400], [0; 9]));
    }

    #[test]
    fn a_name_may_be_anything_and_no_longer_than_is_kept() {
        let mut lines = Vec::new();
        let odd = "a\"b\\c\nd\u{202e}é\t";
        let long = "é".repeat(300);
        write(&mut lines, &[entry(odd, ONE), entry(&long, ONE)]);
        let mut users: Vec<_> = all(&lines).into_keys().map(|whose| whose.names[2].to_string()).collect();
        users.sort_unstable();
        assert_eq!(users, [odd.to_owned(), "é".repeat(128)]);
    }

    proptest! {
        #[test]
        fn what_was_half_written_counts_nothing_and_takes_no_other_with_it(cut in 0_usize..200, flip in any::<(usize, u8)>()) {
            let (mut whole, mut lines) = (Vec::new(), Vec::new());
            write(&mut whole, &[entry("ann", ONE), entry("bob", ONE)]);
            let cut = cut % (whole.len() - 1);
            lines.extend_from_slice(&whole[..cut]);
            write(&mut lines, &[entry("cid", ONE)]);
            let mut spoilt = whole.clone();
            let at = flip.0 % whole.len();
            spoilt[at] ^= flip.1;
            lines.extend_from_slice(&spoilt);
            let mut users: Vec<_> = all(&lines).into_keys().map(|whose| whose.names[2].to_string()).collect();
            users.sort_unstable();
            // Where only the spelling of the CRC was spoilt, it is the same line.
            let expected = users == ["cid"] || users == ["ann", "bob", "cid"] && spoilt[10..] == whole[10..];
            prop_assert!(expected, "{:?}", String::from_utf8_lossy(&spoilt));
        }
    }
}
