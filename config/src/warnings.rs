//! What is legal and probably not meant.

use crate::fault::Fault;
use crate::key_path::KeyPath;
use crate::meant::{Backend, Config, Fallback, FilterEntry, Model, Pool};
use crate::positions::Positions;
use crate::secret::is_secret_name;
use crate::settings::{OtherPaths, TimeoutOverrides, Timeouts};
use crate::tree::{Content, Node, Origin, Resolved};
use std::collections::{HashMap, HashSet};

/// Everything in the file that its writer may want to know.
pub(crate) fn warnings(config: &Config, tree: &Node, positions: &Positions) -> Vec<Fault> {
    let mut found = Warnings { tree, positions, faults: Vec::new() };
    let root = KeyPath::root();
    found.open_to_everyone(config);
    found.trusted_by_all(config);
    found.believes_nobody(config);
    found.cache_out_of_order(config);
    found.limits_for_nobody(config);
    found.in_plain_text(&root.key("admin").key("token"));
    found.in_plain_text(&root.key("keys").key("pepper"));
    found.headers_in_plain_text(&root.key("traces").key("headers"));
    for record in config.filters.iter().filter(|filter| filter.name == "record") {
        found.in_plain_text(&record.path.key("chain").key("key"));
    }
    found.timeouts(&root.key("timeouts"), &config.timeouts);
    let led_to = LedTo::new(config, tree);
    for pool in &config.pools {
        found.unused(&led_to, pool);
        found.unwatched(pool);
        found.nobody_resumes(config, pool);
        found.idle_tls(pool);
        found.overrides(&pool.path, &pool.timeouts, &config.timeouts);
        pool.backends.iter().for_each(|backend| found.backend(pool, backend));
    }
    let pools = by_name(config);
    for model in &config.models {
        let pool = model.targets.first().and_then(|target| pools.get(&*target.pool));
        let base = pool.map_or(config.timeouts, |pool| pool.timeouts.resolve(&config.timeouts));
        found.overrides(&model.path, &model.timeouts, &base);
    }
    found.faults
}

/// Whether a filter finds out who asks.
fn identifies(filter: &FilterEntry) -> bool {
    matches!(filter.name.as_str(), "api_key" | "jwt" | "trusted_headers")
}

/// Whether a limit per this needs to know who asks.
fn is_somebody(per: &str) -> bool {
    matches!(per, "key" | "user" | "service" | "team" | "org")
}

/// The pools by their names: a file with a thousand of them is read as fast as it is long.
fn by_name(config: &Config) -> HashMap<&str, &Pool> {
    config.pools.iter().map(|pool| (&*pool.name, pool)).collect()
}

/// The pools that something is sent to.
struct LedTo<'a> {
    pools: HashSet<&'a str>,
    /// Whether that is known: a model that names no known pool may mean any.
    is_settled: bool,
}

impl<'a> LedTo<'a> {
    fn new(config: &'a Config, tree: &Node) -> Self {
        let known = by_name(config);
        let mut pools = HashSet::new();
        let mut is_settled = !config.models.is_empty() && !tree.has_gone(&KeyPath::root().key("models"));
        for model in &config.models {
            is_settled &= !model.targets.is_empty();
            is_settled &= model.targets.iter().all(|target| known.contains_key(&*target.pool));
            pools.extend(model.targets.iter().map(|target| &*target.pool));
            pools.extend(model.fallback.iter().filter_map(Fallback::pool));
        }
        if let OtherPaths::Pool(name) = &config.other_paths {
            pools.insert(name);
        }
        Self { pools, is_settled }
    }
}

struct Warnings<'a> {
    tree: &'a Node,
    positions: &'a Positions,
    faults: Vec<Fault>,
}

