//! The admin listener of a gateway that runs, as a command reaches it.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Uri};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tidegate::admin::authorities;
use tidegate::outbound::Fetcher;
use tidegate_config::{Address, Admin, AdminTls, Secret};
use tidegate_plugins::outbound::Bounds;

use super::{Failure, file};

/// What is asked is made while one waits.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), size: 64 << 20 };

/// Which gateway.
#[derive(Args)]
pub(super) struct Listener {
    /// Its admin listener [default: where --config has it, else http://127.0.0.1:9090]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The token of its admin listener [default: that of --config]
    #[arg(long, value_name = "TOKEN", env = "TIDEGATE_ADMIN__TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Who has signed the certificate that it shows, in PEM [default: as the system says; with --config also those in the
    /// files of its `admin.tls`]
    #[arg(long, value_name = "FILE")]
    admin_ca: Option<PathBuf>,
    /// The certificate to show it, in PEM: in the place of a token where it has a `client_ca`
    #[arg(long, value_name = "FILE", requires = "admin_key")]
    admin_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "admin_cert")]
    admin_key: Option<PathBuf>,
}

impl Listener {
    /// What is at this path. `config` says where the listener is, and its token, if the command line does not.
    pub(super) fn get(&self, config: Option<&PathBuf>, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, config, path, BOUNDS)
    }

    /// The same for what is to be done, which may take its time.
    pub(super) fn post(&self, config: Option<&PathBuf>, path: &str, time: Duration) -> Result<Value, Failure> {
        self.ask(Method::POST, config, path, Bounds { time, ..BOUNDS })
    }

    /// One that speaks TLS to it, with a certificate where there is one to show.
    fn fetcher(&self, tls: Option<&AdminTls>) -> Result<Fetcher, Failure> {
        let builder = ClientConfig::builder().with_root_certificates(trusted(self.admin_ca.as_ref(), tls)?);
        let (Some(cert), Some(key)) = (&self.admin_cert, &self.admin_key) else {
            return Ok(Fetcher::with(builder.with_no_client_auth()));
        };
        let wrong = |path: &PathBuf, error: &dyn Display| Failure::bad_input(format!("{}: {error}", path.display()));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
        let chain = chain.map_err(|error| wrong(cert, &error))?;
        let read = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
        let shows = builder.with_client_auth_cert(chain, read);
        shows.map(Fetcher::with).map_err(|error| wrong(cert, &error))
    }

    fn ask(&self, method: Method, config: Option<&PathBuf>, path: &str, bounds: Bounds) -> Result<Value, Failure> {
        let read = config.map(|config| file::load_quietly(config)).transpose()?;
        let admin = read.map(|(loaded, _)| loaded.config.admin);
        let base = self.admin.clone().unwrap_or_else(|| url(admin.as_ref()));
        // A token is for the listener that the file has it for.
        let of_file = admin.filter(|_| self.admin.is_none());
        let tls = of_file.as_ref().and_then(|admin| admin.tls.clone());
        let of_file = of_file.and_then(|admin| admin.token);
        let token = self.token.clone().or(of_file.map(|token: Secret| token.expose().to_owned()));
        let target = format!("{}{path}", base.trim_end_matches('/'));
        let target: Uri = target.parse().map_err(|_| Failure::bad_input(format!("{base} is not a URL")))?;
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let given = token.is_some();
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.map_err(|_| Failure::bad_input("the token cannot be a header"))?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::could_not(format!("cannot start a runtime: {error}")))?;
        let fetcher =
            if target.scheme_str() == Some("https") { self.fetcher(tls.as_ref())? } else { Fetcher::default() };
        let answer = runtime.block_on(fetcher.send(method, &target, headers, Bytes::new(), bounds));
        let answer = answer.map_err(|error| Failure::could_not(format!("{base} does not answer: {error}")))?;
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (answer.status.as_u16(), body) {
            (200, Some(body)) => Ok(body),
            (401, _) if given => Err(Failure::could_not(format!("{base} does not take this token"))),
            (401 | 403, _) => Err(Failure::could_not(format!(
                "{base} wants a token: name its configuration with --config, or set TIDEGATE_ADMIN__TOKEN; or a certificate: \
                 --admin-cert and --admin-key"
            ))),
            (status, body) => {
                let said = body.as_ref().and_then(|body| body["detail"].as_str()).map(str::to_owned);
                Err(Failure::could_not(said.unwrap_or_else(|| format!("{base} answers {status}"))))
            }
        }
    }
}

/// What the system trusts, these files, and those that a file of the same machine names.
fn trusted(own: Option<&PathBuf>, tls: Option<&AdminTls>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let of_system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(of_system.map_err(|error| Failure::could_not(error.to_string()))?);
    let of_file = tls.iter().flat_map(|tls| [Some(&tls.shown.cert), tls.client_ca.as_ref()]).flatten();
    for path in own.into_iter().chain(of_file) {
        roots.roots.append(&mut authorities(path).map_err(Failure::bad_input)?.roots);
    }
    Ok(roots)
}

/// Where a gateway of this file is spoken to.
fn url(admin: Option<&Admin>) -> String {
    let scheme = if admin.is_some_and(|admin| admin.tls.is_some()) { "https" } else { "http" };
    match admin.map(|admin| &admin.listen) {
        // Who listens everywhere listens here.
        Some(Address::Ip(address)) if address.ip().is_unspecified() => {
            format!("{scheme}://127.0.0.1:{}", address.port())
        }
        Some(address) => format!("{scheme}://{address}"),
        None => "http://127.0.0.1:9090".to_owned(),
    }
}
