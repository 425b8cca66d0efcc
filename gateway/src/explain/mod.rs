//! What would become of a request, from the configuration alone: its route, the filters in order, the model's
//! entry and why that one, and the backends that could answer. Nothing is asked of a backend.

mod caller;
#[cfg(test)]
mod tests;

use serde::Serialize;
use std::sync::Arc;
use tidegate_config::{
    Backend, Config, Discovered, Fallback, FilterEntry, Hedge, MaxInFlight, Model, OtherPaths, Pattern, Queue, Resume,
    Retries, Target, Timeouts,
};
use tidegate_plugins::call::Endpoint;

use crate::models::Models;

pub use caller::{Identity, Sent, identify};

/// The request in question.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Question {
    /// The path, such as `/v1/chat/completions`.
    pub path: String,
    /// The model it names, if any.
    pub model: Option<String>,
    /// Whether it asks for a stream.
    pub stream: bool,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The request in question.
    pub request: Question,
    /// What the path means.
    pub route: Route,
    /// Who sends it; absent unless [`identify`] was asked.
    pub caller: Option<Identity>,
    /// The filters it passes, first to last; their answer sides run last to first.
    pub filters: Vec<Step>,
    /// Which entry of `models` decides, and why; absent if it never comes to that.
    pub model: Option<Choice>,
    /// Who may answer. More than one: one of them is drawn by its share.
    pub targets: Vec<Destination>,
    /// Who answers when those cannot, in this order.
    pub fallback: Vec<Fallback>,
    /// After how long in the queue it goes there, if its caller can pay for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow_after: Option<String>,
    /// Why it would be answered with an error, if it would.
    pub refused: Option<Refusal>,
}

/// What a path means.
#[derive(Clone, Debug, Serialize)]
pub struct Route {
    /// The endpoint's name in logs and metrics: `chat`; `models` for the lists of models, `none` if there
    /// is nothing at the path.
    pub endpoint: &'static str,
    /// What decides who answers.
    pub decided_by: DecidedBy,
}

/// What decides who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The model: of the JSON body, the form, or the query.
    Model,
    /// `other_paths` of the configuration.
    OtherPaths,
    /// Nothing: the gateway answers by itself.
    Gateway,
}

/// A filter on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Its name.
    pub filter: String,
    /// Where it stands in the file.
    pub path: String,
    /// What it would make of the request, if it has anything to say; absent unless [`identify`] was asked.
    pub says: Option<String>,
}

/// The entry of `models` that decides.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The name that was looked up.
    pub asked: String,
    /// The entry that matched, as the file writes it.
    pub entry: String,
    /// Why that one.
    pub why: String,
    /// Whether the answer calls the model by the name asked for, rather than the backend's.
    pub keep_name: bool,
}

/// A pool that may answer.
#[derive(Clone, Debug, Serialize)]
pub struct Destination {
    /// Its name.
    pub pool: String,
    /// How often it is drawn, of 1.
    pub share: f64,
    /// The model's name there; absent if the request goes there as it came.
    pub model: Option<String>,
    /// The balancer that picks a backend.
    pub balance: String,
    /// When a second backend is asked for a stream; absent: never.
    pub hedge: Option<Hedge>,
    /// When the rest of a stream that broke is asked of another backend; absent: never.
    pub resume: Option<Resume>,
    /// Where requests wait while all are full; absent: nowhere.
    pub queue: Option<Queue>,
    /// What is tried again, and how often.
    pub retries: Retries,
    /// The timeouts of this model in this pool.
    pub timeouts: Timeouts,
    /// The backends, in the order of the file.
    pub candidates: Vec<Candidate>,
    /// Where its backends come from, if they come and go.
    pub discovered: Option<String>,
}

/// A backend that could be picked.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Its name in logs and metrics.
    pub backend: String,
    /// Where it is.
    pub url: String,
    /// Its part of the pool's weights, of 1; 0: never picked.
    pub share: f64,
    /// The most requests it gets at once.
    pub max_in_flight: Option<MaxInFlight>,
}

/// The error it would be answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// Why, and what would help.
    pub why: String,
}