impl Warnings<'_> {
    fn warn(&mut self, path: &KeyPath, message: impl Into<String>, help: &str) {
        self.faults.push(self.positions.fault(path, message).with_help(help).as_warning());
    }

    fn open_to_everyone(&mut self, config: &Config) {
        // One that leaves to others whom it does not know keeps nobody out.
        let refuses = |filter: &FilterEntry| identifies(filter) && filter.settings["otherwise"] != "next";
        if config.filters.iter().any(refuses) {
            return;
        }
        for listen in config.listen.iter().filter(|listen| !listen.address.is_loopback()) {
            let message = "anyone who can reach this address can use the backends and their keys";
            self.warn(&listen.path, message, "add the filter `api_key`, or listen on 127.0.0.1");
        }
    }

    fn cache_out_of_order(&mut self, config: &Config) {
        let Some(at) = config.filters.iter().position(|filter| filter.name == "prompt_cache") else { return };
        let cache = &config.filters[at];
        let shared = cache.settings.get("scope").is_some_and(|scope| scope == "global");
        if shared && config.filters[at..].iter().any(identifies) {
            let message = "kept answers are given to whoever asks: the filter that finds out who may comes later";
            self.warn(&cache.path, message, "put the filter that says who asks before it");
        }
        if config.filters[at..].iter().any(|filter| filter.name == "limits") {
            let message = "kept answers are given without asking the limits, which come later";
            self.warn(
                &cache.path,
                message,
                "put `limits` before it: by itself a kept answer spends requests and no tokens",
            );
        }
    }

    fn limits_for_nobody(&mut self, config: &Config) {
        let known = config.filters.iter().position(identifies).unwrap_or(config.filters.len());
        for filter in config.filters[..known].iter().filter(|filter| filter.name == "limits") {
            for (index, limit) in filter.settings.as_array().into_iter().flatten().enumerate() {
                let per = &limit["per"];
                let parts = per.as_array().map_or(std::slice::from_ref(per), Vec::as_slice);
                let who = parts.iter().filter_map(|part| part.as_str()).find(|part| is_somebody(part));
                if let Some(who) = who.filter(|_| limit["anonymous"] != "shared") {
                    let message = format!("this limit is never asked: here nobody knows yet which {who} calls");
                    let help = "put the filter that knows, such as `api_key`, before it, or say `anonymous: shared`";
                    self.warn(&filter.path.item(index), message, help);
                }
            }
        }
    }

    fn trusted_by_all(&mut self, config: &Config) {
        let path = KeyPath::root().key("trusted_proxies");
        for (index, net) in config.trusted_proxies.iter().enumerate().filter(|(_, net)| net.is_everything()) {
            let message = format!("{net} is everybody: whoever connects may claim any address");
            self.warn(&path.item(index), message, "name the networks of the proxies alone");
        }
    }

    fn believes_nobody(&mut self, config: &Config) {
        let filter = config.filters.iter().find(|filter| filter.name == "trusted_headers");
        if let Some(filter) = filter.filter(|_| config.trusted_proxies.is_empty()) {
            let message = "no proxy is trusted, so these headers never count";
            self.warn(&filter.path, message, "name the proxy in `trusted_proxies`");
        }
    }

    fn overrides(&mut self, path: &KeyPath, timeouts: &TimeoutOverrides, base: &Timeouts) {
        if !timeouts.is_empty() {
            self.timeouts(&path.key("timeouts"), &timeouts.resolve(base));
        }
    }

    fn timeouts(&mut self, path: &KeyPath, timeouts: &Timeouts) {
        let Timeouts { connect, first_byte, first_token, idle, total } = *timeouts;
        for (name, timeout) in [("first_byte", first_byte), ("first_token", first_token), ("idle", idle)] {
            if timeout > total {
                let message = format!("`{name}` is longer than `total`: it can never be reached");
                self.warn(&path.key(name), message, "make `total` the longest");
            }
        }
        if connect > first_byte {
            let help = "connecting takes milliseconds: 2s is plenty";
            self.warn(&path.key("connect"), "`connect` is longer than `first_byte`", help);
        }
    }

    fn unused(&mut self, led_to: &LedTo<'_>, pool: &Pool) {
        if led_to.is_settled && !led_to.pools.contains(&*pool.name) {
            let message = format!("nothing is ever sent to the pool `{}`", pool.name);
            let fault = self.positions.fault_at_key(&pool.path, message).as_warning();
            self.faults.push(fault.with_help("name it in `models`, or take it out"));
        }
    }

    fn unwatched(&mut self, pool: &Pool) {
        if pool.health.is_none() && pool.backends.len() > 1 {
            let message = "without health checks a backend that hangs keeps getting its share of the requests";
            self.warn(&pool.path.key("health"), message, "leave `health` out for the default");
        }
    }

    fn nobody_resumes(&mut self, config: &Config, pool: &Pool) {
        let falls_back = |model: &&Model| model.targets.iter().any(|target| target.pool == pool.name);
        let others = || config.models.iter().filter(falls_back).any(|model| !model.fallback.is_empty());
        if pool.resume.is_some() && pool.backends.len() == 1 && pool.discover.is_none() && !others() {
            let message = "the pool has one backend and its models no fallback: nobody else could continue a stream";
            self.warn(&pool.path.key("resume"), message, "add a backend, or leave `resume` out");
        }
    }

    fn idle_tls(&mut self, pool: &Pool) {
        let path = pool.path.key("tls");
        if self.tree.find(&path).is_some() && !pool.backends.is_empty() && !pool.backends.iter().any(|b| b.url.tls) {
            self.warn(&path, "no backend of this pool speaks TLS", "begin their URLs with https://, or take `tls` out");
        }
    }

    fn backend(&mut self, pool: &Pool, backend: &Backend) {
        self.in_plain_text(&backend.path.key("key"));
        let url = backend.path.key("url");
        self.headers_in_plain_text(&backend.path.key("headers"));
        let sends_secret = backend.key.is_some() || backend.headers.iter().any(|(_, value)| value.is_sensitive());
        if !backend.url.address.is_private() && sends_secret {
            if !backend.url.tls {
                self.warn(&url, "the key is sent unencrypted through a network that others share", "use https://");
            } else if !pool.tls.verify {
                let message = "the key is sent to whoever answers: the certificate is not verified";
                self.warn(&pool.path.key("tls").key("verify"), message, "set `ca` to the authority that signed it");
            }
        }
        if backend.url.base_path.ends_with("/v1") {
            let message = "requests will go to `/v1/v1/...`: their paths already begin with /v1";
            self.warn(&url, message, "end the URL before `/v1`");
        }
    }

    /// Those whose names say that they have secrets.
    fn headers_in_plain_text(&mut self, headers: &KeyPath) {
        for name in self.tree.keys(headers).into_iter().filter(|name| is_secret_name(name)) {
            self.in_plain_text(&headers.key(name));
        }
    }

    /// Files get copied, committed and shown; the environment and files with narrow rights less so.
    fn in_plain_text(&mut self, path: &KeyPath) {
        let Some(Node { origin: Origin::File(_), content: Content::Scalar(scalar), .. }) = self.tree.find(path) else {
            return;
        };
        if scalar.written.is_none() && scalar.resolve() != Resolved::Nothing {
            let help = "write `${env:NAME}` or `${file:PATH}` and keep the secret there";
            self.warn(path, "a secret stands in this file in plain text", help);
        }
    }
}
