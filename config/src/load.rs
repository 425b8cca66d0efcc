//! Text to configuration: compose, override, interpolate, deserialize, resolve; every fault of every step in one list.

use std::path::Path;

use serde::Deserialize;

use crate::compose::compose;
use crate::environment::Environment;
use crate::fault::{Fault, Faults, Severity};
use crate::interpolate::interpolate;
use crate::key_path::KeyPath;
use crate::meant::{Backend, Config};
use crate::near::did_you_mean;
use crate::overrides;
use crate::positions::Positions;
use crate::resolve::Resolver;
use crate::secret::is_secret;
use crate::tree::{Content, Node, Origin, Span};
use crate::trouble::{Kind, Trouble};
use crate::warnings::warnings;
use crate::written::File;

/// More faults of form than anyone reads at once; each costs another reading of the tree.
const MOST_FAULTS: usize = 50;

/// A file as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path as the user gave it; relative paths in the file start from its directory.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Reads the file at `path`. A file that is not UTF-8 is a fault with a line, like any other.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| Faults(vec![Fault::error(KeyPath::root(), format!("cannot read {name}: {error}"))]))?;
        Self::from_bytes(name, bytes)
    }

    /// A file's bytes that were read elsewhere.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Faults> {
        let name = name.into();
        String::from_utf8(bytes).map(|text| Self { name: name.clone(), text }).map_err(|error| {
            let (valid, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
            let valid = String::from_utf8_lossy(valid);
            let line = valid.matches('\n').count() + 1;
            let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let positions = Positions::new(&name, &valid, None);
            let span = Span { start: (line, column), end: (line, column) };
            let message = "the file is not UTF-8 from here on";
            Faults(vec![positions.at_span(Fault::error(KeyPath::root(), message), span)])
        })
    }
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file means.
    pub config: Config,
    /// What it probably was not meant to mean.
    pub warnings: Vec<Fault>,
    /// Where each setting stands, for faults that only others can find.
    pub positions: Positions,
}

/// Reads a configuration: `TIDEGATE_*` variables laid over it, references replaced, everything checked that can be
/// checked without knowing the filters. The error has every fault at once.
pub fn load(source: &Source, environment: &dyn Environment) -> Result<Loaded, Faults> {
    load_judged(source, environment, |_, _| Vec::new())
}

/// Reads a list of backends as it would stand under `backends` of a pool, references and all.
///
/// # Errors
/// Every fault at once; lines are those of the list.
pub fn load_backends(source: &Source, environment: &dyn Environment) -> Result<Vec<Backend>, Faults> {
    /// Overrides are for the file, not for a list beside it.
    struct NoOverrides<'a>(&'a dyn Environment);
    impl Environment for NoOverrides<'_> {
        fn var(&self, name: &str) -> Option<String> {
            self.0.var(name)
        }
        fn vars(&self) -> Vec<(String, String)> {
            Vec::new()
        }
        fn read_file(&self, path: &Path) -> std::io::Result<String> {
            self.0.read_file(path)
        }
    }
    const AROUND: &str = "pools:\n  found:\n    backends:\n";
    let list: String = source.text.lines().map(|line| format!("      {line}\n")).collect();
    let whole = Source { name: source.name.clone(), text: format!("{AROUND}{list}") };
    let loaded = load(&whole, &NoOverrides(environment)).map_err(|Faults(mut faults)| {
        for place in faults.iter_mut().filter_map(|fault| fault.place.as_mut()) {
            place.line = place.line.saturating_sub(AROUND.lines().count()).max(1);
            place.column = place.column.saturating_sub(6).max(1);
        }
        Faults(faults)
    })?;
    Ok(loaded.config.pools.into_iter().flat_map(|pool| pool.backends).collect())
}

