//! What limits are counted in: buckets, one a limit and subject, decided over together.
//!
//! A [`Ledger`] is one limit: how much (its [`Quota`]) and a bucket for each subject it has met. A request asks with a
//! [`Demand`] for each limit that applies to it; [`Store::try_take`] grants all of them or takes nothing, in one call,
//! so that a form shared by several machines can decide them in one script. What was taken is a reservation until
//! [`Store::settle`] says what was really spent.
//!
//! Rates are kept by the generic cell rate algorithm (GCRA): a bucket is one number, the time at which it will be full
//! again. Taking moves that time ahead, giving back moves it back, and a bucket whose time has passed is as good as a
//! fresh one, so it may be forgotten. A budget's bucket is a number as well: the window it is for, and what is spent.

#[cfg(test)]
mod budgets;
mod calendar;
mod clock;
mod ledger;
mod local;
mod metrics;
mod pending;
mod quota;
#[cfg(test)]
mod races;
mod sync;
#[cfg(test)]
mod tests;

use crate::services::{Journal, Spent};
use async_trait::async_trait;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use calendar::{Calendar, OVER, Period, half_day};
pub use clock::Clock;
pub use ledger::{Ledger, MAX_SUBJECTS, Spec};
pub use local::Local;
pub use metrics::{DECISIONS, DECISIONS_HELP, ESTIMATED, ESTIMATED_HELP, LimitMetrics, SUBJECTS, SUBJECTS_HELP};
use quota::At;
pub use quota::{MAX_BUDGET, Quota};

/// Who a bucket belongs to: 128 bits of a hash, the same on every machine. All zero where all share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject([u64; 2]);

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[1]);
    }
}

impl Subject {
    /// The subject that `name` spells out. The hash cannot be aimed: nobody picks a name to share another's bucket.
    pub fn of(name: &[u8]) -> Self {
        let hash = blake3::hash(name);
        let (high, low) = hash.as_bytes().split_at(8);
        let number = |bytes: &[u8]| bytes[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self([number(high), number(low)])
    }

    /// As bytes, to be kept beyond the process.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0[0]) << 64 | u128::from(self.0[1])).to_be_bytes()
    }

    /// From what [`Subject::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        Self([(number >> 64) as u64, number as u64])
    }
}

/// One limit's part in a decision, and what became of it.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The limit.
    pub ledger: Arc<Ledger>,
    /// Whose bucket.
    pub subject: Subject,
    /// How much is taken, at most the quota's burst; 0 only looks.
    pub amount: u64,
    /// Whether it can refuse. One that cannot is counted as if it could.
    pub binding: bool,
    /// Whatever the caller finds its limit by.
    pub tag: usize,
    /// What was really spent, for [`Store::settle`].
    pub spent: u64,
    /// Whether `spent` is a guess.
    pub estimated: bool,
    /// How the bucket stood after the decision.
    pub level: Level,
    /// How long until this demand alone could be met; none if it was.
    pub wait: Option<Duration>,
    /// Whether a budget refuses only because of what requests have reserved that are not over.
    pub is_reserved: bool,
    taken: bool,
    overflow: bool,
    /// When it was taken: where it goes back to.
    at: At,
}

impl Demand {
    /// Asks `ledger` for `amount` for `subject`.
    pub fn new(ledger: Arc<Ledger>, subject: Subject, amount: u64) -> Self {
        let level = Level::default();
        let (binding, tag, spent, estimated, at) = (true, 0, 0, false, At::default());
        let (wait, is_reserved, taken, overflow) = (None, false, false, false);
        Self { ledger, subject, amount, binding, tag, spent, estimated, level, wait, is_reserved, taken, overflow, at }
    }

    /// Whether it would have refused, but does not bind.
    pub fn would_refuse(&self) -> bool {
        self.wait.is_some() && !self.binding
    }
}

/// How a bucket stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// What a full bucket holds.
    pub most: u64,
    /// What is left; 0 also for a bucket in debt.
    pub left: u64,
    /// How long until it is full again, if nothing more is taken; of a budget, until the next one begins.
    pub full_in: Duration,
}

/// All there is to tell about a bucket, for those who look after limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// What is left of how much.
    pub level: Level,
    /// What was taken by requests that are not over, and is not settled.
    pub reserved: u64,
    /// What was spent beyond what there was: nothing is left until it is paid off.
    pub owed: u64,
    /// How long until there is one more, if nothing more is taken; none if it is full, or where nobody knows.
    pub next_in: Option<Duration>,
}

/// Where limits are counted.
#[async_trait]
pub trait Store: Send + Sync {
    /// The ledger of a limit. The same `id` gives the same ledger for as long as anybody holds it, so that a limit
    /// that a reload does not change keeps its buckets.
    fn open(&self, spec: Spec) -> Arc<Ledger>;

    /// Grants all of these or takes nothing; says so. Either way each demand's `level` and `wait` are told. Demands
    /// that do not bind are taken where they can be, if all others are.
    async fn try_take(&self, demands: &mut [Demand]) -> bool;

    /// Says what was really `spent` of what was taken: less is given back, more becomes a debt. To be called once for
    /// granted demands. Does not wait, since it is called where nothing may; a form that has to ask another machine
    /// sends it behind the request's back.
    fn settle(&self, demands: &[Demand]);

    /// Adds what was spent of budgets before the process began, as soon as that is known, and keeps what is spent from
    /// now on for [`Store::write_down`]. A form that keeps everything elsewhere has nothing to add.
    fn go_on_from(&self, spent: Option<Vec<Spent>>) {
        drop(spent);
    }

    /// Adds what another process has spent of budgets after [`Store::go_on_from`]. A form that keeps everything elsewhere
    /// has nothing to add.
    fn spent_elsewhere(&self, spent: Vec<Spent>) {
        drop(spent);
    }

    /// Gives what was spent of budgets since the last time to `journal`; says how many entries it had.
    ///
    /// # Errors
    /// What the journal says. Nothing is lost: it has them the next time.
    fn write_down(&self, journal: &dyn Journal) -> io::Result<usize> {
        let _ = journal;
        Ok(0)
    }

    /// Whether a budget is counted here that is gone with the process unless it is written down.
    fn has_budgets(&self) -> bool {
        false
    }

    /// Forgets some of those who have been idle. Called about once a second, where no request waits for it.
    fn tidy(&self) {}

    /// The clocks it goes by.
    fn clock(&self) -> &Clock;

    /// How a subject's bucket stands.
    async fn peek(&self, ledger: &Ledger, subject: Subject) -> Standing;
}
