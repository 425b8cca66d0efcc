//! `tidegate completions SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::say::say;
use super::{Cli, Failure};

/// Print completions for a shell.
#[derive(Args)]
#[command(after_help = "bash: source <(tidegate completions bash)")]
pub(super) struct Completions {
    /// The shell they are for.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        say(script(self.shell).trim_end());
        Ok(())
    }
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_the_verbs() {
        for shell in Shell::value_variants() {
            assert!(script(*shell).contains("explain"), "{shell}");
        }
    }
}
