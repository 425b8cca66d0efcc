//! The admin listener of a gateway that runs, as a command reaches it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::Value;
use tidegate::outbound::Fetcher;
use tidegate_config::{Address, Admin, Secret};
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

    fn ask(&self, method: Method, config: Option<&PathBuf>, path: &str, bounds: Bounds) -> Result<Value, Failure> {
        let read = config.map(|config| file::load_quietly(config)).transpose()?;
        let admin = read.map(|(loaded, _)| loaded.config.admin);
        let base = self.admin.clone().unwrap_or_else(|| url(admin.as_ref()));
        // A token is for the listener that the file has it for.
        let of_file = admin.and_then(|admin| admin.token).filter(|_| self.admin.is_none());
        let token = self.token.clone().or(of_file.map(|token: Secret| token.expose().to_owned()));
        let target = format!("{}{path}", base.trim_end_matches('/'));
        let target: Uri = target.parse().map_err(|_| Failure::bad_input(format!("{base} is not a URL")))?;
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.map_err(|_| Failure::bad_input("the token cannot be a header"))?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::could_not(format!("cannot start a runtime: {error}")))?;
        let fetcher = Fetcher::default();
        let answer = runtime.block_on(fetcher.send(method, &target, headers, Bytes::new(), bounds));
        let answer = answer.map_err(|error| Failure::could_not(format!("{base} does not answer: {error}")))?;
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (answer.status.as_u16(), body) {
            (200, Some(body)) => Ok(body),
            (401 | 403, _) => Err(Failure::could_not(format!(
                "{base} wants a token: name its configuration with --config, or set TIDEGATE_ADMIN__TOKEN"
            ))),
            (status, body) => {
                let said = body.as_ref().and_then(|body| body["detail"].as_str()).map(str::to_owned);
                Err(Failure::could_not(said.unwrap_or_else(|| format!("{base} answers {status}"))))
            }
        }
    }
}

/// Where a gateway of this file is spoken to.
fn url(admin: Option<&Admin>) -> String {
    match admin.map(|admin| &admin.listen) {
        // Who listens everywhere listens here.
        Some(Address::Ip(address)) if address.ip().is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        Some(address) => format!("http://{address}"),
        None => "http://127.0.0.1:9090".to_owned(),
    }
}