/// Follows the request through the configuration.
pub fn explain(config: &Config, request: &Question) -> Explanation {
    let route = route(&request.path);
    let mut explanation = Explanation {
        request: request.clone(),
        caller: None,
        filters: Vec::new(),
        model: None,
        targets: Vec::new(),
        fallback: Vec::new(),
        overflow_after: None,
        refused: None,
        route,
    };
    let decided = match explanation.route {
        // A path that leads nowhere is refused before any filter sees the request.
        Route { endpoint: "none", .. } => Err(unknown_path(&request.path)),
        Route { decided_by: DecidedBy::OtherPaths, .. } if config.other_paths == OtherPaths::Refuse => {
            Err(unknown_path(&request.path))
        }
        Route { decided_by, .. } => {
            let step =
                |filter: &FilterEntry| Step { filter: filter.name.clone(), path: filter.path.to_string(), says: None };
            explanation.filters = config.filters.iter().map(step).collect();
            decide(config, decided_by, &mut explanation)
        }
    };
    explanation.refused = decided.err();
    explanation
}

fn route(path: &str) -> Route {
    if path == "/v1/models" || path.strip_prefix("/v1/models/").is_some_and(|id| !id.is_empty()) {
        return Route { endpoint: "models", decided_by: DecidedBy::Gateway };
    }
    match Endpoint::from_path(path) {
        // The one WebSocket: its query names the model.
        Some(Endpoint::Other) if path == "/v1/realtime" => Route { endpoint: "realtime", decided_by: DecidedBy::Model },
        None => Route { endpoint: "none", decided_by: DecidedBy::Gateway },
        Some(Endpoint::Other) => Route { endpoint: Endpoint::Other.as_str(), decided_by: DecidedBy::OtherPaths },
        Some(endpoint) => Route { endpoint: endpoint.as_str(), decided_by: DecidedBy::Model },
    }
}

fn decide(config: &Config, by: DecidedBy, explanation: &mut Explanation) -> Result<(), Refusal> {
    match (by, &config.other_paths) {
        (DecidedBy::OtherPaths, OtherPaths::Pool(pool)) => {
            let alone = Target { pool: pool.clone(), as_model: None, weight: 1 };
            let timeouts = config.pool(pool).map_or(config.timeouts, |pool| pool.timeouts.resolve(&config.timeouts));
            explanation.targets.extend(destination(config, &alone, 1.0, None, timeouts, None));
        }
        (DecidedBy::Model, _) => {
            let (asked, model, why) = chosen(config, &explanation.request)?;
            answers(config, model, &asked, 1.0, explanation);
            let entry = model.pattern.to_string();
            explanation.model = Some(Choice { asked, entry, why, keep_name: model.keep_name });
        }
        _ => {}
    }
    Ok(())
}

/// Who answers for `model`, which is asked for as `asked` by so many of the requests.
fn answers(config: &Config, model: &Model, asked: &str, of_all: f64, explanation: &mut Explanation) {
    let total = total(model.targets.iter().map(|target| target.weight));
    for target in &model.targets {
        let pool = config.pool(&target.pool);
        let base = pool.map_or(config.timeouts, |pool| pool.timeouts.resolve(&config.timeouts));
        let sent = target.as_model.clone().unwrap_or_else(|| asked.to_owned());
        let share = of_all * f64::from(target.weight) / total;
        let timeouts = model.timeouts.resolve(&base);
        let hedge = model.hedge.as_ref();
        explanation.targets.extend(destination(config, target, share, Some(sent), timeouts, hedge));
    }
    explanation.fallback.extend(model.fallback.iter().cloned());
    explanation.overflow_after = model.overflow_after.map(tidegate_config::write_duration);
}

