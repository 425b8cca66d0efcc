//! From the file as written to the file as meant: names looked up, short forms spelled out, other files seen to exist.
//!
//! Each step reports what is wrong and goes on with what is left, so that all faults come out at once. A fault that
//! only follows from one already reported (an empty pool whose backend was misspelt) is not reported again.

mod care;
mod fallbacks;
mod listen;
mod models;
mod pools;
mod traces;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::Address;
use crate::environment::Environment;
use crate::fault::Fault;
use crate::key_path::KeyPath;
use crate::meant::{Config, FilterEntry};
use crate::near::did_you_mean;
use crate::positions::Positions;
use crate::settings::{
    Keys, Limits, Log, OtherPaths, Prices, Reload, Share, Shed, Storage, TimeoutOverrides, Timeouts, Urgency, Usage,
};
use crate::tree::{Content, Node};
use crate::written::{File, TextOr};

/// Names of metadata in a log line, and how long one may be.
const MOST_METADATA: usize = 16;
const LONGEST_METADATA: usize = 64;

/// Usage is kept by day.
const A_DAY: Duration = Duration::from_secs(86_400);

/// More than any client sends, and less than any header map holds.
const MOST_HEADERS: usize = 10_000;

/// What resolving needs to know, and where its faults go.
pub(crate) struct Resolver<'a> {
    pub(crate) tree: &'a Node,
    pub(crate) positions: &'a Positions,
    pub(crate) environment: &'a dyn Environment,
    pub(crate) directory: &'a Path,
    pub(crate) faults: Vec<Fault>,
}

