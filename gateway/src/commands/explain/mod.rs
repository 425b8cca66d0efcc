//! `tidegate explain`: what a request would meet, and why; and what one has met that is over.

mod past;

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use http::{HeaderName, HeaderValue};
use tidegate::explain::{Destination, Explanation, Identity, Question, Sent, identify};
use tidegate::storage;
use tidegate_config::{Config, Fallback, FallbackTo, MaxInFlight, Retries, RetryOn, write_duration};
use tidegate_plugins::services::Shared;

use super::admin::Listener;
use super::say::{Paint, say};
use super::{Failure, Format, file};

/// Say which route, filters, pool and backends a request would meet, and why; or, of one that is over, what it has met.
#[derive(Args)]
pub(super) struct Explain {
    /// The id of a request that is over (its x-request-id, or its trace's): asks the gateway that runs
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Which of several with this id: their numbers are told with the last one
    #[arg(long, value_name = "N", requires = "id")]
    number: Option<u64>,
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG", required_unless_present = "id")]
    config: Option<PathBuf>,
    #[command(flatten)]
    listener: Listener,
    /// The model the request names
    #[arg(long, short)]
    model: Option<String>,
    /// Its path
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Its key
    #[arg(long)]
    key: Option<String>,
    /// A file with its body; absent: one that names the model and nothing else
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// A header of it, such as `cache-control: no-store`; may be given more than once
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// It asks for a stream
    #[arg(long)]
    stream: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(id) = &self.id {
            return self.past(id);
        }
        let Some(config) = &self.config else { return Err(Failure::bad_input("name the file with --config")) };
        let config = file::load(config)?.config;
        let read = |path: &PathBuf| {
            let told = |error| Failure::could_not(format!("cannot read {}: {error}", path.display()));
            std::fs::read(path).map(Into::into).map_err(told)
        };
        let headers = self.header.iter().cloned().collect();
        let body = self.body.as_ref().map(read).transpose()?;
        let question = Question { path: self.path, model: self.model, stream: self.stream }.with(body.as_ref());
        let mut explanation = tidegate::explain::explain(&config, &question);
        let sent = Sent { key: self.key, body, headers };
        // The file was checked when it was loaded: the filters can be built.
        let filters = tidegate::assemble::filters(&config, &shared(&config)).unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::could_not(format!("cannot start a runtime: {error}")))?;
        runtime.block_on(identify(&mut explanation, &config, &filters, &sent));
        match self.format {
            Format::Human => say(&human(&explanation, Paint::on_stdout())),
            Format::Json => say(&json(&explanation)?),
        }
        Ok(())
    }

    /// Of a request that is over.
    fn past(&self, id: &str) -> Result<(), Failure> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        let which = self.number.map(|number| format!("?number={number}")).unwrap_or_default();
        let request = self.listener.get(self.config.as_ref(), &format!("/admin/requests/{id}{which}"))?;
        say(&match self.format {
            Format::Human => past::human(&request, Paint::on_stdout()),
            Format::Json => json(&request)?,
        });
        Ok(())
    }
}

fn json(told: &impl serde::Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(told);
    json.map_err(|error| Failure::could_not(format!("cannot write JSON: {error}")))
}

/// A header as it is written.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not the name of a header"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is not the value of a header"))?;
    Ok((name, value))
}

