//! `tidegate schema`.

use clap::Args;

use super::Failure;
use super::say::say;

/// Print the JSON Schema of the configuration file, for editors.
#[derive(Args)]
#[command(after_help = "tidegate schema > tidegate.schema.json, and as the first line of the configuration:\n\
    # yaml-language-server: $schema=tidegate.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<(), Failure> {
        say(&format!("{:#}", tidegate::assemble::schema()));
        Ok(())
    }
}
