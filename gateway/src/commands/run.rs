//! `tidegate run FILE`.

use std::path::PathBuf;

use clap::Args;
use tidegate::Gateway;

use super::{Failure, file};

/// Run the gateway.
///
/// SIGTERM lets open requests finish and then ends it; SIGHUP reads the file again, and keeps what it has if the
/// new one is wrong; SIGQUIT starts the program anew and leaves the service to it, as `tidegate upgrade` does.
#[derive(Args)]
pub(super) struct Run {
    /// The configuration file.
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The file, as other commands take it
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = self.file.or(self.config).unwrap_or_default();
        // A process that was to be succeeded by this one goes on, and says why.
        let loaded = file::load(&file).inspect_err(|failure| tidegate::upgrade::refuse(&failure.line))?;
        Gateway::from_loaded(loaded, file).run().map_err(|error| Failure::could_not(error.to_string()))
    }
}

/// Runs until a signal ends it. Never inside a runtime: the server has its own threads.
pub(super) fn start(config: tidegate_config::Config) -> Result<(), Failure> {
    Gateway::new(config).run().map_err(|error| Failure::could_not(error.to_string()))
}
