//! `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}` in the values of the file; `$${` stands for `${`.

use std::path::Path;

use crate::environment::Environment;
use crate::key_path::KeyPath;
use crate::tree::{Content, Node, Origin};

/// Replaces every reference in `node` and below; what cannot be replaced is told to `fault`, and its node is gone.
/// Values that a `TIDEGATE_*` variable set are taken as they are: a password may hold any characters.
pub(crate) fn interpolate(
    node: &mut Node,
    environment: &dyn Environment,
    directory: &Path,
    fault: &mut dyn FnMut(&KeyPath, String),
) {
    match &mut node.content {
        Content::List(items) => {
            items.iter_mut().for_each(|item| interpolate(item, environment, directory, fault));
        }
        Content::Table(entries) => {
            entries.iter_mut().for_each(|(_, value)| interpolate(value, environment, directory, fault));
        }
        Content::Scalar(scalar) if scalar.text.contains("${") && !matches!(node.origin, Origin::Variable(_)) => {
            match replace(&scalar.text, environment, directory) {
                Ok(text) => {
                    scalar.loose = true;
                    scalar.written = Some(std::mem::replace(&mut scalar.text, text));
                }
                Err(message) => {
                    fault(&node.path, message);
                    node.content = Content::Gone;
                }
            }
        }
        Content::Scalar(_) | Content::Gone => {}
    }
}

fn replace(text: &str, environment: &dyn Environment, directory: &Path) -> Result<String, String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            replaced.push_str(before);
            replaced.push_str("${");
            rest = &reference[2..];
            continue;
        }
        replaced.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err("`${` without its `}`; write `$${` for a literal `${`".to_owned());
        };
        replaced.push_str(&look_up(&reference[2..end], environment, directory)?);
        rest = &reference[end + 1..];
    }
    replaced.push_str(rest);
    Ok(replaced)
}

fn look_up(reference: &str, environment: &dyn Environment, directory: &Path) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => {
            let (name, default) = name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_name {
                return Err(format!("`${{{reference}}}` does not name a variable"));
            }
            // As in a shell, `:-` also stands in for a variable that is set to nothing.
            match (environment.var(name), default) {
                (Some(value), None) => Ok(value),
                (Some(value), Some(_)) if !value.is_empty() => Ok(value),
                (_, Some(default)) => Ok(default.to_owned()),
                (None, None) => Err(format!(
                    "the environment variable {name} is not set; `${{env:{name}:-default}}` would give it a default"
                )),
            }
        }
        Some(("file", path)) if !path.is_empty() => environment
            .read_file(&directory.join(path))
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("cannot read the file {path}: {error}")),
        _ => Err(format!(
            "`${{{reference}}}` is neither ${{env:NAME}}, ${{env:NAME:-default}} nor ${{file:PATH}}; write `$${{` for a \
             literal `${{`"
        )),
    }
}
