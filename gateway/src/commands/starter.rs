//! A starter file from what backends say about themselves: `init` writes it, `proxy` and `demo` run it as it is.

use std::fmt::Write;

use super::discover::Found;

/// One backend, as the user named it and as it answered.
pub(super) struct Discovered {
    pub(super) url: String,
    pub(super) found: Found,
}

/// What a starter file says besides its backends.
pub(super) struct Starter<'a> {
    /// How it came to be, for its first line.
    pub(super) origin: &'a str,
    pub(super) listen: &'a str,
    pub(super) admin: &'a str,
    /// The key of all backends, or a reference to it.
    pub(super) backend_key: Option<&'a str>,
    /// The id and hash of the one key that clients must have.
    pub(super) client_key: Option<(&'a str, &'a str)>,
    /// Other names for models: (alias, model).
    pub(super) aliases: &'a [(&'a str, &'a str)],
}

/// The backends that can stand in for each other for some models.
#[derive(Debug, PartialEq, Eq)]
struct Pool<'a> {
    name: String,
    /// Places in the list of backends.
    backends: Vec<usize>,
    /// `*` for whatever is asked for.
    models: Vec<&'a str>,
}

/// One pool for each set of backends that serve the same models, so that a request finds every backend that can
/// take it and no other.
fn pools(backends: &[Discovered]) -> Vec<Pool<'_>> {
    let mut pools: Vec<Pool<'_>> = Vec::new();
    for model in models(backends) {
        let serves = |backend: &Discovered| match &backend.found {
            Found::Models(models) => models.iter().any(|served| served == model),
            Found::NoList => model == "*",
        };
        let serving: Vec<usize> = (0..backends.len()).filter(|at| serves(&backends[*at])).collect();
        match pools.iter_mut().find(|pool| pool.backends == serving) {
            Some(pool) => pool.models.push(model),
            None => {
                pools.push(Pool { name: format!("pool-{}", pools.len() + 1), backends: serving, models: vec![model] })
            }
        }
    }
    if let [only] = pools.as_mut_slice() {
        only.name = "main".to_owned();
    }
    pools
}

/// Every model of every backend once, in the order they were named; `*` last, if a backend has no list.
pub(super) fn models(backends: &[Discovered]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for backend in backends {
        if let Found::Models(models) = &backend.found {
            let new: Vec<&str> = models.iter().map(String::as_str).filter(|model| !all.contains(model)).collect();
            all.extend(new);
        }
    }
    if backends.iter().any(|backend| backend.found == Found::NoList) {
        all.push("*");
    }
    all
}

