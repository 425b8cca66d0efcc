//! What is wrong with a configuration that only building finds, and what is to be warned of.

use super::backends::authority;
use super::services::{Read, services};
use super::{filters, order, pools};
use crate::cache_file::LooksOnly;
use crate::{records, storage};
use std::sync::Arc;
use tidegate_config::{Config, Fault, KeyPath, Positions};
use tidegate_plugins::Registry;
use tidegate_plugins::filters::limits::Views;
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::services::Shared;
use tidegate_plugins::when::When;

/// How many ids a fault names at most.
const LISTED: usize = 8;

/// Faults that only building finds: unknown filters and balancers, settings that cannot be meant. Each with its place.
pub fn check(config: &Config, positions: &Positions) -> Vec<Fault> {
    let (registry, mut faults) = (Registry::built_in(), Vec::new());
    let shared = Shared { tiers: Arc::new(LooksOnly), records: Arc::new(records::LooksOnly), ..Shared::default() };
    let services = services(config, &shared, &Read::default(), &mut faults);
    let filters = filters::build(config, &registry, &services, &mut faults);
    if filters.len() == config.filters.len() {
        faults.extend(order::strangers(config, &filters));
    }
    if config.storage.is_none() && shared.store.has_budgets() {
        let limits = config.filters.iter().find(|entry| entry.name == "limits");
        let path = limits.map_or_else(KeyPath::root, |entry| entry.path.clone());
        let fault = Fault::error(path, "its budgets begin anew with each start of the gateway").as_warning();
        faults.push(fault.with_help("add `storage: { path: tidegate.db }`, so that what is spent is kept"));
    }
    faults.extend(journal(config));
    for pool in &config.pools {
        pools::balancer(pool, &registry, &mut faults);
        authority(pool, &mut faults);
        if let Some(discover) = &pool.discover {
            pools::listed(pool, discover, &mut faults);
        }
    }
    for listen in &config.listen {
        if let Some(tls) = &listen.tls
            && let Err(reason) = crate::reload::certificates::load(&tls.cert, &tls.key)
        {
            faults.push(Fault::error(listen.path.key("tls"), reason));
        }
    }
    faults.extend(admin_tls(config));
    faults.extend(untraced(config));
    faults.extend(unwritable(config));
    faults.extend(other_pepper(config));
    faults.extend(taken_ids(config, &services.views));
    place(faults, positions)
}

/// A certificate of the admin listener that cannot be shown, or authorities that are none.
fn admin_tls(config: &Config) -> Vec<Fault> {
    let path = KeyPath::root().key("admin").key("tls");
    let Some(tls) = &config.admin.tls else { return Vec::new() };
    let shown = crate::reload::certificates::load(&tls.shown.cert, &tls.shown.key).err();
    let callers = tls.client_ca.as_deref().and_then(|ca| crate::admin::tls::verifier(ca).err());
    let callers = callers.map(|reason| Fault::error(path.key("client_ca"), reason));
    shown.map(|reason| Fault::error(path.clone(), reason)).into_iter().chain(callers).collect()
}

/// A store that cannot be written now, by whoever asks: the gateway would serve, and keep nothing.
fn unwritable(config: &Config) -> Option<Fault> {
    let path = &config.storage.as_ref()?.path;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        // Told elsewhere.
        return None;
    }
    let error = storage::try_write(path).err()?;
    let message =
        format!("with this store no key could be made or revoked, and no budget would outlast the process: {error}");
    let help = "the user of the gateway has to be able to write the file and its directory";
    let at = KeyPath::root().key("storage").key("path");
    Some(Fault::error(at, message).with_help(help).as_warning())
}

/// Traces that are wanted of a build that has none.
pub(super) fn untraced(config: &Config) -> Option<Fault> {
    let path = KeyPath::root().key("traces");
    let fault = || Fault::error(path, "this build sends no traces").with_help("build it with the feature `otlp`");
    (config.traces.is_some() && !cfg!(feature = "otlp")).then(fault)
}

/// A journal of usage that requests would wait for.
pub(super) fn journal(config: &Config) -> Option<Fault> {
    let folder = config.storage.as_ref()?.usage.journal.as_deref()?;
    let error = crate::usage::is_in_memory(folder).err()?;
    let at = KeyPath::root().key("storage").key("usage").key("journal");
    let help = "no request waits for a disk: name a directory on a tmpfs, or leave this out for /dev/shm";
    Some(Fault::error(at, error.to_string()).with_help(help))
}

/// Managed keys that let nobody in because they were hashed with another pepper, where the store can be asked.
pub(crate) fn other_pepper(config: &Config) -> Option<Fault> {
    let path = &config.storage.as_ref()?.path;
    let hasher = KeyHasher::new(config.keys.pepper.as_ref().map(|pepper| pepper.expose()));
    // What is not there, or away, is told elsewhere.
    let store = path.exists().then(|| storage::look(path).ok())??;
    let (others, all) = storage::keys::of_other_peppers(&store, hasher.pepper(), When::now()).ok()?;
    let at = if config.keys.pepper.is_some() {
        KeyPath::root().key("keys").key("pepper")
    } else {
        KeyPath::root().key("storage")
    };
    let message = format!("{others} of {all} managed keys were made with another pepper: they let nobody in");
    let help = "set `keys.pepper` to what it was, or rotate them: `tidegate keys rotate ID`";
    (others > 0).then(|| Fault::error(at, message).with_help(help).as_warning())
}

/// Managed keys that let nobody in because keys of the file have their ids, where the store can be asked.
pub(crate) fn taken_ids(config: &Config, views: &Views) -> Option<Fault> {
    let path = &config.storage.as_ref()?.path;
    let store = path.exists().then(|| storage::look(path).ok())??;
    let mut ids = storage::keys::ids(&store).ok()?;
    ids.retain(|id| views.has_key(id));
    let more = if ids.len() > LISTED { format!(" and {} more", ids.len() - LISTED) } else { String::new() };
    let listed = ids[..ids.len().min(LISTED)].join(", ");
    let message = format!("managed keys have the ids of keys in the file, and let nobody in: {listed}{more}");
    let help = "give the keys in the file ids of their own, or revoke the managed ones: `tidegate keys revoke ID`";
    let fault = Fault::error(KeyPath::root().key("storage"), message).with_help(help).as_warning();
    (!ids.is_empty()).then_some(fault)
}

/// Gives faults the place in the file that they point at.
pub fn place(faults: Vec<Fault>, positions: &Positions) -> Vec<Fault> {
    let placed = |fault: Fault| Fault { place: positions.fault(&fault.path, "").place, ..fault };
    faults.into_iter().map(placed).collect()
}
