//! `tidegate check FILE`: everything that is wrong with a file, at once.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tidegate_config::{Fault, Faults, Severity};

use super::file::{count, read, render};
use super::say::{Paint, say};
use super::{Failure, Format};

/// Say everything that is wrong with a configuration file.
///
/// Ends with 0 if the file can be used (there may be warnings), and with 2 if it cannot.
#[derive(Args)]
pub(super) struct Check {
    /// The file.
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The file, as other commands take it
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// How to answer.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = self.file.or(self.config).unwrap_or_default();
        let name = file.display().to_string();
        let (faults, fine) = match read(&file)? {
            Ok((_, warnings)) => (warnings, true),
            Err(Faults(faults)) => (faults, false),
        };
        match self.format {
            Format::Json => say(&format!("{:#}", as_json(&name, &faults, fine))),
            Format::Human => {
                let paint = Paint::on_stdout();
                faults.iter().for_each(|fault| say(&render(fault, paint)));
                if fine {
                    let fine = paint.green(format!("{name} is fine"));
                    say(&if faults.is_empty() { fine } else { format!("{fine}, with {}", summary(&faults)) });
                }
            }
        }
        if fine { Ok(()) } else { Err(Failure::bad_input(format!("{name} cannot be used: {}", summary(&faults)))) }
    }
}

fn as_json(file: &str, faults: &[Fault], fine: bool) -> Value {
    let of = |severity| faults.iter().filter(|f| f.severity == severity).map(Fault::to_json).collect::<Vec<_>>();
    json!({"file": file, "ok": fine, "errors": of(Severity::Error), "warnings": of(Severity::Warning)})
}

/// `2 errors, 1 warning`; empty if there is nothing.
fn summary(faults: &[Fault]) -> String {
    let of = |severity| faults.iter().filter(|fault| fault.severity == severity).count();
    let told = [(of(Severity::Error), "error"), (of(Severity::Warning), "warning")];
    told.iter().filter(|(n, _)| *n > 0).map(|(n, thing)| count(*n, thing)).collect::<Vec<_>>().join(", ")
}
