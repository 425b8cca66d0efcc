//! Filters whose place in the list is wrong: they rely on what another one, further down, has yet to find out.

use super::services::TENANTS;
use crate::snapshot::NamedFilter;
use tidegate_config::{Config, Fault, FilterEntry, KeyPath};
use tidegate_plugins::Filter;
use tidegate_plugins::credential::Otherwise;
use tidegate_plugins::filter::Strangers;

/// The filter that decides over limits.
pub(super) const LIMITS: &str = "limits";

/// Filters that give one caller's answers to the same caller, above one that says who calls: there all are strangers,
/// and nobody has been refused yet.
pub(super) fn too_early(config: &Config, filters: &[NamedFilter]) -> Vec<Fault> {
    let Some(identifies) = filters.iter().rposition(|named| named.filter.identifies().is_some()) else {
        return Vec::new();
    };
    let below = &filters[identifies].name;
    let fault = |name: &str, path: &KeyPath, strangers| {
        let what = match strangers {
            Strangers::ByAddress | Strangers::Everybody => "answers could be given to who has not even shown a key",
            Strangers::Alone => "it would do nothing for anybody",
        };
        let message = format!("here nobody knows yet who calls: `{below}` below finds that out, and {what}");
        Fault::error(path.clone(), message).with_help(format!("move `{name}` below `{below}`"))
    };
    telling_apart(config, &filters[..identifies]).map(|(name, path, it)| fault(name, path, it)).collect()
}

/// Such filters where nobody ever says who calls.
pub(super) fn strangers(config: &Config, filters: &[NamedFilter]) -> Vec<Fault> {
    if filters.iter().any(|named| named.filter.identifies().is_some()) {
        return Vec::new();
    }
    let warning = |path: &KeyPath, strangers| {
        let what = match strangers {
            Strangers::ByAddress => "callers are told apart by their address alone",
            Strangers::Alone => "it does nothing for callers who cannot be told apart",
            Strangers::Everybody => return None,
        };
        let message = format!("no filter says who calls: {what}");
        let help = "put a filter that identifies (`api_key`, `jwt`, `trusted_headers`) above it, or say `scope: global` \
                    if it is for everybody";
        Some(Fault::error(path.clone(), message).with_help(help).as_warning())
    };
    telling_apart(config, filters).filter_map(|(_, path, it)| warning(path, it)).collect()
}

/// The filters that tell callers apart, with their names and places in the file.
fn telling_apart<'a>(
    config: &'a Config,
    filters: &'a [NamedFilter],
) -> impl Iterator<Item = (&'a str, &'a KeyPath, Strangers)> {
    let entries = config.filters.iter().zip(filters);
    entries.filter_map(|(entry, named)| Some((&*entry.name, &entry.path, named.filter.tells_apart()?)))
}

/// The place of the last filter that has one of these names.
pub(super) fn last(config: &Config, names: &[&str]) -> Option<usize> {
    config.filters.iter().rposition(|entry| names.contains(&&*entry.name))
}

/// Limits of tenants and keys that nobody decides over.
pub(super) fn undecided(config: &Config) -> Option<Fault> {
    let Some(decides) = last(config, &[LIMITS]) else {
        let section = if config.tenants.is_some() { TENANTS } else { "filters" };
        let message = "tenants or keys have `limits`, and there is no filter `limits` that decides over them";
        let fault = Fault::error(KeyPath::root().key(section), message);
        return Some(fault.with_help("add `- limits: []` to `filters`, below the filter that knows who calls"));
    };
    let path = config.filters[decides].path.clone();
    let message = "here nobody knows yet who calls, and so which limits of tenants and keys apply";
    let late = last(config, &["api_key", "jwt"]).is_some_and(|identifies| identifies > decides);
    late.then(|| Fault::error(path, message).with_help("move it below the filter that knows"))
}

/// A filter that says who sends a request, below one that refuses whoever it does not know itself.
pub(super) fn unreachable_identity(above: &[NamedFilter], filter: &dyn Filter, entry: &FilterEntry) -> Option<Fault> {
    filter.identifies()?;
    let refusing = above.iter().find(|named| named.filter.identifies() == Some(Otherwise::Refuse))?;
    let message = format!("nobody could get in by `{}`: `{}` above it refuses them", entry.name, refusing.name);
    let help =
        format!("set `otherwise: next` on `{}`, so that it leaves to others whom it does not know", refusing.name);
    Some(Fault::error(entry.path.clone(), message).with_help(help))
}
