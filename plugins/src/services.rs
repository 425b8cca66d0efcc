//! What a filter may ask for when it is built.

use crate::ask::{Ask, Nobody};
use crate::classify::{Classes, Classifiers};
use crate::filters::idempotency::Kept;
use crate::filters::jwt::Issuers;
use crate::filters::prompt_cache::Caches;
use crate::filters::prompt_cache::tier::{NoTiers, Tiers};
use crate::filters::shared_flight::Airspaces;
use crate::flight::Counts;
use crate::keys::ManagedKeys;

use crate::filters::limits::{Estimates, Limited, OwnLimits, Views};
use crate::outbound::{Nowhere, Outbound};
use crate::prices::Prices;
use crate::records::{NoSinks, Sinks};
use crate::shadow::Shadows;
use crate::spenders::Spenders;
use crate::store::{Local, Store};
use crate::tenants::Tenants;
use serde_json::Value;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads a file that settings name. A leaf does not touch the file system by itself, so that `check`, tests and
/// embedders decide what a path means.
pub trait Files: Send + Sync {
    /// What the file says, whatever format it is written in.
    ///
    /// # Errors
    /// What the file system says, or where the file is malformed.
    fn read(&self, path: &Path) -> io::Result<Value>;

    /// Where a path of the settings leads.
    fn locate(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// What was spent of a budget by one subject in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// Names the limit.
    pub limit: Arc<str>,
    /// Whose: a hash that says nothing about who that is.
    pub subject: [u8; 16],
    /// The half days from 1970 to the window's beginning.
    pub window: u32,
    /// How much, in what the limit counts.
    pub amount: u64,
}

/// Keeps what budgets have spent beyond the end of the process. No request waits for it.
pub trait Journal: Send + Sync {
    /// Adds these amounts to those it has, soon and all of them.
    ///
    /// # Errors
    /// If it cannot take them now: then it has taken none.
    fn add(&self, spent: &[Spent]) -> io::Result<()>;
}

/// What outlives a reload: the same for every version of the configuration.
#[derive(Clone)]
pub struct Shared {
    /// Where limits are counted.
    pub store: Arc<dyn Store>,
    /// What requests are expected to cost, as learned from what others have cost.
    pub estimates: Arc<Estimates>,
    /// The public keys of those who issue tokens.
    pub issuers: Arc<Issuers>,
    /// Other servers, and work beside the requests.
    pub outbound: Arc<dyn Outbound>,
    /// Answers that are kept.
    pub caches: Arc<Caches>,
    /// What requests that share answers had to do with each other.
    pub flights: Arc<Counts>,
    /// The flights that are under way.
    pub airspaces: Arc<Airspaces>,
    /// What requests with an idempotency key were answered.
    pub kept: Arc<Kept>,
    /// Files that they are kept in.
    pub tiers: Arc<dyn Tiers>,
    /// The keys that are made and revoked while the gateway runs.
    pub managed_keys: Arc<ManagedKeys>,
    /// The models of the file, to be asked.
    pub asks: Arc<dyn Ask>,
    /// What classifiers have said.
    pub classes: Arc<Classes>,
    /// What copies of requests are under way.
    pub shadows: Arc<Shadows>,
    /// Who was limited, for metrics and log.
    pub limited: Arc<Limited>,
    /// Who spends most.
    pub spenders: Arc<Spenders>,
    /// Where records of conversations are kept.
    pub records: Arc<dyn Sinks>,
}

impl Default for Shared {
    fn default() -> Self {
        Self::with(Arc::new(Local::default()))
    }
}

impl Shared {
    /// With a store, and nothing learned yet.
    pub fn with(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            estimates: Arc::default(),
            asks: Arc::new(Nobody),
            classes: Arc::default(),
            shadows: Arc::default(),
            limited: Arc::default(),
            spenders: Arc::default(),
            records: Arc::new(NoSinks),
            issuers: Arc::default(),
            outbound: Arc::new(Nowhere),
            caches: Arc::default(),
            tiers: Arc::new(NoTiers),
            flights: Arc::default(),
            airspaces: Arc::default(),
            kept: Arc::default(),
            managed_keys: Arc::default(),
        }
    }
}

/// Handed to each filter when it is built.
#[derive(Clone)]
pub struct Services {
    /// What outlives a reload.
    pub shared: Shared,
    /// The limits of this version, for those who look at them.
    pub views: Arc<Views>,
    /// The models that clients may ask for, as the file names them: a wildcard has a `*` at its end.
    pub models: Arc<[Arc<str>]>,
    /// The managed keys, if the file has a place to keep them.
    pub managed_keys: Option<Arc<ManagedKeys>>,
    /// Who there is, if the file says so; without, names are labels.
    pub tenants: Option<Arc<Tenants>>,
    /// What gives requests a class.
    pub classifiers: Arc<Classifiers>,
    /// Opens the limits that tenants and keys have for themselves.
    pub own_limits: Arc<OwnLimits>,
    /// How many filters of its name stand above this one.
    pub nth: usize,
    /// Whether this filter is the one that decides over them.
    pub decides_own: bool,
    /// What requests cost.
    pub prices: Arc<Prices>,
    /// Files that settings name, relative to the configuration file.
    pub files: Arc<dyn Files>,
    /// The pepper for key hashes, if the operator set one.
    pub pepper: Option<Arc<str>>,
}

/// What a filter is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be used.
    Use,
    /// To see what is wrong with its settings: nobody else hears of it.
    Judge,
}

impl Services {
    /// The services for that.
    pub(crate) fn for_a(&self, purpose: Purpose) -> Cow<'_, Self> {
        match purpose {
            Purpose::Use => Cow::Borrowed(self),
            Purpose::Judge => Cow::Owned(Self {
                shared: Shared::default(),
                views: Arc::new(Views::of(self.tenants.clone())),
                managed_keys: self.managed_keys.as_ref().map(|_| Arc::default()),
                ..self.clone()
            }),
        }
    }

    /// Services for a filter that reads no file.
    pub fn none() -> Self {
        struct NoFiles;
        impl Files for NoFiles {
            fn read(&self, _: &Path) -> io::Result<Value> {
                Err(io::Error::from(io::ErrorKind::NotFound))
            }
        }
        Self {
            shared: Shared::default(),
            views: Arc::default(),
            models: Arc::default(),
            managed_keys: None,
            tenants: None,
            classifiers: Arc::default(),
            own_limits: Arc::default(),
            nth: 0,
            decides_own: true,
            prices: Arc::default(),
            files: Arc::new(NoFiles),
            pepper: None,
        }
    }
}