/// The same, with `judge` asked too: what only others can know (which filters there are, what their settings mean) is
/// told together with the rest. It may be shown a configuration that has faults already.
pub fn load_judged(
    source: &Source,
    environment: &dyn Environment,
    judge: impl FnOnce(&Config, &Positions) -> Vec<Fault>,
) -> Result<Loaded, Faults> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let (root, misread) = compose(text);
    let broken = root.is_none() && !misread.is_empty();
    let mut root = root.unwrap_or_else(nothing);
    let mut faults = Vec::new();
    if !broken {
        overrides::apply(&mut root, environment, &mut faults);
    }
    root.assign_paths(KeyPath::root());
    let positions = Positions::new(&source.name, text, (!broken).then_some(&root));
    faults.extend(misread.into_iter().map(|misread| positions.misread(misread)));
    if broken {
        return Err(Faults(faults));
    }

    let directory = Path::new(&source.name).parent().unwrap_or(Path::new("")).to_owned();
    interpolate(&mut root, environment, &directory, &mut |path, message| faults.push(positions.fault(path, message)));
    let file = deserialize(&mut root, &positions, &mut faults);
    let mut resolver = Resolver { tree: &root, positions: &positions, environment, directory: &directory, faults };
    let config = file.map(|file| resolver.config(file));
    let mut faults = resolver.faults;
    let judged = config.as_ref().map(|config| judge(config, &positions)).unwrap_or_default();
    let (errors, hints): (Vec<_>, Vec<_>) = judged.into_iter().partition(|fault| fault.severity == Severity::Error);
    faults.extend(errors);
    let mut warnings = config.as_ref().map(|config| warnings(config, &root, &positions)).unwrap_or_default();
    warnings.extend(hints);

    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings: in_order(warnings), positions }),
        _ => {
            faults.extend(warnings);
            Err(Faults(in_order(faults)))
        }
    }
}

/// In the order of the file; what has no place comes first.
fn in_order(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by_key(|fault| (fault.place.as_ref().map(|place| (place.line, place.column)), fault.severity));
    faults
}

fn nothing() -> Node {
    Node::new(Origin::File(Span { start: (1, 1), end: (1, 1) }), Content::Table(Vec::new()))
}

/// Serde stops at the first fault: so the node it stumbled over is reported, taken out, and the tree read again.
fn deserialize(root: &mut Node, positions: &Positions, faults: &mut Vec<Fault>) -> Option<File> {
    for _ in 0..MOST_FAULTS {
        let trouble = match File::deserialize(&*root) {
            Ok(file) => return Some(file),
            Err(trouble) => trouble,
        };
        let path = trouble.path.clone().unwrap_or_default();
        // What is missing because it was taken out has been reported, and so has a choice without its value.
        let gone = matches!(root.find(&path), Some(Node { content: Content::Gone, .. }));
        let follows = gone || (matches!(trouble.kind, Kind::Missing(_)) && root.has_gone(&path));
        if !follows {
            faults.push(explain(trouble, &path, root, positions));
        }
        let out = if gone { path.parent().unwrap_or_default() } else { path };
        match root.find_mut(&out) {
            Some(node) if !out.steps().is_empty() => node.content = Content::Gone,
            _ => return None,
        }
    }
    None
}

fn explain(trouble: Trouble, path: &KeyPath, root: &Node, positions: &Positions) -> Fault {
    match trouble.kind {
        Kind::Wrong(message) => positions.fault(path, message),
        Kind::Missing(field) => positions.fault_at_key(path, format!("`{field}` is missing here")),
        Kind::Unknown { what, name, known } => {
            let near = did_you_mean(&name, known);
            let secret = what == "word" && is_secret(path);
            let message = match secret {
                true => format!("unknown {what}"),
                false => format!("unknown {what} `{}`", root.as_written(path, &name)),
            };
            let mut fault = match what {
                "key" => positions.fault_at_key(path, message),
                _ => positions.fault(path, message),
            };
            fault.help = near.or_else(|| Some(format!("expected one of {}", known.join(", "))));
            fault
        }
    }
}
