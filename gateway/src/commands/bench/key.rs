//! The key of whoever measures. It stands on no command line, where anybody on the machine reads it.

use std::io::Read;
use std::path::Path;

use tidegate_config::Secret;

use crate::commands::Failure;

/// The variable it is in, unless another is named. That of another program may hold a key that is not this server's.
pub(super) const VARIABLE: &str = "TIDEGATE_BENCH_KEY";

/// The key, if there is one: out of the file if one is named, else out of the variable.
pub(super) fn read(variable: &str, file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let (text, place) = match file {
        Some(file) => (Some(of_file(file)?), file.display().to_string()),
        None => (std::env::var(variable).ok(), variable.to_owned()),
    };
    let Some(text) = text else {
        // A variable that was named is meant to be there.
        return match variable {
            VARIABLE => Ok(None),
            _ => Err(Failure::bad_input(format!("--key-env {variable}: there is no such variable"))),
        };
    };
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::bad_input(format!("{place} holds nothing that could be a key")));
    }
    Ok(Some(Secret::new(key)))
}

fn of_file(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(|_| text),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|error| Failure::bad_input(format!("--key-file {}: {error}", file.display())))
}
