//! `TIDEGATE_ADMIN__LISTEN=0.0.0.0:9090`: any setting of the file, from the environment.

use crate::compose::compose;
use crate::environment::Environment;
use crate::fault::Fault;
use crate::key_path::KeyPath;
use crate::tree::{Content, Key, Node, Origin};

const PREFIX: &str = "TIDEGATE_";
/// Variables that are the command line's own.
const NOT_SETTINGS: [&str; 3] = ["CONFIG", "JOURNAL", "LOG"];

/// Lays every `TIDEGATE_*` variable over the tree, outer settings before inner ones.
pub(crate) fn apply(root: &mut Node, environment: &dyn Environment, faults: &mut Vec<Fault>) {
    let mut variables: Vec<(Vec<String>, String, String)> = environment
        .vars()
        .into_iter()
        .filter_map(|(name, value)| {
            let rest = name.strip_prefix(PREFIX)?;
            let is_setting = !NOT_SETTINGS.contains(&rest) && !is_service_link(rest);
            is_setting.then(|| (rest.split("__").map(str::to_owned).collect(), name.clone(), value))
        })
        .collect();
    variables.sort_by(|a, b| (a.0.len(), &a.1).cmp(&(b.0.len(), &b.1)));
    for (segments, name, value) in variables {
        if let Err(message) = apply_one(root, &segments, &name, &value) {
            faults.push(Fault { variable: Some(name), ..Fault::error(KeyPath::root(), message) });
        }
    }
}

/// Kubernetes tells every container about the services around it: for one called `tidegate` or `tidegate-admin` by
/// variables such as `TIDEGATE_SERVICE_HOST` and `TIDEGATE_PORT_8080_TCP_ADDR`. They are not meant for us.
fn is_service_link(rest: &str) -> bool {
    let link = |rest: &str| {
        matches!(rest, "SERVICE_HOST" | "SERVICE_PORT" | "PORT")
            || rest.starts_with("SERVICE_PORT_")
            || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
    };
    !rest.contains("__") && (link(rest) || rest.match_indices('_').any(|(at, _)| link(&rest[at + 1..])))
}

fn apply_one(root: &mut Node, segments: &[String], name: &str, value: &str) -> Result<(), String> {
    if segments.iter().any(String::is_empty) {
        return Err(format!("{name} does not name a setting: put two underscores between its parts"));
    }
    if value.trim().is_empty() {
        return Err(format!("{name} is set to nothing: leave it out, or write null or \"\" if that is meant"));
    }
    let (node, misread) = compose(value);
    if let Some(misread) = misread.into_iter().next() {
        return Err(format!("the value of {name} is {}; put it in quotes", misread.fault.message));
    }
    let origin = Origin::Variable(name.to_owned());
    let mut node = node.unwrap_or_else(|| Node::new(origin.clone(), nothing()));
    claim(&mut node, &origin);
    let mut place = root;
    for segment in segments {
        place = step_into(place, segment, &origin)?;
    }
    *place = node;
    Ok(())
}

/// The child that `segment` means, made if it is not there.
fn step_into<'a>(node: &'a mut Node, segment: &str, origin: &Origin) -> Result<&'a mut Node, String> {
    if node.is_nothing() {
        let content = if segment == "0" { Content::List(Vec::new()) } else { Content::Table(Vec::new()) };
        *node = Node::new(origin.clone(), content);
    }
    match &mut node.content {
        Content::List(items) => {
            let index: usize = segment.parse().map_err(|_| format!("`{segment}` is not the number of a list item"))?;
            if index > items.len() {
                return Err(format!("there is no item {index}: the list has {}, counted from 0", items.len()));
            }
            if index == items.len() {
                items.push(Node::new(origin.clone(), nothing()));
            }
            Ok(&mut items[index])
        }
        Content::Table(entries) => {
            let same: Vec<usize> = (0..entries.len()).filter(|i| same_name(&entries[*i].0.text, segment)).collect();
            let index = match same[..] {
                [] => {
                    let key = Key { text: segment.to_ascii_lowercase(), origin: origin.clone() };
                    entries.push((key, Node::new(origin.clone(), nothing())));
                    entries.len() - 1
                }
                [index] => index,
                [one, other, ..] => {
                    let (one, other) = (&entries[one].0.text, &entries[other].0.text);
                    return Err(format!("`{segment}` may mean `{one}` or `{other}`"));
                }
            };
            Ok(&mut entries[index].1)
        }
        Content::Scalar(_) | Content::Gone => {
            Err(format!("`{segment}` has no place here: the file has a single value, set it as a whole"))
        }
    }
}

/// A variable's name has only capitals, digits and `_`: `POOLS__LLAMA_3_1` means the pool `llama-3.1`.
fn same_name(key: &str, segment: &str) -> bool {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    key.chars().map(plain).eq(segment.chars().map(plain))
}

fn nothing() -> Content {
    Content::Scalar(crate::tree::Scalar { text: String::new(), plain: true, loose: false, written: None })
}

/// Marks everything below `node` as the variable's; messages must not show its values.
fn claim(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.content {
        Content::List(items) => items.iter_mut().for_each(|item| claim(item, origin)),
        Content::Table(entries) => {
            for (key, value) in entries {
                key.origin = origin.clone();
                claim(value, origin);
            }
        }
        Content::Scalar(scalar) => scalar.loose = true,
        Content::Gone => {}
    }
}
