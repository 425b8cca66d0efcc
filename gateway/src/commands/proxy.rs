//! `tidegate proxy --to URL...`: the gateway in front of servers that run already, without a file.

use std::collections::HashSet;

use clap::Args;
use tidegate_config::Address;

use super::banner::{APPS, Banner, OPERATORS, free, free_or_near};
use super::discover::ask_all;
use super::file::{count, load_text};
use super::keys::Key;
use super::say::{Paint, complain, say};
use super::starter::{Discovered, Starter, models};
use super::{Failure, run};

/// Put the gateway in front of model servers, without a file.
///
/// Asks each server for its models. Clients need a key if other machines can connect, or if you say --key.
#[derive(Args)]
pub(super) struct Proxy {
    /// The model servers: http://HOST:PORT, https://HOST or unix:PATH
    #[arg(long, required = true, num_args = 1.., value_name = "URL")]
    pub(super) to: Vec<String>,
    /// Where apps connect [default: 127.0.0.1:8080, or any port that is free]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Demand this key of clients; without KEY one is made and printed
    #[arg(long, value_name = "KEY", num_args = 0..=1)]
    key: Option<Option<String>>,
    /// The key the servers want
    #[arg(long, value_name = "KEY", env = "BACKEND_KEY", hide_env_values = true)]
    backend_key: Option<String>,
}

impl Proxy {
    pub(super) fn run(self) -> Result<(), Failure> {
        let backends = discover(&self.to, self.backend_key.as_deref())?;
        let (listen, exposed) = self.listen()?;
        let key = match &self.key {
            Some(Some(key)) => Some(Key::brought(key)),
            None if !exposed => None,
            _ => Some(Key::generate()?),
        };
        let backend_key = self.backend_key.as_deref().map(literal);
        let starter = Starter {
            origin: "What `tidegate proxy` runs.",
            listen: &listen,
            admin: &free_or_near(OPERATORS)?,
            backend_key: backend_key.as_deref(),
            client_key: key.as_ref().map(|key| ("proxy", key.hash.as_str())),
            aliases: &[],
        };
        let config = load_text(&starter.yaml(&backends), "proxy")?.config;
        let models: Vec<&str> = models(&backends);
        let banner = Banner {
            opening: format!("Tidegate is starting, in front of {}.", count(backends.len(), "server")),
            config: &config,
            key: key.as_ref().map(|key| key.plain.as_str()),
            models: models.iter().map(|model| if *model == "*" { "any other (*)" } else { model }.to_owned()).collect(),
            example: models.iter().find(|model| **model != "*").unwrap_or(&"MODEL"),
        };
        say(&banner.text(Paint::on_stdout()));
        run::start(config)
    }

    /// The address, and whether other machines can connect to it.
    fn listen(&self) -> Result<(String, bool), Failure> {
        let Some(wanted) = &self.listen else { return Ok((free_or_near(APPS)?, false)) };
        let address =
            Address::parse(wanted).map_err(|error| Failure::bad_input(format!("--listen {wanted}: {error}")))?;
        match address {
            Address::Unix(_) => Ok((wanted.clone(), false)),
            _ => Ok((free(wanted, "--listen")?, !address.is_loopback())),
        }
    }
}

/// Asks the servers for their models and reports those that do not answer. Fails if none does.
pub(super) fn discover(urls: &[String], key: Option<&str>) -> Result<Vec<Discovered>, Failure> {
    let mut urls: Vec<String> = urls.iter().map(|url| normal(url)).collect();
    let mut seen = HashSet::new();
    urls.retain(|url| seen.insert(url.clone()));
    let listed: Vec<_> = urls.iter().map(|url| serde_json::json!({"url": url, "key": key.map(literal)})).collect();
    let draft = serde_json::json!({"pools": {"main": {"backends": listed}}}).to_string();
    let mut config = load_text(&draft, "the server's URL")?.config;
    let backends = config.pools.pop().map(|pool| pool.backends).unwrap_or_default();
    let answers = ask_all(&backends).map_err(|error| Failure::could_not(format!("cannot ask the servers: {error}")))?;
    let mut discovered = Vec::new();
    for (url, answer) in urls.into_iter().zip(answers) {
        match answer {
            Ok(found) => discovered.push(Discovered { url, found }),
            Err(reason) => complain(&Paint::on_stderr().yellow(format!("{url} {reason}"))),
        }
    }
    if discovered.is_empty() {
        return Err(Failure::could_not("no server answered: start one, or try without one: tidegate demo"));
    }
    Ok(discovered)
}

/// What people paste: without its scheme, or with the `/v1` that SDKs want at the end.
fn normal(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    if url.contains("://") || url.starts_with("unix:") { url.to_owned() } else { format!("http://{url}") }
}

/// The text as the file must spell it to mean just this.
fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_as_people_paste_them() {
        assert_eq!(normal("127.0.0.1:8000"), "http://127.0.0.1:8000");
        assert_eq!(normal("https://api.example.com/v1/"), "https://api.example.com");
        assert_eq!(normal("http://h/base/v1"), "http://h/base");
        assert_eq!(normal("unix:/run/vllm.sock"), "unix:/run/vllm.sock");
    }
}
