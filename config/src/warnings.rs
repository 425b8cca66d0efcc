//! What is legal and probably not meant.

use crate::fault::Fault;
use crate::key_path::KeyPath;
use crate::meant::{Config, Pool};
use crate::positions::Positions;
use crate::settings::OtherPaths;
use crate::tree::Node;

/// Everything in the file that its writer may want to know.
pub(crate) fn warnings(config: &Config, tree: &Node, positions: &Positions) -> Vec<Fault> {
    let mut found = Warnings { tree, positions, faults: Vec::new() };
    found.open_to_everyone(config);
    found.timeouts(config);
    for pool in &config.pools {
        found.pool(config, pool);
    }
    found.faults
}

struct Warnings<'a> {
    tree: &'a Node,
    positions: &'a Positions,
    faults: Vec<Fault>,
}

impl Warnings<'_> {
    fn warn(&mut self, path: &KeyPath, message: &str, help: &str) {
        self.faults.push(self.positions.fault(path, message).with_help(help).as_warning());
    }

    fn open_to_everyone(&mut self, config: &Config) {
        let asks = config.filters.iter().any(|filter| matches!(filter.name.as_str(), "api_key" | "jwt"));
        if asks {
            return;
        }
        for listen in config.listen.iter().filter(|listen| !listen.address.is_loopback()) {
            let message = "anyone who can reach this address can use the backends and their keys";
            self.warn(&listen.path, message, "add the filter `api_key`, or listen on 127.0.0.1");
        }
    }

    fn timeouts(&mut self, config: &Config) {
        let path = KeyPath::root().key("timeouts");
        let timeouts = &config.timeouts;
        if timeouts.first_token > timeouts.total {
            let message = "`first_token` is longer than `total`: it can never be reached";
            self.warn(&path.key("first_token"), message, "make `total` the longest");
        }
        if timeouts.connect > timeouts.first_byte {
            let message = "`connect` is longer than `first_byte`";
            self.warn(&path.key("connect"), message, "connecting takes milliseconds; 2s is plenty");
        }
    }

    fn pool(&mut self, config: &Config, pool: &Pool) {
        if pool.health.is_none() && pool.backends.len() > 1 {
            let message = "without health checks a backend that hangs keeps getting its share of the requests";
            self.warn(&pool.path.key("health"), message, "leave `health` out for the default");
        }
        let used = config.models.iter().flat_map(|model| &model.targets).any(|target| target.pool == pool.name)
            || config.other_paths == OtherPaths::Pool(pool.name.clone());
        if !used && !self.tree.has_gone(&KeyPath::root().key("models")) {
            let message = format!("nothing is ever sent to the pool `{}`", pool.name);
            let fault = self.positions.fault_at_key(&pool.path, message).as_warning();
            self.faults.push(fault.with_help("name it in `models`, or take it out"));
        }
    }
}
