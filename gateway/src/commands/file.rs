//! Loading a configuration for a verb: faults go to standard error as they are, and the failure is one line.

use std::io::ErrorKind;
use std::path::Path;

use tidegate_config::{Fault, Faults, Loaded, ProcessEnvironment, Severity, Source};

use super::Failure;
use super::say::{Paint, complain, in_words};

/// A configuration without errors; its warnings have been printed.
pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    let (loaded, warnings) = load_quietly(path)?;
    warnings.iter().for_each(|warning| complain(&render(warning, Paint::on_stderr())));
    Ok(loaded)
}

/// The same with its warnings, for a command that has nothing to do with what they are about.
pub(super) fn load_quietly(path: &Path) -> Result<(Loaded, Vec<Fault>), Failure> {
    match read(path)? {
        Ok(read) => Ok(read),
        Err(Faults(faults)) => {
            faults.iter().for_each(|fault| complain(&render(fault, Paint::on_stderr())));
            let errors = count(faults.iter().filter(|fault| fault.severity == Severity::Error).count(), "error");
            Err(Failure::bad_input(format!("{} has {errors}; nothing was started", path.display())))
        }
    }
}

/// A configuration and its warnings, or all that is wrong with it: also what only the filters themselves know.
/// It fails if there is no file to read.
pub(super) fn read(path: &Path) -> Result<Result<(Loaded, Vec<Fault>), Faults>, Failure> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::NotFound => "; write one with: tidegate init --from URL",
            ErrorKind::IsADirectory => "; name the file in it",
            _ => "",
        };
        Failure::bad_input(format!("cannot read {name}: {}{advice}", in_words(&error)))
    })?;
    Ok(Source::from_bytes(name, bytes).and_then(|source| judge(&source)))
}

/// The same for a text that the command line made up; a fault in it is one of the arguments it was made from.
pub(super) fn load_text(text: &str, name: &str) -> Result<Loaded, Failure> {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    judge(&source).map(|(loaded, _)| loaded).map_err(|Faults(faults)| {
        let worst = faults.iter().find(|fault| fault.severity == Severity::Error);
        let message = worst.map_or_else(String::new, |fault| match &fault.help {
            Some(help) => format!("{} ({help})", fault.message),
            None => fault.message.clone(),
        });
        Failure::bad_input(format!("{name}: {message}"))
    })
}

fn judge(source: &Source) -> Result<(Loaded, Vec<Fault>), Faults> {
    let mut loaded = tidegate_config::load_judged(source, &ProcessEnvironment, tidegate::assemble::check)?;
    let warnings = std::mem::take(&mut loaded.warnings);
    Ok((loaded, warnings))
}

/// The fault as it prints itself, its first line in colour.
pub(super) fn render(fault: &Fault, paint: Paint) -> String {
    let text = fault.to_string();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let first = match fault.severity {
        Severity::Error => paint.red(first),
        Severity::Warning => paint.yellow(first),
    };
    if rest.is_empty() { format!("{first}\n") } else { format!("{first}\n{rest}\n") }
}

/// `1 error`, `2 errors`.
pub(super) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