impl Resolver<'_> {
    pub(crate) fn config(&mut self, file: File) -> Config {
        let root = KeyPath::root();
        self.limits(&file.limits);
        self.keys(&file.keys);
        self.reload(&file.reload);
        self.log(&file.log);
        if let Some(traces) = &file.traces {
            self.traces(traces);
        }
        self.timeouts(&root.key("timeouts"), &file.timeouts);
        let config = Config {
            listen: self.listeners(file.listen),
            trusted_proxies: file.trusted_proxies,
            clients: file.clients,
            admin: self.admin(file.admin),
            log: file.log,
            traces: file.traces,
            recent: file.recent,
            timeouts: file.timeouts,
            limits: file.limits,
            cors: file.cors.and_then(|cors| self.cors(cors)),
            answer_headers: file.answer_headers,
            drain: file.drain,
            upgrade: file.upgrade,
            reload: file.reload,
            storage: file.storage.map(|storage| self.storage(storage)),
            keys: file.keys,
            tenants: file.tenants,
            classifiers: file.classifiers,
            filters: self.filters(file.filters),
            models: self.models(file.models),
            default_model: file.default_model,
            prices: self.prices(file.prices),
            pools: self.pools(file.pools),
            other_paths: file.other_paths,
            directory: self.directory.to_owned(),
        };
        if let OtherPaths::Pool(pool) = &config.other_paths {
            self.known_pool(&root.key("other_paths").key("pool"), pool);
        }
        self.default_model(&config);
        self.fallback_chains(&config);
        self.same_address(&config);
        self.unreachable_listeners(&config);
        config
    }

    pub(crate) fn fault(&mut self, path: &KeyPath, message: impl Into<String>, help: Option<String>) {
        let mut fault = self.positions.fault(path, message);
        fault.help = help;
        self.faults.push(fault);
    }

    pub(crate) fn fault_at_key(&mut self, path: &KeyPath, message: impl Into<String>, help: Option<String>) {
        let mut fault = self.positions.fault_at_key(path, message);
        fault.help = help;
        self.faults.push(fault);
    }

    /// Reports a pool that is not in the file; one that is there with faults of its own is known.
    fn known_pool(&mut self, path: &KeyPath, pool: &str) {
        let all = KeyPath::root().key("pools");
        let pools = self.tree.keys(&all);
        if pools.contains(&pool) || self.tree.is_gone(&all) {
            return;
        }
        let help = did_you_mean(pool, &pools).unwrap_or_else(|| match pools[..] {
            [] => "there are no pools in this file".to_owned(),
            _ => format!("the pools are {}", pools.join(", ")),
        });
        let message = format!("there is no pool `{}`", self.tree.as_written(path, pool));
        self.fault(path, message, Some(help));
    }

    fn keys(&mut self, keys: &Keys) {
        if keys.pepper.as_ref().is_some_and(|pepper| pepper.expose().is_empty()) {
            let help = "leave it out, or set the variable it comes from".to_owned();
            self.fault(&KeyPath::root().key("keys").key("pepper"), "the pepper is empty", Some(help));
        }
    }

    fn reload(&mut self, reload: &Reload) {
        for (name, every) in [("watch", reload.watch), ("certificates", Some(reload.certificates))] {
            if every.is_some_and(|every| every < Reload::OFTENEST) {
                let path = KeyPath::root().key("reload").key(name);
                self.fault(&path, "files are not looked at more often than every 100ms", None);
            }
        }
    }

    fn log(&mut self, log: &Log) {
        let path = KeyPath::root().key("log").key("metadata");
        if log.metadata.len() > MOST_METADATA {
            self.fault(&path, format!("a line has at most {MOST_METADATA} of them"), None);
        }
        for (index, name) in log.metadata.iter().enumerate() {
            if name.is_empty() || name.len() > LONGEST_METADATA || log.metadata[..index].contains(name) {
                let message = format!("a name has from 1 to {LONGEST_METADATA} bytes, and stands here once");
                self.fault(&path.item(index), message, None);
            }
        }
    }

    fn storage(&mut self, storage: Storage) -> Storage {
        let (at, path) = (KeyPath::root().key("storage").key("path"), self.directory.join(&storage.path));
        // `/` has no parent; a file beside this one has an empty one.
        let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        if storage.path.as_os_str().is_empty() || folder.is_none() {
            self.fault(&at, "this names no file", None);
        } else if let Some(folder) = folder.filter(|folder| !self.environment.is_directory(folder)) {
            let message = format!("there is no directory {}", folder.display());
            self.fault(&at, message, Some("make it: the file is made by itself, its directory is not".to_owned()));
        }
        Storage { path, usage: self.usage(storage.usage) }
    }

    fn usage(&mut self, usage: Usage) -> Usage {
        let at = KeyPath::root().key("storage").key("usage");
        if usage.keep < A_DAY {
            self.fault(&at.key("keep"), "at least one day is kept: `1d`", None);
        }
        if usage.rows == 0 {
            self.fault(&at.key("rows"), "expected 1 or more", None);
        }
        let journal = usage.journal.map(|journal| self.directory.join(journal));
        if let Some(journal) = journal.as_deref().filter(|journal| !self.environment.is_directory(journal)) {
            self.fault(&at.key("journal"), format!("there is no directory {}", journal.display()), None);
        }
        Usage { journal, ..usage }
    }

    fn limits(&mut self, limits: &Limits) {
        let numbers = [
            ("body", limits.body),
            ("bodies_in_flight", limits.bodies_in_flight),
            ("head", limits.head),
            ("headers", limits.headers),
            ("connections", limits.connections),
            ("streams_per_connection", limits.streams_per_connection as usize),
            ("requests", limits.requests),
            ("event", limits.event),
            ("answer", limits.answer),
        ];
        let times = [
            ("head_timeout", limits.head_timeout),
            ("body_timeout", limits.body_timeout),
            ("write_timeout", limits.write_timeout),
            ("keep_alive", limits.keep_alive),
        ];
        let zero = numbers.iter().filter(|(_, number)| *number == 0).map(|(name, _)| *name);
        let zero = zero.chain(times.iter().filter(|(_, time)| time.is_zero()).map(|(name, _)| *name));
        let path = KeyPath::root().key("limits");
        for name in zero {
            self.fault(&path.key(name), format!("`{name}` cannot be 0: nothing would get through"), None);
        }
        if limits.headers > MOST_HEADERS {
            self.fault(&path.key("headers"), format!("`headers` cannot be more than {MOST_HEADERS}"), None);
        }
        let read = !self.tree.has_gone(&path.key("body")) && !self.tree.has_gone(&path.key("bodies_in_flight"));
        if limits.bodies_in_flight < limits.body && read {
            let message = "`bodies_in_flight` is less than `body`: the largest body could never be taken";
            self.fault(&path.key("bodies_in_flight"), message, None);
        }
        self.shed(&path.key("shed"), &limits.shed);
    }

    fn shed(&mut self, path: &KeyPath, shed: &Shed) {
        for pair in Urgency::ALL.windows(2) {
            let [less, more] = [pair[0], pair[1]];
            if shed.share(less) > shed.share(more) {
                let (less, more) = (less.as_str(), more.as_str());
                let message = format!("`{more}` is refused before `{less}`, which is less urgent");
                self.fault(&path.key(more), message, Some(format!("give `{more}` at least the share of `{less}`")));
            }
        }
        for urgency in Urgency::ALL {
            if shed.share(urgency) == Share::percent(0) {
                let name = urgency.as_str();
                self.fault(&path.key(name), format!("with a share of 0% no `{name}` request is ever served"), None);
            }
        }
    }

    fn timeouts(&mut self, path: &KeyPath, timeouts: &Timeouts) {
        let Timeouts { connect, first_byte, first_token, idle, total } = *timeouts;
        let all = TimeoutOverrides {
            connect: Some(connect),
            first_byte: Some(first_byte),
            first_token: Some(first_token),
            idle: Some(idle),
            total: Some(total),
        };
        self.timeout_overrides(path, &all);
    }

    pub(crate) fn timeout_overrides(&mut self, path: &KeyPath, timeouts: &TimeoutOverrides) {
        let TimeoutOverrides { connect, first_byte, first_token, idle, total } = timeouts;
        let all = [
            ("connect", connect),
            ("first_byte", first_byte),
            ("first_token", first_token),
            ("idle", idle),
            ("total", total),
        ];
        for (name, timeout) in all {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                self.fault(&path.key(name), "a timeout cannot be 0: every request would fail", None);
            }
        }
    }

    fn filters(&mut self, filters: Vec<TextOr<crate::written::OneFilter>>) -> Vec<FilterEntry> {
        let path = KeyPath::root().key("filters");
        let mut entries = Vec::new();
        for (item, filter) in self.items(&path).into_iter().zip(filters) {
            let what = "indent the settings further than the name: `- name: { setting: value }`";
            if let Some((name, settings, path)) = self.named("filter", &item, filter, what) {
                entries.push(FilterEntry { name, settings, path });
            }
        }
        entries
    }

    /// A name, or a table with the name as its one key and the settings as its value: name, settings, and where they
    /// stand.
    fn named(
        &mut self,
        what: &str,
        at: &KeyPath,
        written: TextOr<crate::written::OneFilter>,
        help: &str,
    ) -> Option<(String, serde_json::Value, KeyPath)> {
        let map = match written {
            TextOr::Text(name) => return Some((name, empty(), at.clone())),
            TextOr::Table(map) => map.0,
        };
        if map.len() != 1 {
            self.fault(at, format!("a {what} is a table with one key, its name"), Some(help.to_owned()));
            return None;
        }
        let (name, settings) = map.into_iter().next()?;
        let settings = if settings.is_null() { empty() } else { settings };
        let path = at.key(&name);
        Some((name, settings, path))
    }

    fn prices(&mut self, prices: Prices) -> Prices {
        let path = KeyPath::root().key("prices");
        if prices.currency.is_empty() || prices.currency.len() > 16 {
            self.fault(&path.key("currency"), "a currency has a name, such as USD", None);
        }
        for name in prices.models.keys() {
            if name.is_empty() || name.find('*').is_some_and(|at| at + 1 < name.len()) {
                let path = path.key("models").key(name);
                self.fault_at_key(&path, "a model has a name, and `*` can only stand at its end", None);
            }
        }
        prices
    }

    /// The paths of the items of a list that are still there, in order: those the deserializer saw.
    pub(crate) fn items(&self, path: &KeyPath) -> Vec<KeyPath> {
        match self.tree.find(path).map(|node| &node.content) {
            Some(Content::List(items)) => {
                items.iter().filter(|item| !matches!(item.content, Content::Gone)).map(|i| i.path.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A Unix socket's path starts from the directory of the file, as every path in it.
    fn rooted(&self, address: Address) -> Address {
        match address {
            Address::Unix(path) => Address::Unix(self.directory.join(path)),
            other => other,
        }
    }

    /// The path of another file, from the directory of this one; reports it if it cannot be read.
    pub(crate) fn readable(&mut self, path: &KeyPath, file: &Path, holds: &str) -> PathBuf {
        let file = self.directory.join(file);
        match self.environment.read_file(&file) {
            Ok(text) if !text.contains("-----BEGIN ") => {
                self.fault(path, format!("this file has no {holds} in PEM form"), None);
            }
            Ok(_) => {}
            Err(error) => self.fault(path, format!("cannot read {}: {error}", file.display()), None),
        }
        file
    }
}

fn empty() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
