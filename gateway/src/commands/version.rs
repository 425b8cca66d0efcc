//! `tidegate version`.

use clap::Args;

use super::Failure;
use super::say::say;

/// Print the version.
#[derive(Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(self) -> Result<(), Failure> {
        say(concat!("tidegate ", env!("CARGO_PKG_VERSION")));
        Ok(())
    }
}
