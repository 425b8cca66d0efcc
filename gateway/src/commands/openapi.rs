//! `tidegate openapi`.

use clap::Args;

use super::Failure;
use super::say::say;

/// Print what clients can call as OpenAPI 3.1, or with --admin what operators can.
#[derive(Args)]
#[command(
    after_help = "A gateway serves both on its admin listener: /openapi.json and /admin/openapi.json; /docs shows them."
)]
pub(super) struct OpenApi {
    /// The admin listener's
    #[arg(long)]
    admin: bool,
}

impl OpenApi {
    pub(super) fn run(self) -> Result<(), Failure> {
        let document = if self.admin { tidegate::openapi::admin() } else { tidegate::openapi::proxied() };
        say(&format!("{document:#}"));
        Ok(())
    }
}
