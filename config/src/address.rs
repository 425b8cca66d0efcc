//! Addresses to listen on and backends to talk to, read from text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A name to be looked up, and a port.
    Name {
        /// The host's name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:8080`, `[::1]:8080`, `host:8080` or `unix:/run/x.sock`; the error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected IP:PORT, HOST:PORT or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.trim_start_matches("//") {
                "" => Err("the path of the Unix socket is missing after unix:".to_owned()),
                _ if path.len() > 100 => Err("the path of a Unix socket cannot be longer than 100 bytes".to_owned()),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        if text.contains("://") {
            return Err(format!("this is a URL; {EXPECTED}"));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Ip(address));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("the port is missing; {EXPECTED}"));
        }
        match text.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_err() => {
                Err(format!("the port must be a number from 0 to 65535; {EXPECTED}"))
            }
            Some(("" | "*", port)) => {
                Err(format!("the host is missing: write 0.0.0.0:{port} to listen on every interface"))
            }
            Some((host, port)) if is_host_name(host) => {
                Ok(Self::Name { host: host.to_owned(), port: port.parse().unwrap_or_default() })
            }
            Some(_) => Err(EXPECTED.to_owned()),
            None => Err(format!("the port is missing; {EXPECTED}")),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Name { host, .. } => host.eq_ignore_ascii_case("localhost") || host.ends_with(".localhost"),
            Self::Unix(_) => true,
        }
    }

    /// Whether it lies on this machine or, as far as its text tells, in a private network: private, link-local and
    /// shared address ranges, names without a dot (containers, services of a cluster) and `.local`/`.internal` names.
    pub fn is_private(&self) -> bool {
        self.is_loopback()
            || match self {
                Self::Ip(address) => is_private_ip(address.ip().to_canonical()),
                Self::Name { host, .. } => {
                    let host = host.to_ascii_lowercase();
                    !host.contains('.')
                        || [".local", ".internal", ".svc", ".lan", ".home.arpa"].iter().any(|end| host.ends_with(end))
                }
                Self::Unix(_) => true,
            }
    }
}

fn is_private_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            ip.is_private() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether `host` can be a host's name: labels of letters, digits, `-` and `_`.
pub(crate) fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Address {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}
