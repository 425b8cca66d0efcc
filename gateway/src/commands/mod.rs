//! The command line: one file a verb. A verb either does its work and returns, or fails with one line that
//! says what to do next; [`main`] turns that into the exit code.

mod admin;
mod banner;
mod bench;
mod check;
mod completions;
mod demo;
mod discover;
mod explain;
mod file;
mod init;
mod keys;
mod openapi;
mod proxy;
mod records;
mod run;
mod say;
mod schema;
mod snippets;
mod starter;
mod top;
mod upgrade;
mod usage;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use say::complain;

/// The bad configuration or usage code, which is clap's own for usage.
const BAD_INPUT: u8 = 2;

#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    about = "An LLM gateway: fast, honest under failure, easy to run",
    after_help = "Start here: tidegate demo",
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Run),
    Check(check::Check),
    Upgrade(upgrade::Upgrade),
    Proxy(proxy::Proxy),
    Demo(demo::Demo),
    Init(init::Init),
    Explain(explain::Explain),
    Keys(keys::Keys),
    Records(records::Records),
    Usage(usage::Usage),
    Top(top::Top),
    Bench(bench::Bench),
    Schema(schema::Schema),
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    Completions(completions::Completions),
    Version(version::Version),
}

impl Verb {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(verb) => verb.run(),
            Self::Check(verb) => verb.run(),
            Self::Upgrade(verb) => verb.run(),
            Self::Proxy(verb) => verb.run(),
            Self::Demo(verb) => verb.run(),
            Self::Init(verb) => verb.run(),
            Self::Explain(verb) => verb.run(),
            Self::Keys(verb) => verb.run(),
            Self::Records(verb) => verb.run(),
            Self::Usage(verb) => verb.run(),
            Self::Top(verb) => verb.run(),
            Self::Bench(verb) => verb.run(),
            Self::Schema(verb) => verb.run(),
            Self::OpenApi(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
            Self::Version(verb) => verb.run(),
        }
    }
}

/// How a verb answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// Why a verb did not do what it was asked, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    /// It could not be done.
    fn could_not(line: impl Into<String>) -> Self {
        Self { code: 1, line: line.into() }
    }

    /// What was asked, or the configuration, is wrong.
    fn bad_input(line: impl Into<String>) -> Self {
        Self { code: BAD_INPUT, line: line.into() }
    }
}

/// Reads the arguments and runs the verb.
pub(crate) fn main() -> ExitCode {
    match Cli::parse().verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&format!("tidegate: {}", failure.line));
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no about text", verb.get_name());
        }
    }

    #[test]
    fn a_proxy_needs_somewhere_to_send() {
        let error = Cli::try_parse_from(["tidegate", "proxy"]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(error.exit_code(), i32::from(BAD_INPUT));
    }

    #[test]
    fn a_proxy_takes_several_urls_in_either_spelling() {
        for arguments in [&["--to", "http://a", "http://b"][..], &["--to", "http://a", "--to", "http://b"][..]] {
            let cli = Cli::try_parse_from([&["tidegate", "proxy"], arguments].concat()).unwrap();
            let Verb::Proxy(proxy) = cli.verb else { panic!("not a proxy") };
            assert_eq!(proxy.to, ["http://a", "http://b"]);
        }
    }
}
