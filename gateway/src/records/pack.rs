//! Compresses files of records that are full, one after the other, on a thread of its own that is there while there is
//! something to do.

use super::shared::{identity, is_at};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

/// The thread, once there has been something to do.
#[derive(Default)]
pub(super) struct Packer(Option<(Sender<PathBuf>, JoinHandle<()>)>);

impl Packer {
    /// Has a file compressed, sometime.
    pub(super) fn pack(&mut self, path: PathBuf) -> io::Result<()> {
        if self.0.is_none() {
            let (sender, paths) = channel::<PathBuf>();
            let work = move || paths.into_iter().for_each(|path| pack(&path));
            self.0 = Some((sender, Builder::new().name("records-pack".to_owned()).spawn(work)?));
        }
        // It ends with its sender only.
        let sent = self.0.as_ref().map(|(sender, _)| sender.send(path));
        sent.transpose().map(drop).map_err(io::Error::other)
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            // It has told what went wrong.
            let _ = thread.join();
        }
    }
}

fn pack(path: &Path) {
    // What is gone was done by another process.
    if let Err(error) = compress(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a file of records stays as it is, and is not compressed");
    }
}

/// The name of the file that it becomes.
pub(super) fn packed(path: &Path) -> PathBuf {
    let has = path.extension().and_then(OsStr::to_str) == Some("zst");
    if has { path.to_owned() } else { path.with_extension("jsonl.zst") }
}

/// Compresses a file: the new one is there before the old one is gone. Two processes do not do it at once.
fn compress(path: &Path) -> io::Result<()> {
    let plain = File::open(path)?;
    if plain.try_lock().is_err() || !is_at(identity(&plain.metadata()?), path) {
        return Ok(());
    }
    if !packed(path).exists() {
        let making = path.with_extension("tmp");
        let made = File::options().create(true).write(true).truncate(true).mode(0o600).open(&making)?;
        zstd::stream::copy_encode(&plain, &made, 0)?;
        // It is as old as what is in it.
        made.set_modified(plain.metadata()?.modified()?)?;
        made.sync_all()?;
        fs::rename(&making, packed(path))?;
    }
    fs::remove_file(path)
}
