//! What names stand for: addresses (A, AAAA) and services (SRV), and for how long that is good.
//!
//! Asked are the servers of `/etc/resolv.conf`, after `/etc/hosts`, or the one that the file names: Consul's, say, which
//! nobody else knows of.

use futures_util::{StreamExt, TryStreamExt, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tidegate_config::{Address, Backend, BackendUrl};
use tokio::sync::OnceCell;

/// How long one server may take to answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Names that are asked for at once.
const AT_ONCE: usize = 16;

/// Who is asked.
pub(super) struct Names {
    server: Option<SocketAddr>,
    resolver: OnceCell<TokioResolver>,
}

/// What was found, and for how long it is good.
pub(super) struct Found<T> {
    /// In an order that is always the same.
    pub all: Vec<T>,
    /// As the servers say.
    pub ttl: Duration,
}

/// What an SRV record tells of.
pub(super) struct Served {
    /// The lower, the sooner it is asked.
    pub priority: u16,
    /// It.
    pub backend: Backend,
}

impl Names {
    /// Asks `server`, or whom the system asks.
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        Self { server, resolver: OnceCell::new() }
    }

    /// A backend for each address of a name.
    ///
    /// # Errors
    /// That nobody says what it stands for.
    pub(super) async fn addresses(&self, named: &Backend) -> Result<Found<Backend>, String> {
        let Address::Name { host, port } = &named.url.address else { return Err("this is no name".to_owned()) };
        let (ips, ttl) = self.ips(name(host)?).await?;
        let at = |ip: &IpAddr| {
            let address = SocketAddr::new(*ip, *port);
            let url = BackendUrl { address: Address::Ip(address), ..named.url.clone() };
            Backend { name: address.to_string(), url, ..named.clone() }
        };
        Ok(Found { all: ips.iter().map(at).collect(), ttl })
    }

    /// A backend for each address of each server that the SRV records of a name tell of.
    ///
    /// # Errors
    /// That nobody says what it stands for, or one of its servers.
    pub(super) async fn service(&self, named: &Backend) -> Result<Found<Served>, String> {
        let Address::Name { host, .. } = &named.url.address else { return Err("this is no name".to_owned()) };
        let lookup = self.resolver().await?.lookup(name(host)?, RecordType::SRV).await.map_err(told)?;
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            // A dot says that there is no such service.
            RData::SRV(srv) if !srv.target.is_root() => Some((srv, record.ttl)),
            _ => None,
        });
        let more = lookup.additionals();
        let looks: Vec<_> = records.map(|(srv, ttl)| self.servers(named, srv, ttl, more)).collect();
        let found: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        let ttl = found.iter().map(|(_, ttl)| *ttl).min().unwrap_or_default();
        let mut all: Vec<Served> = found.into_iter().flat_map(|(served, _)| served).collect();
        all.sort_by(|one, other| (&one.backend.name, one.priority).cmp(&(&other.backend.name, other.priority)));
        all.dedup_by(|one, other| one.backend.name == other.backend.name);
        Ok(Found { all, ttl })
    }

    /// The servers that one record tells of, and for how long that is good.
    async fn servers(
        &self,
        named: &Backend,
        srv: &SRV,
        ttl: u32,
        more: &[Record],
    ) -> Result<(Vec<Served>, Duration), String> {
        let (ips, ips_ttl) = match told_of(more, &srv.target) {
            Some(known) => known,
            None => self.ips(srv.target.clone()).await?,
        };
        Ok((ips.into_iter().map(|ip| served(named, srv, ip)).collect(), ips_ttl.min(seconds(ttl))))
    }

    async fn ips(&self, name: Name) -> Result<(Vec<IpAddr>, Duration), String> {
        let lookup = self.resolver().await?.lookup_ip(name).await.map_err(told)?;
        let ttl = lookup.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or_default();
        let mut ips: Vec<IpAddr> = lookup.iter().collect();
        ips.sort_unstable();
        ips.dedup();
        Ok((ips, seconds(ttl)))
    }

    async fn resolver(&self) -> Result<&TokioResolver, String> {
        self.resolver.get_or_try_init(|| async { build(self.server) }).await
    }
}

fn build(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        Some(server) => {
            let mut ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            ways.iter_mut().for_each(|way| way.port = server.port());
            let servers = vec![NameServerConfig::new(server.ip(), true, ways)];
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio().map_err(told)?,
    };
    let options = builder.options_mut();
    // We ask again when an answer is not good any more, and then we mean it.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    (options.timeout, options.attempts) = (PATIENCE, ATTEMPTS);
    builder.build().map_err(told)
}

fn name(host: &str) -> Result<Name, String> {
    Name::from_ascii(host).map_err(told)
}

fn told(error: impl Display) -> String {
    error.to_string()
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

/// The addresses of `target`, if the server has told them along with the records.
fn told_of(more: &[Record], target: &Name) -> Option<(Vec<IpAddr>, Duration)> {
    let ip = |record: &Record| match record.data {
        RData::A(a) if record.name == *target => Some((IpAddr::V4(a.0), record.ttl)),
        RData::AAAA(aaaa) if record.name == *target => Some((IpAddr::V6(aaaa.0), record.ttl)),
        _ => None,
    };
    let (mut ips, ttls): (Vec<_>, Vec<_>) = more.iter().filter_map(ip).unzip();
    ips.sort_unstable();
    Some((ips, seconds(ttls.into_iter().min()?)))
}

/// The server that a record tells of, at one of its addresses. It is spoken to by its own name.
fn served(named: &Backend, srv: &SRV, ip: IpAddr) -> Served {
    let address = SocketAddr::new(ip, srv.port);
    let host = srv.target.to_ascii();
    let authority = format!("{}:{}", host.trim_end_matches('.'), srv.port);
    let url = BackendUrl { address: Address::Ip(address), authority, ..named.url.clone() };
    // A weight of 0 is a small chance, and all by 0 are equal ones.
    let weight = u32::from(srv.weight).max(1);
    Served { priority: srv.priority, backend: Backend { name: address.to_string(), url, weight, ..named.clone() } }
}
