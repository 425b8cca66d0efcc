//! Networks that clients or proxies are in, for looking up one address among many of them.

use ipnet::IpNet;
use std::net::IpAddr;
use tidegate_config::{Clients, Network};

/// Some networks: sorted and without overlap, so that a lookup is a binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    unix: bool,
}

impl Networks {
    /// These networks.
    pub fn new(networks: &[Network]) -> Self {
        let mut all = Self { unix: networks.contains(&Network::Unix), ..Self::default() };
        let nets: Vec<IpNet> = networks
            .iter()
            .filter_map(|network| match network {
                Network::Ip(net) => Some(*net),
                Network::Unix => None,
            })
            .collect();
        for net in IpNet::aggregate(&nets) {
            match net {
                IpNet::V4(net) => all.v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => all.v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        all.v4.sort_unstable();
        all.v6.sort_unstable();
        all
    }

    /// Whether an address is in one of them; none is the address of whoever connects over a Unix socket.
    pub fn contain(&self, address: Option<IpAddr>) -> bool {
        match address.map(|address| address.to_canonical()) {
            None => self.unix,
            Some(IpAddr::V4(address)) => is_within(&self.v4, address.into()),
            Some(IpAddr::V6(address)) => is_within(&self.v6, address.into()),
        }
    }

    fn are_none(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && !self.unix
    }
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

/// Which clients may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    allow: Networks,
    deny: Networks,
}

impl Lists {
    /// As the file says.
    pub fn new(clients: &Clients) -> Self {
        Self { allow: Networks::new(&clients.allow), deny: Networks::new(&clients.deny) }
    }

    /// Whether a client at this address may call.
    pub fn let_in(&self, client: Option<IpAddr>) -> bool {
        (self.allow.are_none() || self.allow.contain(client)) && !self.deny.contain(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Networks {
        let parsed: Vec<_> = texts.iter().map(|text| Network::parse(text).expect("a network")).collect();
        Networks::new(&parsed)
    }

    fn at(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_is_found_in_its_network_and_in_no_other() {
        let some = networks(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "unix"]);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8::1", "::ffff:10.1.2.3"] {
            assert!(some.contain(at(inside)), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::10.1.2.3", "::1"] {
            assert!(!some.contain(at(outside)), "{outside}");
        }
        assert!(some.contain(None) && !networks(&["0.0.0.0/0", "::/0"]).contain(None));
    }

    #[test]
    fn deny_goes_before_allow_and_an_empty_allow_is_everybody() {
        let lists = |allow: &[&str], deny: &[&str]| Lists { allow: networks(allow), deny: networks(deny) };
        assert!(lists(&[], &[]).let_in(at("192.0.2.1")) && lists(&[], &[]).let_in(None));
        assert!(!lists(&[], &["192.0.2.0/24"]).let_in(at("192.0.2.1")));
        let both = lists(&["192.0.2.0/24"], &["192.0.2.66"]);
        assert!(both.let_in(at("192.0.2.1")) && !both.let_in(at("192.0.2.66")) && !both.let_in(at("192.0.3.1")));
        assert!(!both.let_in(None) && lists(&["unix"], &[]).let_in(None));
    }

    proptest! {
        #[test]
        fn a_lookup_says_what_asking_each_network_would_say(
            nets in prop::collection::vec((any::<[u8; 4]>(), 0_u8..=32), 0..20),
            address in any::<[u8; 4]>(),
        ) {
            let nets: Vec<IpNet> =
                nets.into_iter().map(|(net, prefix)| IpNet::new(net.into(), prefix).expect("a prefix").trunc()).collect();
            let each = nets.iter().any(|net| net.contains(&IpAddr::from(address)));
            let networks: Vec<_> = nets.into_iter().map(Network::Ip).collect();
            prop_assert_eq!(Networks::new(&networks).contain(Some(address.into())), each);
        }
    }
}