impl Starter<'_> {
    /// The file.
    pub(super) fn yaml(&self, backends: &[Discovered]) -> String {
        let pools = pools(backends);
        [self.head(), self.filters(), self.models(&pools), self.pools(&pools, backends)].join("\n")
    }

    fn head(&self) -> String {
        format!(
            "# {origin}\n\
             # Every setting this file does not name has a default. After a change: tidegate check FILE\n\n\
             # Where apps connect; their base URL is http://HOST:PORT/v1. For apps on other machines: 0.0.0.0:8080,\n\
             # and then give them keys (filters, below).\n\
             listen: {listen}\n\n\
             # Where operators look: /metrics, /livez, /readyz. Anywhere but on loopback it needs a token.\n\
             admin:\n  listen: {admin}\n",
            origin = self.origin,
            listen = scalar(self.listen),
            admin = scalar(self.admin),
        )
    }

    fn filters(&self) -> String {
        let about = "# What every request passes, top to bottom; answers pass it bottom to top.\n";
        match self.client_key {
            Some((id, hash)) => format!(
                "{about}filters:\n  - api_key:\n      keys:\n        - id: {}\n          hash: {}\n",
                scalar(id),
                scalar(hash)
            ),
            None => format!(
                "{about}\
                 # With none, whoever can connect may ask. A key for each app instead: `tidegate keys new --id my-app`\n\
                 # prints a key and the entry for it, which goes here in place of the brackets:\n\
                 #   - api_key:\n\
                 #       keys:\n\
                 #         - id: my-app\n\
                 #           hash: ...\n\
                 filters: []\n"
            ),
        }
    }

    fn models(&self, pools: &[Pool<'_>]) -> String {
        let mut text = "# What apps may ask for, and which pool answers.\nmodels:\n".to_owned();
        for pool in pools {
            for model in &pool.models {
                push(&mut text, format_args!("  {}: {{ pool: {} }}\n", scalar(model), scalar(&pool.name)));
            }
        }
        for (alias, model) in self.aliases {
            let Some(pool) = pools.iter().find(|pool| pool.models.contains(model)) else { continue };
            let line = format_args!("  {}: {{ pool: {}, as: {} }}\n", scalar(alias), scalar(&pool.name), scalar(model));
            push(&mut text, line);
        }
        let example = pools.iter().find_map(|pool| Some((pool, pool.models.iter().find(|model| **model != "*")?)));
        if let (Some((pool, model)), []) = (example, self.aliases) {
            let hint = "  # An app that insists on another name gets it like this:\n";
            let line =
                format_args!("{hint}  # gpt-4o-mini: {{ pool: {}, as: {} }}\n", scalar(&pool.name), scalar(model));
            push(&mut text, line);
        }
        text
    }

    fn pools(&self, pools: &[Pool<'_>], backends: &[Discovered]) -> String {
        let mut text = "# Who answers. The backends of a pool can stand in for each other.\npools:\n".to_owned();
        for pool in pools {
            push(&mut text, format_args!("  {}:\n    balance: least_busy\n    backends:\n", scalar(&pool.name)));
            for url in pool.backends.iter().map(|at| scalar(&backends[*at].url)) {
                match self.backend_key {
                    Some(key) => push(&mut text, format_args!("      - {{ url: {url}, key: {} }}\n", scalar(key))),
                    None => push(&mut text, format_args!("      - {url}\n")),
                }
            }
        }
        if self.backend_key.is_none() {
            text.push_str(
                "      # - { url: https://api.example.com, key: \"${env:BACKEND_KEY}\", max_in_flight: 64 }\n",
            );
        }
        text
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(line);
}

/// The text as a YAML scalar; a JSON string is one, whatever is in it.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let meant =
        !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if word && meant && text.chars().all(plain) { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use tidegate_config::{ProcessEnvironment, Source};

    use super::*;

    fn serving(url: &str, models: &[&str]) -> Discovered {
        Discovered { url: url.to_owned(), found: Found::Models(models.iter().map(|&model| model.to_owned()).collect()) }
    }

    #[test]
    fn backends_that_serve_the_same_share_one_pool() {
        let backends = [serving("http://a", &["m", "n"]), serving("http://b", &["n", "m"])];
        let pools = pools(&backends);
        assert_eq!(pools, [Pool { name: "main".to_owned(), backends: vec![0, 1], models: vec!["m", "n"] }]);
    }

    #[test]
    fn a_model_finds_every_backend_that_serves_it_and_no_other() {
        let unknown = Discovered { url: "http://c".to_owned(), found: Found::NoList };
        let backends = [serving("http://a", &["m", "both"]), serving("http://b", &["both"]), unknown];
        let pools = pools(&backends);
        let found: Vec<_> = pools.iter().map(|pool| (pool.models.clone(), pool.backends.clone())).collect();
        assert_eq!(found, [(vec!["m"], vec![0]), (vec!["both"], vec![0, 1]), (vec!["*"], vec![2])]);
    }

    #[test]
    fn the_file_is_one_that_check_finds_nothing_in() {
        let unknown = Discovered { url: "http://127.0.0.1:3".to_owned(), found: Found::NoList };
        let backends = [
            serving("http://127.0.0.1:1", &["llama-3.1-8b", "Qwen/Qwen3:8b", "yes", "a: {b}", "#c"]),
            serving("unix:/run/vllm.sock", &["llama-3.1-8b"]),
            unknown,
        ];
        for (backend_key, aliases) in [(Some("k$${x}"), &[][..]), (None, &[("gpt-4o-mini", "yes")][..])] {
            let origin = "A test.";
            let (listen, admin) = ("127.0.0.1:8080", "127.0.0.1:9090");
            let starter = Starter { origin, listen, admin, backend_key, client_key: None, aliases };
            let loaded = tidegate_config::load(&source(&starter.yaml(&backends)), &ProcessEnvironment).unwrap();
            assert_eq!(loaded.warnings, []);
            let models: Vec<String> = loaded.config.models.iter().map(|model| model.pattern.to_string()).collect();
            assert_eq!(models[..6], ["llama-3.1-8b", "Qwen/Qwen3:8b", "yes", "a: {b}", "#c", "*"]);
            assert_eq!(models.len() - 6, aliases.len());
            let key = loaded.config.pools[0].backends[0].key.as_ref().map(|key| key.expose());
            assert_eq!(key, backend_key.map(|_| "k${x}"));
        }
    }

    #[test]
    fn a_key_that_clients_must_have_becomes_the_filter_that_asks_for_it() {
        let (listen, admin) = ("127.0.0.1:8080", "127.0.0.1:9090");
        let client_key = Some(("demo", "00ff"));
        let starter = Starter { origin: "A test.", listen, admin, backend_key: None, client_key, aliases: &[] };
        let text = starter.yaml(&[serving("http://127.0.0.1:1", &["m"])]);
        let loaded = tidegate_config::load(&source(&text), &ProcessEnvironment).unwrap();
        let [filter] = &loaded.config.filters[..] else { panic!("{text}") };
        assert_eq!(filter.name, "api_key");
        assert_eq!(filter.settings, serde_json::json!({"keys": [{"id": "demo", "hash": "00ff"}]}));
    }

    fn source(text: &str) -> Source {
        Source { name: "starter".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn names_that_yaml_would_read_as_something_else_are_quoted() {
        assert_eq!(scalar("llama-3.1-8b"), "llama-3.1-8b");
        assert_eq!(scalar("Qwen/Qwen3:8b"), "\"Qwen/Qwen3:8b\"");
        assert_eq!(scalar("1e3"), "\"1e3\"");
        assert_eq!(scalar("No"), "\"No\"");
        assert_eq!(scalar("*"), "\"*\"");
    }
}
