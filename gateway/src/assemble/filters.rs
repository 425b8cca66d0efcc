//! Filters, built in the order of the file.

use super::order;
use crate::models::Models;
use crate::snapshot::{MeasuredFilter, NamedFilter};
use crate::telemetry::Metrics;
use tidegate_config::{Config, Fault, KeyPath};
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::{Registry, Services};

pub(super) fn build(
    config: &Config,
    registry: &Registry,
    services: &Services,
    faults: &mut Vec<Fault>,
) -> Vec<NamedFilter> {
    let mut built: Vec<NamedFilter> = Vec::new();
    // Several filters may limit, a cheap one in front of the keys for one; what callers bring along is decided once.
    let decides = order::last(config, &[order::LIMITS]);
    for (index, entry) in config.filters.iter().enumerate() {
        let nth = config.filters[..index].iter().filter(|above| above.name == entry.name).count();
        let services = &Services { decides_own: Some(index) == decides, nth, ..services.clone() };
        match registry.filter(&entry.name, entry.settings.clone(), services) {
            Some(Ok(filter)) => {
                faults.extend(order::unreachable_identity(&built, &*filter, entry));
                built.push(NamedFilter { name: entry.name.as_str().into(), filter });
            }
            Some(Err(errors)) => refuse(errors, &entry.path, faults),
            None => {
                let known: Vec<_> = registry.filters().iter().map(|entry| entry.name).collect();
                faults.push(unknown("filter", &entry.name, &known, entry.path.clone()));
            }
        }
    }
    // What could not be built has no place among the others.
    if built.len() == config.filters.len() {
        faults.extend(order::too_early(config, &built));
    }
    if services.own_limits.any() {
        faults.extend(order::undecided(config));
    }
    built
}

/// Filters with their metrics, those of a kind numbered.
pub(super) fn measured(filters: Vec<NamedFilter>, metrics: &Metrics) -> Vec<MeasuredFilter> {
    let mut measured: Vec<MeasuredFilter> = Vec::new();
    for NamedFilter { name, filter } in filters {
        let series = match measured.iter().filter(|before| before.name == name).count() {
            0 => metrics.filter(&name),
            before => metrics.filter(&format!("{name}#{}", before + 1)),
        };
        measured.push(MeasuredFilter { name, filter, series });
    }
    measured
}

pub(super) fn unknown(what: &str, name: &str, known: &[&str], path: KeyPath) -> Fault {
    let near = Models::near(name, known.iter().copied());
    let help = match near.first() {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    Fault::error(path, format!("unknown {what} `{name}`")).with_help(help)
}

pub(super) fn refuse(errors: Vec<SettingsError>, path: &KeyPath, faults: &mut Vec<Fault>) {
    faults.extend(errors.into_iter().map(|error| fault(path, error)));
}

/// A fault within settings that stand at `path`.
pub(super) fn fault(path: &KeyPath, error: SettingsError) -> Fault {
    let fault = Fault::error(path.inside(&error.path), error.message);
    match error.help {
        Some(help) => fault.with_help(help),
        None => fault,
    }
}
