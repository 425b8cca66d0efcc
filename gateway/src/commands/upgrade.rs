//! `tidegate upgrade FILE`: the running gateway is asked to leave the service to the program that is there now.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::admin::Listener;
use super::say::say;
use super::{Failure, file};

/// What an answer takes beyond the time that the new process has to be ready.
const BEYOND: Duration = Duration::from_secs(30);

/// Leave the service to the program that is installed now, without a client noticing.
///
/// The gateway that runs with this file starts the program it was started from once more, hands it the sockets it
/// listens on, and ends when its last connection has. Should the new one not be ready in time, the old one goes on; then
/// this ends with 1 and says why. SIGQUIT does the same.
#[derive(Args)]
pub(super) struct Upgrade {
    /// The configuration file.
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The file, as other commands take it
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    listener: Listener,
}

impl Upgrade {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = self.file.or(self.config).unwrap_or_default();
        let (loaded, _) = file::load_quietly(&file)?;
        let time = loaded.config.upgrade.ready_within.saturating_add(BEYOND);
        let answer = self
            .listener
            .post(Some(&file), "/admin/upgrade", time)
            .map_err(|failure| Failure { line: format!("not upgraded: {}", failure.line), ..failure })?;
        let version = answer["version"].as_str().unwrap_or("unknown");
        say(&format!(
            "process {} serves now, of version {version}; the one before finishes what is open",
            answer["pid"]
        ));
        Ok(())
    }
}
