//! Files that are looked at now and then.
//!
//! By their inode and times, not by the kernel's notifications: those are about the file that was opened, while a
//! ConfigMap, an editor and most tools put another file in its place, or turn a link; and on network and overlay file
//! systems they do not come at all. A look is a system call a file.

use super::{Refused, Reloads};
use crate::telemetry::ReloadBy;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::{self as config, Environment, ProcessEnvironment, Source};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often the file is asked whether it wants to be watched.
const IDLE: Duration = Duration::from_secs(1);

/// What tells a file from what it was: device, inode, size, and when its content and itself were changed.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// Files as they were when they were looked at; none: it was not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

impl Stamps {
    /// These files as they are.
    pub(crate) fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (file.clone(), stamp(&file))).collect())
    }

    /// The same files as they are now, and one more.
    pub(crate) fn again(&self, more: Option<&Path>) -> Self {
        Self::of(self.0.keys().cloned().chain(more.map(Path::to_owned)))
    }

    /// Looks at these, too.
    pub(super) fn add(&mut self, files: BTreeSet<PathBuf>) {
        for file in files {
            self.0.entry(file).or_insert_with_key(|file| stamp(file));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Links are followed: what counts is where they lead.
fn stamp(file: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(file).ok()?;
    let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
    Some((data.dev(), data.ino(), data.size(), modified, changed))
}

/// The process's environment, which notes the files that are asked for.
#[derive(Default)]
pub(super) struct Noting(RefCell<BTreeSet<PathBuf>>);

impl Noting {
    /// Which they were.
    pub(super) fn files(&self) -> BTreeSet<PathBuf> {
        self.0.borrow().clone()
    }
}

impl Environment for Noting {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnvironment.var(name)
    }

    fn vars(&self) -> Vec<(String, String)> {
        ProcessEnvironment.vars()
    }

    fn read_file(&self, path: &Path) -> io::Result<String> {
        self.0.borrow_mut().insert(path.to_owned());
        ProcessEnvironment.read_file(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        ProcessEnvironment.is_directory(path)
    }
}

impl Reloads {
    /// Learns which files the configuration in use was read from.
    fn learn(&self) {
        let Some(file) = self.file.as_deref() else { return };
        let _alone = self.alone();
        let (noting, before) = (Noting::default(), Stamps::of([file.to_owned()]));
        // What is wrong with it now is told when it is read for good.
        let _ = Source::read(file).and_then(|source| config::load(&source, &noting));
        let mut files = noting.files();
        files.extend(self.core.snapshot.load().files.iter().cloned());
        self.saw(before, files);
    }
}

/// Reads the file again when it, or one it refers to, has changed and then stood still from one look to the next.
pub(crate) async fn run(reloads: &Arc<Reloads>) {
    let mut changed = None;
    loop {
        let every = reloads.history().now().config.reload.watch;
        sleep(every.unwrap_or(IDLE)).await;
        if every.is_none() || reloads.file.is_none() {
            continue;
        }
        let theirs = reloads.clone();
        let look = spawn_blocking(move || {
            if theirs.stamps().is_empty() {
                theirs.learn();
            }
            let known = theirs.stamps();
            Some(known.again(None)).filter(|now| *now != known)
        });
        let now = look.await.unwrap_or_default();
        if now.is_none() || now != changed {
            changed = now;
            continue;
        }
        changed = None;
        let theirs = reloads.clone();
        // What came of it has been told.
        let _: Result<Result<_, Refused>, _> = spawn_blocking(move || theirs.read(ReloadBy::Watch)).await;
    }
}
