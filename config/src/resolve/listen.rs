//! The listeners, and which browser apps may call.

use http::{HeaderName, Uri};
use std::path::Path;

use super::Resolver;
use crate::address::Address;
use crate::key_path::KeyPath;
use crate::meant::{Admin, AdminTls, AllowedHeaders, Config, Cors, Listen, ListenTls, Origins};
use crate::network::Network;
use crate::written::{self, Listeners, TextOr};

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, listeners: Listeners) -> Vec<Listen> {
        let path = KeyPath::root().key("listen");
        let mut paths = self.items(&path);
        if paths.is_empty() {
            paths = vec![path.clone()];
        }
        let mut all = Vec::new();
        for (path, written) in paths.into_iter().zip(listeners.0) {
            let listen = match written {
                TextOr::Table(listen) => listen,
                TextOr::Text(text) => match Address::parse(&text) {
                    Ok(address) => written::Listen::plain(address),
                    Err(message) => {
                        self.fault(&path, message, None);
                        continue;
                    }
                },
            };
            let tls = listen.tls.map(|tls| self.certificate(&path.key("tls"), &tls.cert, &tls.key));
            let (proxy_protocol, clients) = (listen.proxy_protocol, listen.clients);
            all.push(Listen { address: self.rooted(listen.address), tls, proxy_protocol, clients, path });
        }
        if all.is_empty() && self.faults.iter().all(|fault| !fault.path.is_within(&path)) && !self.tree.has_gone(&path)
        {
            self.fault(&path, "`listen` is an empty list: nobody could connect", None);
        }
        all
    }

    fn certificate(&mut self, path: &KeyPath, cert: &Path, key: &Path) -> ListenTls {
        ListenTls {
            cert: self.readable(&path.key("cert"), cert, "certificate"),
            key: self.readable(&path.key("key"), key, "private key"),
        }
    }

    /// Reports listeners that expect a proxy to introduce every connection where no proxy is trusted to.
    pub(super) fn unreachable_listeners(&mut self, config: &Config) {
        let trusts = |kind: fn(&Network) -> bool| config.trusted_proxies.iter().any(kind);
        let (by_ip, by_unix) = (trusts(|net| matches!(net, Network::Ip(_))), trusts(|net| *net == Network::Unix));
        for listen in config.listen.iter().filter(|listen| listen.proxy_protocol) {
            let (trusted, missing) = match listen.address {
                Address::Unix(_) => (by_unix, "`unix`"),
                _ => (by_ip, "the proxy's address"),
            };
            if !trusted && !self.tree.has_gone(&KeyPath::root().key("trusted_proxies")) {
                let message = "only trusted proxies may connect here, and none is trusted: nobody could";
                let help = format!("add {missing} to `trusted_proxies`");
                self.fault(&listen.path.key("proxy_protocol"), message, Some(help));
            }
        }
    }

    pub(super) fn admin(&mut self, admin: written::Admin) -> Admin {
        let path = KeyPath::root().key("admin");
        let by_certificate = admin.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let knows_callers = admin.token.is_some() || by_certificate;
        if !knows_callers && !admin.listen.is_loopback() && !self.tree.has_gone(&path) {
            let help = "set `admin.token` or `admin.tls.client_ca`, or listen on 127.0.0.1".to_owned();
            self.fault(&path.key("listen"), "the admin listener is open to others without a token", Some(help));
        }
        if matches!(admin.listen, Address::Unix(_)) {
            let help = "probes and scrapers come over TCP: 127.0.0.1:9090".to_owned();
            self.fault(&path.key("listen"), "the admin listener cannot be a Unix socket", Some(help));
        }
        if admin.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            self.fault(&path.key("token"), "the token is empty", None);
        }
        let tls = admin.tls.map(|tls| {
            let path = path.key("tls");
            let shown = self.certificate(&path, &tls.cert, &tls.key);
            let authorities = "certificate authority";
            AdminTls {
                shown,
                client_ca: tls.client_ca.map(|ca| self.readable(&path.key("client_ca"), &ca, authorities)),
            }
        });
        Admin { listen: self.rooted(admin.listen), token: admin.token, tls }
    }

    /// Reports addresses that are given twice; port 0 means another port each time.
    pub(super) fn same_address(&mut self, config: &Config) {
        let admin = (KeyPath::root().key("admin").key("listen"), &config.admin.listen);
        let all: Vec<(KeyPath, &Address)> =
            config.listen.iter().map(|listen| (listen.path.clone(), &listen.address)).chain([admin]).collect();
        for (index, (path, address)) in all.iter().enumerate() {
            let any_port = matches!(address, Address::Ip(ip) if ip.port() == 0);
            let first = all[..index].iter().find(|(_, other)| other == address);
            if let Some((first, _)) = first.filter(|_| !any_port) {
                // The admin listener may have its address from the defaults, and no line in the file.
                let (here, there) = if self.tree.find(path).is_some() { (path, first) } else { (first, path) };
                self.fault(here, format!("{address} is already listened on"), Some(format!("see `{there}`")));
            }
        }
    }

    pub(super) fn cors(&mut self, cors: written::Cors) -> Option<Cors> {
        let path = KeyPath::root().key("cors");
        let faults = self.faults.len();
        if cors.origins.is_empty() && !self.tree.has_gone(&path) {
            self.fault(&path.key("origins"), "no origins: leave `cors` out to allow none", None);
        }
        let origins = match cors.origins.iter().any(|origin| origin == "*") {
            true => Origins::Any,
            false => {
                for (path, origin) in self.items(&path.key("origins")).iter().zip(&cors.origins) {
                    if !is_origin(origin) {
                        let help =
                            "write it as browsers do: `https://app.example.com`, with nothing behind the host and port";
                        self.fault(path, "this is not an origin", Some(help.to_owned()));
                    }
                }
                Origins::These(cors.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect())
            }
        };
        let mut names = Vec::new();
        for (path, name) in self.items(&path.key("headers")).iter().zip(&cors.headers) {
            match name.parse::<HeaderName>() {
                Ok(name) => names.push(name),
                Err(_) => self.fault(path, "this is not the name of a header", None),
            }
        }
        let asked = cors.headers.iter().any(|name| name == "*");
        let headers = if asked { AllowedHeaders::Asked } else { AllowedHeaders::These(names) };
        (faults == self.faults.len()).then_some(Cors { origins, headers, max_age: cors.max_age })
    }
}

fn is_origin(origin: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return origin == "null" };
    // A browser leaves the scheme's own port out.
    let own_port =
        matches!(scheme, "https" if rest.ends_with(":443")) || matches!(scheme, "http" if rest.ends_with(":80"));
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    is_scheme
        && !own_port
        && !rest.is_empty()
        && !rest.contains(['/', '?', '#', '@', '*'])
        && format!("http://{rest}").parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}
