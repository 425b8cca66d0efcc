//! The configuration while the process runs: read again, swapped whole or not at all, and gone back to.
//!
//! Whoever asks for it (SIGHUP, an operator, a file that has changed), it is one road: read, assemble, swap. What differs
//! is told, and the last versions are kept, so that there is a way back that needs no file.

pub(crate) mod certificates;
mod version;
pub(crate) mod watch;

use crate::assemble::{self, Parts};
use crate::core::Core;
use crate::life::forget;
use crate::service_manager;
use crate::telemetry::{ReloadBy, ReloadOutcome};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidegate_config::{self as config, Config, Fault, Faults, Positions, Source};
use tidegate_plugins::Registry;
use tidegate_plugins::when::When;
use tokio::sync::Notify;
pub(crate) use version::{History, Version};
use version::{restart_for, told};
use watch::{Noting, Stamps};

/// Reads the configuration again, and knows what it has been.
pub(crate) struct Reloads {
    core: Arc<Core>,
    registry: Registry,
    file: Option<PathBuf>,
    /// What the process was started with: a part of it stays until a restart.
    started: Config,
    /// Held while files are read and a version is put in place: one at a time.
    reading: Mutex<()>,
    history: Mutex<History>,
    /// The files as they were when they were last read.
    seen: Mutex<Stamps>,
    /// Somebody asked for files to be read again.
    pub(crate) asked: Notify,
}

/// What a reading has led to.
pub(crate) struct Applied {
    /// The version in use from now on.
    pub(crate) version: Version,
    /// Whether it is another than before.
    pub(crate) is_new: bool,
    /// What was probably not meant.
    pub(crate) warnings: Vec<String>,
}

/// Why everything is as it was.
pub(crate) enum Refused {
    /// The gateway was not started from a file.
    NoFile,
    /// There is no such version (any more).
    NoVersion,
    /// The configuration cannot be meant.
    Faults(Faults),
}

impl Reloads {
    /// For a gateway that serves `config`, read from `file`.
    pub(crate) fn new(core: Arc<Core>, config: Config, file: Option<PathBuf>, registry: Registry) -> Self {
        let hash = core.snapshot.load().hash.clone();
        let history = Mutex::new(History::begin(config.clone(), hash));
        let (seen, asked) = (Mutex::default(), Notify::new());
        Self { core, registry, file, started: config, reading: Mutex::default(), history, seen, asked }
    }

    /// The versions there are, the one in use last.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file it is read from.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// All that goes on beside the requests.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Reads the file again. Blocks: it reads files.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub(crate) fn read(&self, by: ReloadBy) -> Result<Applied, Refused> {
        let file = self.file.as_deref().ok_or(Refused::NoFile)?;
        let _alone = self.alone();
        service_manager::reloading();
        let noting = Noting::default();
        // Before they are read: what changes meanwhile is seen the next time.
        let before = self.stamps().again(Some(file));
        let loaded = Source::read(file).and_then(|source| config::load(&source, &noting));
        self.saw(before, noting.files());
        self.asked.notify_waiters();
        let applied = loaded.and_then(|loaded| {
            let other_pepper = assemble::other_pepper(&loaded.config);
            let warnings = loaded.warnings.iter().chain(&other_pepper).map(Fault::in_a_line).collect();
            self.put(loaded.config, Some(&loaded.positions), by, warnings)
        });
        match applied {
            Ok(applied) => {
                service_manager::ready("serving");
                Ok(applied)
            }
            Err(faults) => {
                service_manager::ready("serving; the configuration was refused and the old one stays, see the log");
                Err(self.refuse(by, faults))
            }
        }
    }

    /// Goes back to a version that was in use before. Blocks: filters may read files.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub(crate) fn roll_back(&self, number: u64) -> Result<Applied, Refused> {
        let _alone = self.alone();
        let config = self.history().find(number).ok_or(Refused::NoVersion)?.config.clone();
        let by = ReloadBy::Rollback;
        self.put(config, None, by, Vec::new()).map_err(|faults| self.refuse(by, faults))
    }

    fn put(
        &self,
        config: Config,
        positions: Option<&Positions>,
        by: ReloadBy,
        mut warnings: Vec<String>,
    ) -> Result<Applied, Faults> {
        let core = &self.core;
        let previous = core.snapshot.load_full();
        let parts = Parts { registry: &self.registry, metrics: &core.metrics, previous: Some(&previous) };
        let place = |faults: Vec<Fault>| match positions {
            Some(positions) => Faults(assemble::place(faults, positions)),
            None => Faults(faults),
        };
        let snapshot = assemble::assemble(&config, &parts).map_err(place)?;
        warnings.extend(assemble::taken_ids(&config, &snapshot.views).map(|warning| warning.in_a_line()));
        let mut history = self.history();
        let before = &history.now().config;
        // A level that was set by hand stays until the file has another.
        if config.log.level != before.log.level
            && let Err(error) = core.log.set_level(config.log.level.as_str())
        {
            tracing::warn!(error, "the log level stays as it was");
        }
        core.log.set_sample(config.log.sample.as_ref());
        core.log.set_metadata(&config.log.metadata);
        let changes = config::changes(before, &config);
        let restart = restart_for(&self.started, &config);
        let hash = snapshot.hash.clone();
        self.saw(self.stamps(), snapshot.files.clone());
        core.metrics.config_loaded(&hash);
        core.snapshot.store(Arc::new(snapshot));
        core.follow_requests();
        forget(core, &core.snapshot.load());
        let is_new = !changes.is_empty();
        core.metrics.reloaded(by, if is_new { ReloadOutcome::Applied } else { ReloadOutcome::Unchanged });
        if is_new {
            history.push(Version { number: 0, at: When::now(), by: Some(by), hash, config, changes, restart });
        }
        let applied = Applied { version: history.now().clone(), is_new, warnings };
        drop(history);
        self.tell(&applied, by);
        Ok(applied)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, applied: &Applied, by: ReloadBy) {
        let Version { number, hash, changes, restart, .. } = &applied.version;
        let (version, by, changes) = (*number, by.label(), if applied.is_new { told(changes) } else { "none".into() });
        tracing::info!(hash, version, by, changes, "configuration reloaded");
        if !restart.is_empty() {
            let settings = restart.join(", ");
            tracing::warn!(
                settings,
                "these settings are others than the process was started with, and wait for a restart"
            );
        }
        for warning in &applied.warnings {
            tracing::warn!(warning, "configuration");
        }
    }

    fn refuse(&self, by: ReloadBy, faults: Faults) -> Refused {
        self.core.metrics.config_refused();
        self.core.metrics.reloaded(by, ReloadOutcome::Refused);
        let (by, text) = (by.label(), faults.to_string());
        tracing::error!(by, faults = text, "configuration refused; the old one stays");
        Refused::Faults(faults)
    }

    fn stamps(&self) -> Stamps {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these files are watched, too.
    fn saw(&self, mut stamps: Stamps, files: BTreeSet<PathBuf>) {
        stamps.add(files);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps;
    }
}
