//! Where a command about keys finds them: the store, and what the file says about keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tidegate::assemble::{self, own_limits};
use tidegate::storage::keys::Changed;
use tidegate::storage::{self, StorageError};
use tidegate_config::{Config, Keys};
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::filters::limits::{OwnLimits, Views};
use tidegate_plugins::keys::{Key, KeyHasher, NewKey, Record};
use tidegate_plugins::services::Shared;
use tidegate_plugins::tenants::Tenants;
use tidegate_plugins::when::When;

use super::super::{Failure, file};

/// Which store, and whose rules.
#[derive(Args)]
pub(super) struct Place {
    /// The configuration file: its `storage`, `keys` and `tenants`
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The store, if it is not the one that the file names
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

/// What the place says.
pub(super) struct Rules {
    pub(super) hasher: KeyHasher,
    pub(super) overlap: Duration,
    pub(super) tenants: Option<Arc<Tenants>>,
    /// The store, if there is one.
    pub(super) store: Option<PathBuf>,
    /// What the file's keys are called.
    pub(super) views: Option<Arc<Views>>,
}

impl Place {
    pub(super) fn rules(&self) -> Result<Rules, Failure> {
        let read = self.config.as_deref().map(file::load_quietly).transpose()?;
        let config: Option<Config> = read.map(|(loaded, _)| loaded.config);
        let keys = config.as_ref().map_or_else(Keys::default, |config| config.keys.clone());
        let named = config.as_ref().and_then(|config| config.storage.as_ref()).map(|storage| storage.path.clone());
        Ok(Rules {
            views: config.as_ref().map(assemble::views),
            hasher: KeyHasher::new(keys.pepper.as_ref().map(|pepper| pepper.expose())),
            overlap: keys.overlap,
            tenants: config.and_then(|config| {
                let own = own_limits(&config, &Shared::default());
                Some(Arc::new(Tenants::read(config.tenants?, &own).0))
            }),
            store: self.store.clone().or(named),
        })
    }
}

impl Rules {
    pub(super) fn generate(&self) -> Result<NewKey, Failure> {
        let key = self.hasher.generate();
        key.map_err(|error| Failure::could_not(format!("the system gives no random numbers: {error}")))
    }

    /// Whether the key can be made, its owner is there, and grants what the key does.
    pub(super) fn check(&self, key: &Key) -> Result<(), Failure> {
        let mut faults = Vec::new();
        key.is_new(When::now(), &mut faults);
        key.checked("", self.tenants.as_deref(), &OwnLimits::default(), &mut faults);
        let help = |help: &String| format!(" ({help})");
        let said =
            |fault: &SettingsError| format!("{}{}", fault.message, fault.help.as_ref().map(help).unwrap_or_default());
        let said: Vec<_> = faults.iter().map(said).collect();
        if said.is_empty() { Ok(()) } else { Err(Failure::bad_input(said.join("; "))) }
    }

    pub(super) fn open(&self) -> Result<(Connection, &Path), Failure> {
        let Some(path) = &self.store else {
            let line = "which store? Name the configuration file with --config (it has to have `storage`), or the store \
                        itself with --store";
            return Err(Failure::bad_input(line));
        };
        let connection = storage::direct(path, storage::TABLES).map_err(|error| away(path, &error))?;
        Ok((connection, path))
    }

    /// Makes one change, and returns the key as it is then.
    pub(super) fn change(
        &self,
        id: &str,
        refused: &str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Changed>,
    ) -> Result<Record, Failure> {
        let (mut connection, path) = self.open()?;
        let changed = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let changed = change(&transaction)?;
            transaction.commit().map(|()| changed)
        });
        one(id, refused, changed.map_err(|error| away(path, &error.into()))?)
    }
}

/// The key as it is, or why there is none.
pub(super) fn one(id: &str, refused: &str, changed: Changed) -> Result<Record, Failure> {
    match changed {
        Changed::Done(record) => Ok(*record),
        Changed::Unknown => {
            Err(Failure::bad_input(format!("there is no key {id}; tidegate keys list shows those there are")))
        }
        Changed::Refused => Err(Failure::bad_input(format!("{id}: {refused}"))),
    }
}

pub(super) fn away(path: &Path, error: &StorageError) -> Failure {
    Failure::could_not(format!("{}: {error}", path.display()))
}
