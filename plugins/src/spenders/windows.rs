//! Sliding windows: each a row of slots, of which the oldest goes when a new one begins.

use super::tally::Tally;
use super::{KINDS, MEASURES, Spender, Sums, Top, plus};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How far back is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// Five minutes, in steps of half a minute.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// An hour, in steps of five minutes.
    #[serde(rename = "1h")]
    Hour,
    /// A day, in steps of an hour.
    #[serde(rename = "24h")]
    Day,
}

const WINDOWS: [Window; 3] = [Window::FiveMinutes, Window::Hour, Window::Day];

impl Window {
    /// Seconds of a step.
    fn step(self) -> u64 {
        match self {
            Self::FiveMinutes => 30,
            Self::Hour => 300,
            Self::Day => 3600,
        }
    }

    /// Steps that are over, of those that count; the one that goes on counts besides.
    fn steps(self) -> u64 {
        match self {
            Self::FiveMinutes => 10,
            Self::Hour => 12,
            Self::Day => 24,
        }
    }
}

/// All windows of all kinds of spenders.
#[derive(Debug, Default)]
pub(super) struct Windows([[VecDeque<Slot>; WINDOWS.len()]; KINDS]);

/// What was spent in one step.
#[derive(Debug, Default)]
struct Slot {
    /// Steps since the process began.
    number: u64,
    measures: [Tally; MEASURES],
}

impl Windows {
    pub(super) fn add(&mut self, kind: usize, now: Duration, names: HashMap<Box<str>, Sums>, others: &Sums) {
        if names.is_empty() && others.iter().all(|amount| *amount == 0) {
            return;
        }
        let mut slots: Vec<_> =
            self.0[kind].iter_mut().zip(WINDOWS).map(|(row, window)| current(row, window, now)).collect();
        for (name, sums) in names {
            let name: Arc<str> = name.into();
            for slot in &mut slots {
                slot.measures.iter_mut().zip(sums).for_each(|(tally, amount)| tally.add(&name, amount));
            }
        }
        for slot in &mut slots {
            slot.measures.iter_mut().zip(others).for_each(|(tally, amount)| tally.add_unnamed(*amount));
        }
    }

    /// Names in the fullest tally.
    #[cfg(test)]
    pub(super) fn most(&self) -> usize {
        let tallies = self.0.iter().flatten().flatten().flat_map(|slot| &slot.measures);
        tallies.map(|tally| tally.counts.len()).max().unwrap_or(0)
    }

    pub(super) fn top(&self, kind: usize, window: Window, now: Duration, of: usize, most: usize) -> Top {
        let oldest = oldest(window, now);
        let slots = || self.0[kind][window as usize].iter().filter(|slot| slot.number >= oldest);
        let (mut total, mut error): (Sums, Sums) = Default::default();
        let mut found: HashMap<&Arc<str>, Sums> = HashMap::new();
        for slot in slots() {
            plus(&mut total, &slot.measures.each_ref().map(|tally| tally.total));
            plus(&mut error, &slot.measures.each_ref().map(|tally| tally.error));
            for (measure, tally) in slot.measures.iter().enumerate() {
                for (name, count) in &tally.counts {
                    let spent = found.entry(name).or_default();
                    spent[measure] = spent[measure].saturating_add(*count);
                }
            }
        }
        let mut spenders: Vec<_> = found.into_iter().filter(|(_, spent)| spent[of] > 0).collect();
        spenders.sort_by(|(a, spent_a), (b, spent_b)| spent_b[of].cmp(&spent_a[of]).then(a.cmp(b)));
        spenders.truncate(most);
        let spenders = spenders.into_iter().map(|(name, spent)| Spender { name: name.clone(), spent }).collect();
        Top { spenders, total, error, covers: now.saturating_sub(Duration::from_secs(oldest * window.step())) }
    }
}

/// The number of the oldest step that counts.
fn oldest(window: Window, now: Duration) -> u64 {
    (now.as_secs() / window.step()).saturating_sub(window.steps())
}

/// The slot that goes on, made if need be; what is too old goes, and what is over takes no more room than it has to.
fn current(row: &mut VecDeque<Slot>, window: Window, now: Duration) -> &mut Slot {
    let number = now.as_secs() / window.step();
    if row.back().is_none_or(|slot| slot.number < number) {
        let oldest = oldest(window, now);
        row.retain(|slot| slot.number >= oldest);
        if let Some(over) = row.back_mut() {
            over.measures.iter_mut().for_each(Tally::prune);
        }
        row.push_back(Slot { number, ..Slot::default() });
    }
    let last = row.len() - 1;
    &mut row[last]
}
