//! What a person needs to know about a gateway that was started without a file.

use std::net::TcpListener;

use tidegate_config::{Address, Config};

use super::Failure;
use super::say::{Paint, in_words};
use super::snippets::Call;

/// The usual addresses, taken if they are free.
pub(super) const APPS: &str = "127.0.0.1:8080";
pub(super) const OPERATORS: &str = "127.0.0.1:9090";

/// The address if it is free, else one on the same host with a port that is.
pub(super) fn free_or_near(wanted: &str) -> Result<String, Failure> {
    if TcpListener::bind(wanted).is_ok() {
        return Ok(wanted.to_owned());
    }
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.to_string())
        .map_err(|error| Failure::could_not(format!("there is no free port on 127.0.0.1: {}", in_words(&error))))
}

/// The address if it is free.
pub(super) fn free(wanted: &str, flag: &str) -> Result<String, Failure> {
    match TcpListener::bind(wanted) {
        Ok(_) => Ok(wanted.to_owned()),
        Err(error) => Err(Failure::could_not(format!(
            "cannot listen on {wanted}: {}; name another with {flag}",
            in_words(&error)
        ))),
    }
}

/// How to use a gateway that is about to start.
pub(super) struct Banner<'a> {
    /// What it stands in front of.
    pub(super) opening: String,
    pub(super) config: &'a Config,
    pub(super) key: Option<&'a str>,
    /// One entry a model, with a remark if there is something to say about it.
    pub(super) models: Vec<String>,
    /// The model the snippets ask for.
    pub(super) example: &'a str,
}

impl Banner<'_> {
    pub(super) fn text(&self, paint: Paint) -> String {
        let base_url = base_url(self.config);
        let call = Call { base_url: &base_url, key: self.key, model: self.example };
        let row = |name: &str, value: &str| format!("  {}  {value}\n", paint.dim(format!("{name:<8}")));
        let title = |title: &str| format!("\n{}\n\n", paint.bold(title));
        let mut text = format!("{}\n\n", paint.bold(&self.opening));
        text += &row("base URL", &paint.green(&base_url));
        text += &row("key", &self.key.map_or("none is asked for".to_owned(), |key| paint.green(key)));
        text += &row("models", &self.models.join(&format!("\n{:12}", "")));
        let scheme = if self.config.admin.tls.is_some() { "https" } else { "http" };
        text += &row("page", &format!("{scheme}://{}/", self.config.admin.listen));
        text += &row("metrics", &format!("{scheme}://{}/metrics", self.config.admin.listen));
        text += &title("With an OpenAI SDK, nothing but this");
        text += &format!("export OPENAI_BASE_URL={base_url}\n");
        text += &format!("export OPENAI_API_KEY={}\n", self.key.unwrap_or("none"));
        for (name, snippet) in [("curl", call.curl()), ("Python", call.python()), ("Node", call.node())] {
            text += &title(name);
            text += &snippet;
            text.push('\n');
        }
        text + &format!("\n{}", paint.dim("Ctrl-C ends it. Requests, one line each:"))
    }
}

/// What an app on this machine connects to.
fn base_url(config: &Config) -> String {
    let address = match config.listen.first().map(|listen| &listen.address) {
        Some(Address::Ip(address)) if address.ip().is_unspecified() => format!("127.0.0.1:{}", address.port()),
        Some(address) => address.to_string(),
        None => APPS.to_owned(),
    };
    format!("http://{address}/v1")
}
