//! What is made of a backend as the file, or whoever found it, describes it.

use crate::telemetry::Metrics;
use crate::upstream::Backend;
use crate::upstream::backend::{self, Address, Settings, Tls};
use crate::upstream::health::{Health, HealthSettings};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tidegate_config::{self as config, Fault};
use tidegate_plugins::balancer::Member;

/// What the backends of a pool have in common.
pub struct Recipe {
    pool: config::Pool,
    authority: Option<Arc<[WrappedX509]>>,
    in_flight: Arc<AtomicUsize>,
}

impl Recipe {
    /// For the backends of `pool`, which count their requests in `in_flight` too.
    pub fn new(pool: config::Pool, authority: Option<Arc<[WrappedX509]>>, in_flight: Arc<AtomicUsize>) -> Self {
        Self { pool, authority, in_flight }
    }

    /// The backend that `written` describes: the one of `known` that was described so, or a new one.
    pub fn make(&self, written: &config::Backend, known: &[Arc<Backend>], metrics: &Metrics) -> Arc<Backend> {
        let origin = backend::Origin::new(&self.pool, written);
        if let Some(backend) = known.iter().find(|backend| backend.origin == origin) {
            return backend.clone();
        }
        let health = Health::new(self.health());
        let series = metrics.backend(&self.pool.name, &written.name);
        series.up.set(1);
        let settings = settings(&self.pool, written, self.authority.as_ref());
        let member = Member::new(&self.pool.name, &settings.name, settings.weight);
        Arc::new(Backend::new(settings, member, origin, health, series, self.in_flight.clone()))
    }

    fn health(&self) -> HealthSettings {
        match &self.pool.health {
            Some(health) => HealthSettings {
                every: health.every,
                by: health.by,
                model: health.model.clone(),
                path: health.path.clone(),
                timeout: health.timeout,
                down_after: health.down_after,
                up_after: health.up_after,
                enabled: true,
            },
            None => HealthSettings {
                every: Duration::from_secs(10),
                by: config::ProbeBy::Http,
                model: None,
                path: String::new(),
                timeout: Duration::from_secs(2),
                down_after: u32::MAX,
                up_after: 1,
                enabled: false,
            },
        }
    }
}

/// The pool's own certificate authority.
pub(super) fn authority(pool: &config::Pool, faults: &mut Vec<Fault>) -> Option<Arc<[WrappedX509]>> {
    let path = pool.tls.ca.as_ref()?;
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let mut store = rustls::RootCertStore::empty();
    let wrapped: Vec<_> = certificates
        .unwrap_or_default()
        .into_iter()
        // Pingora's parser panics on what is no certificate: rustls looks first.
        .filter(|certificate| store.add(certificate.clone()).is_ok())
        .map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
        .collect();
    if wrapped.is_empty() {
        let message = format!("{} has no usable certificate", path.display());
        faults.push(Fault::error(pool.path.key("tls").key("ca"), message));
        return None;
    }
    Some(wrapped.into())
}

fn settings(pool: &config::Pool, written: &config::Backend, authority: Option<&Arc<[WrappedX509]>>) -> Settings {
    let address = match &written.url.address {
        config::Address::Ip(address) => Address::Tcp(address.ip().to_string(), address.port()),
        config::Address::Name { host, port } => Address::Tcp(host.clone(), *port),
        config::Address::Unix(path) => Address::Unix(path.clone()),
    };
    let server_name = pool.tls.server_name.clone().unwrap_or_else(|| match (&pool.discover, &address) {
        // An address that a name stood for has to show the name's certificate.
        (Some(config::Discover { from: config::Discovered::Dns(named), .. }), _) => match &named.url.address {
            config::Address::Name { host, .. } => host.clone(),
            other => other.to_string(),
        },
        // One that a service has shows its own.
        (Some(config::Discover { from: config::Discovered::Srv(_), .. }), _) => {
            let authority = &written.url.authority;
            authority.rsplit_once(':').map_or(authority.clone(), |(host, _)| host.to_owned())
        }
        (_, Address::Tcp(host, _)) => host.clone(),
        (_, Address::Unix(_)) => "localhost".to_owned(),
    });
    let tls = written.url.tls.then(|| Tls { server_name, ca: authority.cloned(), verify: pool.tls.verify });
    let mut headers = HeaderMap::new();
    let secret = written.key.as_ref().map(|key| -> Arc<str> { key.expose().into() });
    if let Some(secret) = &secret {
        let (name, value) = match written.auth {
            config::Auth::Bearer => (http::header::AUTHORIZATION, backend::bearer(secret)),
            config::Auth::XApiKey => (HeaderName::from_static("x-api-key"), HeaderValue::from_str(secret)),
        };
        if let Ok(mut value) = value {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers.extend(written.headers.iter().cloned());
    Settings {
        name: written.name.as_str().into(),
        address,
        tls,
        http2: pool.http2,
        authority: written.url.authority.as_str().into(),
        base_path: written.url.base_path.as_str().into(),
        headers,
        secret,
        weight: written.weight,
        max_in_flight: written.max_in_flight,
    }
}
