//! How a pool takes care of its backends: who picks, who is asked, who is left alone, and where they come from.

use std::net::{IpAddr, SocketAddr};

use super::Resolver;
use super::pools::bare;
use crate::key_path::KeyPath;
use crate::meant::{Backend, BackendUrl, Balance, Discover, Discovered};
use crate::settings::{Breaker, Health, ProbeBy, Signals};
use crate::written::{self, OneFilter, Switch, TextOr};

/// The port of name servers.
const DNS: u16 = 53;

impl Resolver<'_> {
    pub(super) fn balance(&mut self, path: &KeyPath, balance: TextOr<OneFilter>) -> Balance {
        let help = "write the name alone, or `balance: { NAME: { setting: value } }`";
        let named = self.named("balancer", path, balance, help);
        let (name, settings, path) = named.unwrap_or_else(|| (String::new(), super::empty(), path.clone()));
        Balance { name, settings, path }
    }

    pub(super) fn breaker(&mut self, path: &KeyPath, breaker: Switch<Breaker>) -> Option<Breaker> {
        let breaker = breaker.on()?;
        let help = || Some("write `breaker: off` for none".to_owned());
        for (name, part) in [("ratio", breaker.ratio), ("panic_below", breaker.panic_below)] {
            if !(0.0..=1.0).contains(&part) {
                self.fault(&path.key(name), format!("`{name}` is a part of 1, such as 0.5"), None);
            }
        }
        for (name, zero) in [
            ("window", breaker.window.is_zero()),
            ("pause", breaker.pause.is_zero()),
            ("requests", breaker.requests == 0),
        ] {
            if zero {
                self.fault(&path.key(name), format!("`{name}` cannot be 0"), help());
            }
        }
        if breaker.consecutive == 0 && breaker.ratio == 0.0 {
            self.fault(path, "with `consecutive: 0` and `ratio: 0` no backend would ever be left alone", help());
        }
        Some(breaker)
    }

    pub(super) fn health(&mut self, path: &KeyPath, health: Switch<Health>) -> Option<Health> {
        let health = health.on()?;
        for (name, zero) in [
            ("every", health.every.is_zero()),
            ("timeout", health.timeout.is_zero()),
            ("down_after", health.down_after == 0),
            ("up_after", health.up_after == 0),
        ] {
            if zero {
                self.fault(
                    &path.key(name),
                    format!("`{name}` cannot be 0"),
                    Some("write `health: off` for no probes".into()),
                );
            }
        }
        let model = path.key("model");
        match (health.by, &health.model) {
            (ProbeBy::Generate, None) => {
                self.fault(&path.key("by"), "`generate` needs a `model` that it can ask", None);
            }
            (ProbeBy::Http | ProbeBy::Tcp, Some(_)) => {
                self.fault(&model, "only `by: generate` asks a model", Some("add `by: generate`".to_owned()));
            }
            _ => {}
        }
        if !health.path.starts_with('/') || health.path.parse::<http::uri::PathAndQuery>().is_err() {
            self.fault(&path.key("path"), "this is not a path", Some("a path begins with `/`".to_owned()));
        }
        Some(health)
    }

    pub(super) fn signals(&mut self, path: &KeyPath, signals: Switch<Signals>) -> Option<Signals> {
        let signals = signals.on()?;
        if signals.every.is_zero() {
            self.fault(&path.key("every"), "`every` cannot be 0", Some("write `signals: off` for none".to_owned()));
        }
        if signals.believe < signals.every {
            self.fault(&path.key("believe"), "`believe` is less than `every`: nothing would be known in between", None);
        }
        if !signals.path.starts_with('/') || signals.path.parse::<http::uri::PathAndQuery>().is_err() {
            self.fault(&path.key("path"), "this is not a path", Some("a path begins with `/`".to_owned()));
        }
        Some(signals)
    }

    pub(super) fn discover(&mut self, path: &KeyPath, discover: written::Discover) -> Option<Discover> {
        if discover.every.is_zero() {
            self.fault(&path.key("every"), "`every` cannot be 0", None);
        }
        let named = discover.file.is_none();
        let from = match (discover.dns, discover.srv, discover.file) {
            (Some(dns), None, None) => Discovered::Dns(self.named_host(&path.key("dns"), dns)?),
            (None, Some(srv), None) => Discovered::Srv(self.service(&path.key("srv"), srv)?),
            // Whoever builds the pool reads it, and says what is wrong with it.
            (None, None, Some(file)) => Discovered::File(self.directory.join(file)),
            _ => {
                self.fault(path, "backends are found by `dns`, by `srv` or in a `file`: exactly one of them", None);
                return None;
            }
        };
        let server = discover.server.and_then(|server| self.name_server(&path.key("server"), &server, named));
        Some(Discover { from, server, every: discover.every })
    }

    /// Who is asked for names.
    fn name_server(&mut self, path: &KeyPath, written: &str, named: bool) -> Option<SocketAddr> {
        if !named {
            self.fault(path, "nobody is asked for a file", None);
        }
        let ip = || written.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS));
        let server = written.parse().ok().or_else(ip).filter(|server| server.port() > 0);
        if server.is_none() {
            self.fault(path, "this is no address; expected `ADDRESS` or `ADDRESS:PORT`", None);
        }
        server
    }

    /// A backend for each SRV record of a name.
    fn service(&mut self, path: &KeyPath, srv: TextOr<written::Backend>) -> Option<Box<Backend>> {
        let backend = self.named_host(path, srv)?;
        let authority = &backend.url.authority;
        if matches!(&backend.url.address, crate::Address::Name { host, .. } if host != authority) {
            self.fault(path, "SRV records have ports of their own: write the URL without one", None);
        }
        if backend.weight != 1 {
            self.fault(&path.key("weight"), "SRV records have weights of their own", None);
        }
        Some(backend)
    }

    /// A backend for each address of a name.
    fn named_host(&mut self, path: &KeyPath, dns: TextOr<written::Backend>) -> Option<Box<Backend>> {
        let written = match dns {
            TextOr::Table(backend) => backend,
            TextOr::Text(url) => match BackendUrl::parse(&url) {
                Ok(url) => bare(url),
                Err(message) => {
                    self.fault(path, message, None);
                    return None;
                }
            },
        };
        if !matches!(written.url.address, crate::Address::Name { .. }) {
            let help = "list addresses under `backends`".to_owned();
            self.fault(path, "there is no name to ask for the addresses of", Some(help));
        }
        if written.name.as_ref().is_some_and(|name| *name != written.url.address.to_string()) {
            self.fault(&path.key("name"), "each address has its own name, its address and port", None);
        }
        Some(Box::new(self.backend(path.clone(), written)))
    }
}