/// A filter sends the request to one of these models, whatever it asks for.
fn sent_to(config: &Config, models: &[(Arc<str>, f64)], explanation: &mut Explanation) {
    let asked = explanation.request.model.clone().or(config.default_model.clone()).unwrap_or_default();
    explanation.targets.clear();
    explanation.fallback.clear();
    explanation.refused = None;
    let (mut entries, mut whys, mut keep_name) = (Vec::new(), Vec::new(), true);
    for (name, share) in models {
        match chosen(config, &Question { model: Some(name.to_string()), ..Question::default() }) {
            Ok((name, model, why)) => {
                answers(config, model, &name, *share, explanation);
                entries.push(model.pattern.to_string());
                whys.push(why);
                keep_name &= model.keep_name;
            }
            Err(refusal) => explanation.refused = Some(refusal),
        }
    }
    let why = match whys.pop() {
        Some(why) if whys.is_empty() => format!("a filter sends it there; {why}"),
        _ => "a filter sends it to one of them".to_owned(),
    };
    explanation.model = Some(Choice { asked, entry: entries.join(" or "), why, keep_name });
}

/// The name that is looked up, the entry that has it, and why.
fn chosen<'a>(config: &'a Config, request: &Question) -> Result<(String, &'a Model, String), Refusal> {
    let (asked, given) = match (&request.model, &config.default_model) {
        (Some(model), _) => (model.clone(), ""),
        (None, Some(default)) => (default.clone(), "the request names no model, so default_model; "),
        (None, None) => {
            let why = "the request names no model, and the file has no default_model".to_owned();
            return Err(Refusal { status: 400, why });
        }
    };
    let Some(model) = config.model(&asked) else {
        let known: Vec<String> = config.models.iter().map(|model| model.pattern.to_string()).collect();
        let near = Models::near(&asked, known.iter().map(String::as_str)).join(", ");
        let hint = if near.is_empty() { format!("there are: {}", known.join(", ")) } else { format!("near: {near}") };
        return Err(Refusal { status: 404, why: format!("no entry of models answers to {asked}; {hint}") });
    };
    let other = |other: &&Model| other.pattern != model.pattern && other.pattern.matches(&asked);
    let beaten: Vec<String> = config.models.iter().filter(other).map(|model| model.pattern.to_string()).collect();
    let reason = match &model.pattern {
        Pattern::Exact(_) => "it is named exactly",
        Pattern::Prefix(prefix) if prefix.is_empty() => "it takes every name that no other entry takes",
        Pattern::Prefix(_) if beaten.is_empty() => "the only wildcard that matches",
        Pattern::Prefix(_) => "the wildcard with the longest part in common",
    };
    let over = if beaten.is_empty() { String::new() } else { format!(", which goes before {}", beaten.join(", ")) };
    Ok((asked, model, format!("{given}{reason}{over}")))
}

fn destination(
    config: &Config,
    target: &Target,
    share: f64,
    model: Option<String>,
    timeouts: Timeouts,
    hedge: Option<&Hedge>,
) -> Option<Destination> {
    let pool = config.pool(&target.pool)?;
    let total = total(pool.backends.iter().map(|backend| backend.weight));
    let candidate = |backend: &Backend| Candidate {
        backend: backend.name.clone(),
        url: backend.url.to_string(),
        share: f64::from(backend.weight) / total,
        max_in_flight: backend.max_in_flight,
    };
    Some(Destination {
        pool: pool.name.clone(),
        share,
        model,
        balance: pool.balance.name.clone(),
        hedge: hedge.or(pool.hedge.as_ref()).cloned(),
        resume: pool.resume,
        queue: pool.queue.clone(),
        retries: pool.retries.clone(),
        timeouts,
        candidates: pool.backends.iter().map(candidate).collect(),
        discovered: pool.discover.as_ref().map(|discover| match &discover.from {
            Discovered::Dns(backend) => format!("the addresses of {}", backend.url),
            Discovered::Srv(backend) => format!("the SRV records of {}", backend.url),
            Discovered::File(file) => format!("the list in {}", file.display()),
        }),
    })
}

/// The sum of weights, never 0, so that it can be divided by.
fn total(weights: impl Iterator<Item = u32>) -> f64 {
    weights.map(f64::from).sum::<f64>().max(1.0)
}

fn unknown_path(path: &str) -> Refusal {
    let other = if path.starts_with("/v1/") { ", and other_paths is refuse" } else { "" };
    Refusal { status: 404, why: format!("there is nothing at {path}{other}") }
}