/// The explanation as a table: what on the left, in the order of the road.
fn human(explanation: &Explanation, paint: Paint) -> String {
    let mut rows = Rows { text: String::new(), paint };
    let request = &explanation.request;
    let kind = if request.stream { ", streamed" } else { "" };
    rows.add(
        "request",
        &format!("{}{}{kind}", request.path, request.model.as_ref().map_or(String::new(), |m| format!(", model {m}"))),
    );
    rows.add("route", explanation.route.endpoint);
    for (at, filter) in explanation.filters.iter().enumerate() {
        rows.add(
            if at == 0 { "filters" } else { "" },
            &format!("{}. {}  {}", at + 1, filter.filter, paint.dim(&filter.path)),
        );
        if let Some(says) = &filter.says {
            rows.add("", &format!("   {says}"));
        }
    }
    if explanation.filters.is_empty() && explanation.refused.is_none() {
        rows.add("filters", "none");
    }
    if let Some(caller) = &explanation.caller {
        rows.add("caller", &whose(caller));
    }
    if let Some(model) = &explanation.model {
        rows.add("model", &format!("{}: {}", paint.bold(&model.entry), model.why));
        rows.add(
            "",
            &format!("the answer names {}", if model.keep_name { &model.asked } else { "what the backend calls it" }),
        );
    }
    for target in &explanation.targets {
        destination(&mut rows, target, request.stream);
    }
    for (n, step) in explanation.fallback.iter().enumerate() {
        rows.add(if n == 0 { "fallback" } else { "" }, &fallback(step));
        let is_last = n + 1 == explanation.fallback.len();
        if let Some(after) = explanation.overflow_after.as_ref().filter(|_| is_last) {
            rows.add(
                "",
                &format!(
                    "also where the queue would take longer than {after}, if the caller's limits of money allow it"
                ),
            );
        }
    }
    match &explanation.refused {
        Some(refused) => rows.add("answer", &paint.red(format!("{}: {}", refused.status, refused.why))),
        None if explanation.targets.is_empty() => rows.add("answer", "from the gateway itself"),
        None => {}
    }
    rows.text.trim_end().to_owned()
}

/// What filters share in a gateway that runs, as far as it makes a difference here: the managed keys there are.
fn shared(config: &Config) -> Shared {
    let shared = Shared::default();
    let path = config.storage.as_ref().map(|storage| &storage.path).filter(|path| path.exists());
    let records = path.and_then(|path| {
        let connection = storage::direct(path, storage::TABLES).ok()?;
        storage::keys::all(&connection).ok()
    });
    shared.managed_keys.replace(records.unwrap_or_default());
    shared
}

fn whose(caller: &Identity) -> String {
    let (user, service) = (("user", &caller.user), ("service", &caller.service));
    let told = [("key", &caller.key), user, service, ("team", &caller.team), ("org", &caller.org)];
    let told = told.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
    let models = caller.models.as_ref().map(|models| format!("may use {}", models.join(", ")));
    told.chain(models).collect::<Vec<_>>().join(", ")
}

fn destination(rows: &mut Rows, target: &Destination, stream: bool) {
    let paint = rows.paint;
    let share = if target.share < 1.0 { format!("{} of requests to ", percent(target.share)) } else { String::new() };
    let renamed = target.model.as_ref().map_or(String::new(), |model| format!(", as {model}"));
    rows.add("pool", &format!("{share}{}{renamed}", paint.bold(&target.pool)));
    let listed = file::count(target.candidates.len(), "backend");
    let (balance, backends) = (&target.balance, target.discovered.as_ref().unwrap_or(&listed));
    rows.add("", &format!("{balance} over {backends}; {}", retries(&target.retries)));
    let late = target.hedge.as_ref().and_then(|hedge| Some((if stream { hedge.after } else { hedge.whole? }, hedge)));
    if let Some((after, hedge)) = late {
        rows.add("", &format!("a second backend after {after}, for at most {} of requests", hedge.budget));
    }
    if let Some(resume) = target.resume.filter(|_| stream) {
        let (times, style) = (resume.attempts, resume.style.as_str());
        let line =
            format!("a stream of text that breaks is continued by another backend, up to {times} times ({style})");
        rows.add("", &line);
    }
    if let Some(queue) = target.queue.as_ref().filter(|_| target.candidates.iter().all(|c| c.max_in_flight.is_some())) {
        let wait = write_duration(queue.max_wait);
        rows.add("", &format!("when all are full, up to {} requests wait, each up to {wait}", queue.most));
    }
    for candidate in &target.candidates {
        let bound = match candidate.max_in_flight {
            None => String::new(),
            Some(MaxInFlight::Fixed(most)) => format!(", at most {most} at once"),
            Some(MaxInFlight::Auto) => ", as many at once as it answers without getting slower".to_owned(),
        };
        let share = if candidate.share > 0.0 { percent(candidate.share) } else { "never".to_owned() };
        let line = format!("- {}  {}", candidate.url, paint.dim(format!("{}, {share}{bound}", candidate.backend)));
        rows.add("", &line);
    }
    let limits = &target.timeouts;
    let first = if stream { ("first event", limits.first_token) } else { ("answer's head", limits.first_byte) };
    let told = [("connect", limits.connect), first, ("between pieces", limits.idle), ("in all", limits.total)];
    let told: Vec<String> = told.iter().map(|(name, time)| format!("{name} {}", write_duration(*time))).collect();
    rows.add("", &paint.dim(format!("timeouts: {}", told.join(", "))));
}

