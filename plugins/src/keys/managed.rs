//! Keys that are made and revoked while the gateway runs: all of them in memory, and whoever lets in by them is told
//! when they change.

use super::{Key, KeyHash};
use crate::when::When;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One managed key.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose it is and what it lays down. The hash in it is not used.
    pub key: Key,
    /// When it was made.
    pub created: When,
    /// When it was revoked, if it was.
    pub revoked: Option<When>,
    /// The secrets that let in by it: one, and for a while after a rotation the one before.
    pub secrets: Vec<Secret>,
}

/// One secret of a key.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its hash.
    pub hash: KeyHash,
    /// When it was made.
    pub created: When,
    /// When it ends, if another has taken its place.
    pub until: Option<When>,
}

/// What may become of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It lets in, as far as its owner may.
    Active,
    /// It is disabled.
    Disabled,
    /// Its end has come.
    Expired,
    /// It was revoked.
    Revoked,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Disabled, Self::Expired, Self::Revoked];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Record {
    /// What has become of it.
    #[must_use]
    pub fn state(&self, now: When) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if self.key.disabled {
            State::Disabled
        } else if self.key.expires.is_some_and(|expires| expires <= now) {
            State::Expired
        } else {
            State::Active
        }
    }
}

/// Whoever keeps something made from the keys.
pub trait Follow: Send + Sync {
    /// These are all of them now.
    fn keys_are(&self, records: &[Record]);
}

/// All managed keys. Empty until they have been read.
#[derive(Default)]
pub struct ManagedKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    records: Option<Arc<[Record]>>,
    followers: Vec<Weak<dyn Follow>>,
}

impl ManagedKeys {
    /// These are all of them now. Followers are told before this returns.
    pub fn replace(&self, records: Vec<Record>) {
        let mut known = self.lock();
        let records: Arc<[Record]> = records.into();
        known.records = Some(records.clone());
        known.followers.retain(|follower| {
            let follower = follower.upgrade();
            follower.iter().for_each(|follower| follower.keys_are(&records));
            follower.is_some()
        });
    }

    /// Tells `follower` what they are, now if that is known, and whenever they change.
    pub fn follow(&self, follower: &Arc<dyn Follow>) {
        let mut known = self.lock();
        known.followers.push(Arc::downgrade(follower));
        known.records.iter().for_each(|records| follower.keys_are(records));
    }

    /// How many are in each state, in the order of [`State::ALL`].
    #[must_use]
    pub fn count(&self, now: When) -> [usize; State::ALL.len()] {
        let records = self.lock().records.clone();
        let mut counts = [0; State::ALL.len()];
        records.iter().flat_map(|records| records.iter()).for_each(|record| counts[record.state(now) as usize] += 1);
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
