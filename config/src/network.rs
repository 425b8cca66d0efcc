//! Networks of clients, as the file names them.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Addresses that belong together: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`, or `unix` for whoever connects over a
/// Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// These addresses. What is an IPv4 address written as IPv6 (`::ffff:10.0.0.0/104`) is an IPv4 network here.
    Ip(IpNet),
    /// Whoever has no address, because it connects over a Unix socket.
    Unix,
}

impl Network {
    /// Reads a network; the error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a network such as 10.0.0.0/8 or 2001:db8::/32, an IP address, or unix";
        if text == "unix" {
            return Ok(Self::Unix);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(address.to_canonical().into()));
        }
        let net = text.parse::<IpNet>().map_err(|_| EXPECTED.to_owned())?;
        if net.addr() != net.network() {
            return Err(format!("{net} is an address in a network: write {} or {}", net.trunc(), net.addr()));
        }
        Ok(Self::Ip(canonical(net)))
    }

    /// Whether it is every address of its kind.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Ip(net) if net.prefix_len() == 0)
    }
}

/// IPv4 addresses in the notation of IPv6 are IPv4 addresses: connections show them that way too.
fn canonical(net: IpNet) -> IpNet {
    match (net, net.addr().to_canonical()) {
        (IpNet::V6(six), IpAddr::V4(address)) if six.prefix_len() >= 96 => {
            Ipv4Net::new(address, six.prefix_len() - 96).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(net) => net.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Network {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// Which clients may call, by their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// Only these networks may call; empty: all. `unix` is whoever has no address because it came over a Unix socket.
    pub allow: Vec<Network>,
    /// These may not call, also where `allow` has them.
    pub deny: Vec<Network>,
}

impl Clients {
    /// Whether everybody may call.
    pub fn is_everybody(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_addresses_and_unix_are_read_and_written_alike() {
        for text in ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0", "unix"] {
            assert_eq!(Network::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Network::parse("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(Network::parse("::1").unwrap().to_string(), "::1/128");
    }

    #[test]
    fn an_ipv4_network_in_the_notation_of_ipv6_is_an_ipv4_network() {
        assert_eq!(Network::parse("::ffff:10.0.0.0/104").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(Network::parse("::ffff:192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
    }

    #[test]
    fn an_address_with_a_prefix_is_refused_with_both_that_it_may_mean() {
        assert!(Network::parse("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8 or 10.0.0.1"));
        for text in ["", "10.0.0.0/33", "10.0.0", "localhost", "Unix", "10.0.0.0 /8"] {
            assert!(Network::parse(text).unwrap_err().contains("expected a network"), "{text}");
        }
    }
}