fn fallback(step: &Fallback) -> String {
    let to = match &step.to {
        FallbackTo::Pool { pool, as_model: None } => format!("pool {pool}"),
        FallbackTo::Pool { pool, as_model: Some(name) } => format!("pool {pool}, as {name}"),
        FallbackTo::Model { model } => format!("model {model}, and what it falls back to"),
    };
    let on: Vec<_> = step.on.iter().map(|on| on.as_str()).collect();
    format!("{to}, after {}", on.join(", "))
}

fn retries(rules: &Retries) -> String {
    if rules.most == 0 {
        return "no retries".to_owned();
    }
    let name = |on: &RetryOn| serde_json::to_value(on).map_or_else(|_| String::new(), |name| name.to_string());
    let on: Vec<_> = rules.on.iter().map(|on| name(on).trim_matches('"').to_owned()).collect();
    format!("up to {} retries, of at most {} of requests, after {}", rules.most, rules.budget, on.join(", "))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

struct Rows {
    text: String,
    paint: Paint,
}

impl Rows {
    fn add(&mut self, name: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}  {value}", self.paint.dim(format!("{name:<8}")));
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::load_text;
    use super::*;

    fn told(file: &str, path: &str, model: Option<&str>) -> String {
        let config = load_text(file, "test").unwrap().config;
        let question = Question { path: path.to_owned(), model: model.map(str::to_owned), stream: true };
        human(&tidegate::explain::explain(&config, &question), Paint::none())
    }

    const FILE: &str = "
listen: 127.0.0.1:0
models: { gpt: { pool: a, as: llama }, 'q*': { split: [{ pool: a, weight: 1 }, { pool: b, weight: 3 }] } }
pools:
  a: { backends: [{ url: 'http://a1:1', max_in_flight: 4 }] }
  b: { backends: ['http://b1:1', { url: 'http://b2:1', weight: 0 }] }
";

    #[test]
    fn the_road_is_told_from_request_to_backend() {
        let told = told(FILE, "/v1/chat/completions", Some("gpt"));
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "request   /v1/chat/completions, model gpt, streamed",
                "route     chat",
                "filters   none",
                "model     gpt: it is named exactly",
                "          the answer names gpt",
                "pool      a, as llama",
                "          round_robin over 1 backend; up to 2 retries, of at most 20% of requests, after connect, 429, 503, 529",
                "          when all are full, up to 1000 requests wait, each up to 30s",
                "          - http://a1:1  a1:1, 100 %, at most 4 at once",
                "          timeouts: connect 2s, first event 5m, between pieces 2m, in all 1h",
            ]
        );
    }

    #[test]
    fn a_split_tells_the_shares_and_who_gets_nothing() {
        let told = told(FILE, "/v1/embeddings", Some("qwen"));
        assert!(told.contains("25 % of requests to a") && told.contains("75 % of requests to b"), "{told}");
        assert!(told.contains("http://b2:1  b2:1, never"), "{told}");
    }

    #[test]
    fn a_refusal_is_the_last_word() {
        let told = told(FILE, "/v1/chat/completions", Some("nobody"));
        assert!(
            told.lines().last().unwrap().starts_with("answer    404: no entry of models answers to nobody"),
            "{told}"
        );
    }
}
