//! `tidegate run --config FILE`.

use std::path::PathBuf;

use clap::Args;
use tidegate::Gateway;

use super::{Failure, file};

/// Run the gateway.
///
/// SIGTERM lets open requests finish and then ends it; SIGHUP reads the file again, and keeps what it has if the
/// new one is wrong.
#[derive(Args)]
pub(super) struct Run {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: PathBuf,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = file::load(&self.config)?;
        Gateway::from_loaded(loaded, self.config).run().map_err(|error| Failure::could_not(error.to_string()))
    }
}

/// Runs until a signal ends it. Never inside a runtime: the server has its own threads.
pub(super) fn start(config: tidegate_config::Config) -> Result<(), Failure> {
    Gateway::new(config).run().map_err(|error| Failure::could_not(error.to_string()))
}
