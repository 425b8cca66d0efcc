//! The pools and their backends.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, header};

use super::Resolver;
use crate::key_path::KeyPath;
use crate::meant::{Backend, BackendTls, BackendUrl, Pool};
use crate::secret::is_secret_name;
use crate::settings::{Auth, MaxInFlight, Queue, QueueForm, Resume, Retries};
use crate::written::{self, TextOr};

/// The shortest secret that cannot be guessed, in bytes.
const SHORTEST_SALT: usize = 16;

/// Headers that the relay itself must write.
const OURS: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
];

/// More than that only makes an outage worse.
const MOST_RETRIES: u32 = 10;

/// How often one stream may be resumed.
const MOST_RESUMES: u32 = 10;

impl Resolver<'_> {
    pub(super) fn pools(&mut self, mut pools: BTreeMap<String, written::Pool>) -> Vec<Pool> {
        let path = KeyPath::root().key("pools");
        let names: Vec<String> = self.tree.keys(&path).into_iter().map(str::to_owned).collect();
        if names.is_empty() && !self.tree.has_gone(&path) {
            let help = "add `pools: { NAME: { backends: [http://HOST:PORT] } }`".to_owned();
            self.fault(&path, "there are no pools, so nobody could answer", Some(help));
        }
        // The map forgot the order of the file; the tree did not.
        names.into_iter().filter_map(|name| pools.remove(&name).map(|pool| self.pool(&path, name, pool))).collect()
    }

    fn pool(&mut self, pools: &KeyPath, name: String, pool: written::Pool) -> Pool {
        let path = pools.key(&name);
        self.label(&path, &name, "pool");
        self.timeout_overrides(&path.key("timeouts"), &pool.timeouts);
        let balance = self.balance(&path.key("balance"), pool.balance);
        self.retries(&path.key("retries"), &pool.retries.0);
        self.hedge(&path.key("hedge"), pool.hedge.as_ref());
        self.resume(&path.key("resume"), pool.resume.as_ref());
        let queue = self.queue(&path.key("queue"), pool.queue);
        let health = self.health(&path.key("health"), pool.health);
        let breaker = self.breaker(&path.key("breaker"), pool.breaker);
        let tls = self.backend_tls(&path.key("tls"), pool.tls);
        if pool.cache_salt.as_ref().is_some_and(|salt| salt.expose().len() < SHORTEST_SALT) {
            let message = format!("less than {SHORTEST_SALT} bytes can be guessed");
            self.fault(&path.key("cache_salt"), message, None);
        }
        let signals = self.signals(&path.key("signals"), pool.signals);
        let discover = pool.discover.and_then(|discover| self.discover(&path.key("discover"), discover));
        let listed = !self.items(&path.key("backends")).is_empty();
        if listed && discover.is_some() {
            self.fault(&path.key("discover"), "a pool has `backends` or `discover`, not both", None);
        }
        let backends = match discover.is_some() && !listed {
            true => Vec::new(),
            false => self.backends(&path.key("backends"), pool.backends),
        };
        for backend in &backends {
            self.reachable(backend, &tls, pool.http2, &path);
        }
        Pool {
            name,
            balance,
            timeouts: pool.timeouts,
            health,
            breaker,
            tls,
            http2: pool.http2,
            idle_connections: pool.idle_connections,
            cache_salt: pool.cache_salt,
            hedge: pool.hedge,
            hold: pool.hold,
            queue,
            resume: pool.resume,
            retries: pool.retries.0,
            signals,
            usage: pool.usage,
            backends,
            discover,
            path,
        }
    }

    /// Settings of resuming that mean nothing.
    fn resume(&mut self, path: &KeyPath, resume: Option<&Resume>) {
        let Some(resume) = resume else { return };
        if !(1..=MOST_RESUMES).contains(&resume.attempts) {
            let message = format!("a stream is resumed 1 to {MOST_RESUMES} times; leave `resume` out for none");
            self.fault(&path.key("attempts"), message, None);
        }
        if resume.text == 0 {
            self.fault(&path.key("text"), "nothing is kept, so nothing could be continued", None);
        }
    }

    fn queue(&mut self, path: &KeyPath, queue: QueueForm) -> Option<Queue> {
        let QueueForm::On(queue) = queue else { return None };
        for (name, zero) in [
            ("most", queue.most == 0),
            ("max_wait", queue.max_wait.is_zero()),
            ("tell", queue.tell.is_some_and(|every| every.is_zero())),
        ] {
            if zero {
                let help = "write `queue: off` for no queue".to_owned();
                self.fault(&path.key(name), format!("`{name}` cannot be 0"), Some(help).filter(|_| name != "tell"));
            }
        }
        for (name, weight) in &queue.weights {
            let path = path.key("weights").key(name);
            match weight {
                0 => self.fault(&path, "a share of nothing: it would never be served", None),
                weight => self.weight(&path, *weight),
            }
        }
        Some(queue)
    }

    fn retries(&mut self, path: &KeyPath, retries: &Retries) {
        if retries.most > MOST_RETRIES {
            let path = if self.tree.find(&path.key("most")).is_some() { path.key("most") } else { path.clone() };
            self.fault(&path, format!("a request cannot be tried more than {MOST_RETRIES} times again"), None);
        }
        if retries.most > 0 && retries.on.is_empty() && !self.tree.has_gone(&path.key("on")) {
            let help = "write `retries: 0` for none".to_owned();
            self.fault(&path.key("on"), "nothing is named after which to try again", Some(help));
        }
    }

    fn backend_tls(&mut self, path: &KeyPath, tls: written::BackendTls) -> BackendTls {
        let ca = tls.ca.map(|ca| self.readable(&path.key("ca"), &ca, "certificate"));
        if tls.server_name.as_deref().is_some_and(|name| !crate::address::is_host_name(name)) {
            self.fault(&path.key("server_name"), "this is not a host's name", None);
        }
        BackendTls { ca, server_name: tls.server_name, verify: tls.verify }
    }

    fn backends(&mut self, path: &KeyPath, backends: Vec<TextOr<written::Backend>>) -> Vec<Backend> {
        let mut all: Vec<Backend> = Vec::new();
        let mut refused = false;
        for (path, backend) in self.items(path).into_iter().zip(backends) {
            let backend = match backend {
                TextOr::Table(backend) => backend,
                TextOr::Text(url) => match BackendUrl::parse(&url) {
                    Ok(url) => bare(url),
                    Err(message) => {
                        self.fault(&path, message, None);
                        refused = true;
                        continue;
                    }
                },
            };
            let backend = self.backend(path, backend);
            if let Some(first) = all.iter().find(|other| other.name == backend.name) {
                let help = match first.url == backend.url {
                    true => "to give it more requests, set its `weight`",
                    false => "give one of them another `name`",
                };
                let message = format!("the backend `{}` is already in this pool", backend.name);
                self.fault(&backend.path, message, Some(help.to_owned()));
            }
            all.push(backend);
        }
        if refused || self.tree.has_gone(path) {
            return all;
        }
        if all.is_empty() {
            let help = "add `backends: [http://HOST:PORT]`".to_owned();
            self.fault(path, "the pool has no backends", Some(help));
        } else if all.iter().all(|backend| backend.weight == 0) {
            self.fault(path, "all weights are 0: no backend would get a request", None);
        }
        all
    }

    pub(super) fn backend(&mut self, path: KeyPath, backend: written::Backend) -> Backend {
        let name = backend.name.unwrap_or_else(|| match &backend.url.address {
            crate::Address::Unix(_) => backend.url.to_string(),
            _ => backend.url.address.to_string(),
        });
        self.label(&path.key("name"), &name, "backend");
        self.weight(&path.key("weight"), backend.weight);
        if backend.max_in_flight == Some(MaxInFlight::Fixed(0)) {
            let help = "leave it out for no bound, or set `weight: 0`".to_owned();
            self.fault(&path.key("max_in_flight"), "a backend that takes no request at all", Some(help));
        }
        if let Some(key) = &backend.key {
            let wrong = match key.expose() {
                "" => Some("the key is empty"),
                key if HeaderValue::from_str(key).is_err() => Some("the key has characters that no header can hold"),
                _ => None,
            };
            if let Some(wrong) = wrong {
                self.fault(&path.key("key"), wrong, None);
            }
        }
        let headers = self.headers(&path.key("headers"), backend.headers, backend.key.as_ref().map(|_| backend.auth));
        let url = BackendUrl { address: self.rooted(backend.url.address), ..backend.url };
        Backend {
            name,
            url,
            key: backend.key,
            auth: backend.auth,
            headers,
            weight: backend.weight,
            max_in_flight: backend.max_in_flight,
            path,
        }
    }

    fn headers(
        &mut self,
        path: &KeyPath,
        headers: BTreeMap<String, String>,
        key_as: Option<Auth>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut all = Vec::new();
        for (name, value) in headers {
            let path = path.key(&name);
            let Ok(name) = name.parse::<HeaderName>() else {
                self.fault_at_key(&path, "this is not the name of a header", None);
                continue;
            };
            let Ok(mut value) = HeaderValue::from_str(&value) else {
                self.fault(&path, "the value has characters that no header can hold", None);
                continue;
            };
            let by_key = match key_as {
                Some(Auth::Bearer) => name == header::AUTHORIZATION,
                Some(Auth::XApiKey) => name == "x-api-key",
                None => false,
            };
            if OURS.contains(&name) {
                self.fault_at_key(&path, format!("`{name}` is set by the gateway itself"), None);
            } else if by_key {
                self.fault_at_key(&path, format!("`{name}` is already set by `key`"), None);
            }
            value.set_sensitive(is_secret_name(name.as_str()));
            all.push((name, value));
        }
        all
    }

    /// Reports combinations that could not work, or would silently not be secure.
    fn reachable(&mut self, backend: &Backend, tls: &BackendTls, http2: bool, pool: &KeyPath) {
        let at = backend.path.key("url");
        if backend.url.tls && backend.url.is_ip() && tls.verify && tls.server_name.is_none() {
            let help = format!("set `{pool}.tls.server_name` to the name in the certificate, or use the host's name");
            self.fault(&at, "the certificate of an IP address cannot be verified without a name", Some(help));
        }
        if http2 && matches!(backend.url.address, crate::Address::Unix(_)) {
            self.fault(
                &at,
                "HTTP/2 to a Unix socket is not supported",
                Some("put it into a pool without `http2`".into()),
            );
        }
    }

    /// Names become labels of metrics and values of headers.
    fn label(&mut self, path: &KeyPath, name: &str, what: &str) {
        if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            let message = format!("the name of a {what} is 1 to 128 visible ASCII characters");
            self.fault_at_key(path, message, None);
        }
    }
}

pub(super) fn bare(url: BackendUrl) -> written::Backend {
    let headers = BTreeMap::new();
    written::Backend { url, key: None, auth: Auth::Bearer, headers, weight: 1, max_in_flight: None, name: None }
}
