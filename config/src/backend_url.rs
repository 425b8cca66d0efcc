//! A backend's URL, taken apart once.

use std::net::{IpAddr, SocketAddr};

use http::Uri;
use http::uri::Authority;
use serde::{Deserialize, Deserializer, de};

use crate::address::{Address, is_host_name};
use crate::meant::BackendUrl;

impl BackendUrl {
    /// Reads `http://host:port`, `https://host/base` or `unix:/path`; the error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected http://HOST:PORT, https://HOST or unix:PATH";
        if text.starts_with("unix:") {
            let address = Address::parse(text)?;
            return Ok(Self { tls: false, address, authority: "localhost".to_owned(), base_path: String::new() });
        }
        let tls = match text.split_once("://") {
            Some(("http", _)) => false,
            Some(("https", _)) => true,
            Some(_) => return Err(format!("this kind of URL cannot be a backend; {EXPECTED}")),
            None => return Err(format!("the URL does not say http:// or https://; {EXPECTED}")),
        };
        if text.contains(['?', '#']) {
            return Err("a backend's URL ends with its path: no `?` or `#`".to_owned());
        }
        let uri: Uri = text.parse().map_err(|_| format!("not a URL; {EXPECTED}"))?;
        let authority = uri.authority().ok_or_else(|| format!("the URL has no host; {EXPECTED}"))?;
        if authority.as_str().contains('@') {
            return Err("credentials do not belong into the URL: put them into `key` or `headers`".to_owned());
        }
        let port = port(authority, tls)?;
        Ok(Self {
            tls,
            address: host_address(authority.host(), port)?,
            authority: authority.as_str().to_owned(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether the host is an IP address: then a certificate has no name to be checked against.
    pub fn is_ip(&self) -> bool {
        matches!(self.address, Address::Ip(_))
    }
}

/// The port of the URL, or that of its scheme.
fn port(authority: &Authority, tls: bool) -> Result<u16, String> {
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") if tls => Ok(443),
        Some("") => Ok(80),
        port => port
            .and_then(|port| port.strip_prefix(':')?.parse().ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| "the port of the URL must be a number from 1 to 65535".to_owned()),
    }
}

fn host_address(host: &str, port: u16) -> Result<Address, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Address::Ip(SocketAddr::new(ip, port)));
    }
    if !is_host_name(host) {
        return Err("the host of the URL is neither a name nor an IP address".to_owned());
    }
    Ok(Address::Name { host: host.to_owned(), port })
}

impl<'de> Deserialize<'de> for BackendUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for BackendUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BackendUrl".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}
