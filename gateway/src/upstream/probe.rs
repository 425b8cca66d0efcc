//! Asks each backend, again and again, whether it is well and which models it serves.
//!
//! Probes carry the backend's own credentials: a backend that answers only those who have a key must not be taken for
//! dead. They have connections of their own, so that they neither borrow nor spoil those of requests.

use super::backend::Backend;
use super::connect::{Connector, Upstream};
use super::health::HealthSettings;
use super::http1::RequestHead;
use super::signals::Reading;
use crate::core::Core;
use crate::telemetry::BackendFault;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tidegate_config::{ProbeBy, Signals};
use tokio::task::JoinSet;

/// How often it is looked whether a probe is due.
const TICK: Duration = Duration::from_millis(50);

/// The largest answer to a probe that is read, in bytes.
const LARGEST: usize = 4 << 20;

/// Where the models stand.
const MODELS: &str = "/v1/models";

/// How long a backend's list of models is believed.
const FRESH: Duration = Duration::from_secs(30);

/// Asks the backends whose models are not known, or were not lately, so that a list of models can be given. Each is
/// asked once however many clients want to know, and one that does not answer is left as it was.
pub async fn refresh(connector: &Connector, backends: impl Iterator<Item = Arc<Backend>>) {
    let ask = |backend: Arc<Backend>| async move {
        let mut asked = backend.asked.lock().await;
        if asked.is_none_or(|asked| asked.elapsed() > FRESH) && backend.health.is_up() {
            learn(&backend, get(connector, &backend, MODELS, backend.health.settings().timeout).await.ok());
            *asked = Some(Instant::now());
        }
    };
    futures_util::future::join_all(backends.map(ask)).await;
}

/// When something is to be done next with each backend.
#[derive(Default)]
struct Due(HashMap<usize, Next>);

struct Next {
    backend: Weak<Backend>,
    at: Instant,
    /// Shared with what is under way.
    under_way: Arc<()>,
}

impl Due {
    /// Whether it is time, and nothing is under way; if so, the next time is `pause` from now, or when what comes back is
    /// dropped, whichever is later.
    fn is_now(&mut self, backend: &Arc<Backend>, now: Instant, pause: Duration) -> Option<Arc<()>> {
        let first = || Next { backend: Arc::downgrade(backend), at: now, under_way: Arc::default() };
        let next = self.0.entry(Arc::as_ptr(backend).addr()).or_insert_with(first);
        if next.at > now || Arc::strong_count(&next.under_way) > 1 {
            return None;
        }
        next.at = now + pause;
        Some(next.under_way.clone())
    }

    /// Forgets backends that are gone.
    fn sweep(&mut self) {
        self.0.retain(|_, next| next.backend.strong_count() > 0);
    }
}

/// Probes the backends of whatever configuration is current, and reads their metrics, until dropped. At most one probe a
/// backend at a time.
pub async fn run(core: &Core) {
    let connector = Arc::new(Connector::default());
    let (mut probes_due, mut readings_due) = (Due::default(), Due::default());
    let mut probes = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Some(_) = probes.join_next() => continue,
        }
        probes_due.sweep();
        readings_due.sweep();
        connector.sweep();
        core.connector.sweep();
        let (snapshot, now) = (core.snapshot.load_full(), Instant::now());
        for pool in &snapshot.pools {
            pool.look();
            for backend in pool.backends() {
                let health = backend.health.settings();
                if health.enabled
                    && let Some(under_way) = probes_due.is_now(&backend, now, health.every)
                {
                    let (backend, connector) = (backend.clone(), connector.clone());
                    probes.spawn(async move {
                        probe(&connector, &backend).await;
                        drop(under_way);
                    });
                }
                if let Some(signals) = &pool.signals
                    && let Some(under_way) = readings_due.is_now(&backend, now, signals.every)
                {
                    let (signals, connector) = (signals.clone(), connector.clone());
                    probes.spawn(async move {
                        read_metrics(&connector, &backend, &signals).await;
                        drop(under_way);
                    });
                }
            }
        }
    }
}

/// Reads what a backend's own metrics say. One that has none is as if nothing were known of it.
async fn read_metrics(connector: &Connector, backend: &Backend, signals: &Signals) {
    let answer = get(connector, backend, &signals.path, signals.every).await;
    let reading = match &answer {
        Ok(answer) if answer.status == 200 => std::str::from_utf8(&answer.body).ok().and_then(Reading::parse),
        _ => None,
    };
    backend.series.readings[usize::from(reading.is_none())].inc();
    if let Some(reading) = reading {
        backend.signals.told(reading, backend.in_flight(), signals.believe);
    }
}

/// One probe: health, and the models if that went well.
async fn probe(connector: &Connector, backend: &Backend) {
    let settings = backend.health.settings();
    let begun = Instant::now();
    match ask_by(connector, backend, settings).await {
        Ok(answer) if is_well(&answer, settings.by) => {
            if backend.health.probe_succeeded() {
                backend.is_back();
                tracing::info!(backend = &*backend.settings.name, "backend is up");
            }
            backend.series.up.set(1);
            if settings.by == ProbeBy::Generate && backend.breakers.forgive() {
                backend.is_back();
                tracing::info!(backend = &*backend.settings.name, "backend generates again");
            }
            let mut asked = backend.asked.lock().await;
            *asked = Some(Instant::now());
            if settings.by == ProbeBy::Http && settings.path == MODELS {
                learn(backend, Some(answer));
            } else {
                learn(backend, get(connector, backend, MODELS, settings.timeout).await.ok());
            }
        }
        outcome => {
            let (reason, unanswered) = match outcome {
                Ok(answer) => (format!("a probe was answered {}", answer.status), false),
                Err(NoAnswer::TimedOut) => (format!("no answer within {:?}", settings.timeout), true),
                Err(NoAnswer::Failed(reason)) => (reason, false),
            };
            // One that answers nobody while it works is busy; whether it ever answers, those who wait for it will see.
            if unanswered && backend.in_flight() > 0 {
                return;
            }
            backend.series.failed(BackendFault::Health);
            if backend.health.failed(begun) {
                backend.series.up.set(0);
                tracing::warn!(backend = &*backend.settings.name, reason, "backend is down");
            }
        }
    }
}

struct Answer {
    status: u16,
    retry_after: bool,
    body: Vec<u8>,
}

/// Whether this is the answer of a backend that requests can be sent to. Busy is well; so is a backend that has no
/// such path, or wants another key: it answers. Who is asked for a token has to give one.
fn is_well(answer: &Answer, by: ProbeBy) -> bool {
    match answer.status {
        429 => true,
        503 => answer.retry_after,
        500.. => false,
        400.. => by != ProbeBy::Generate,
        _ => true,
    }
}

/// What a probe sends.
struct Asked {
    method: Method,
    path: String,
    body: Bytes,
}

async fn ask_by(connector: &Connector, backend: &Backend, settings: &HealthSettings) -> Result<Answer, NoAnswer> {
    let asked = match settings.by {
        ProbeBy::Http => return get(connector, backend, &settings.path, settings.timeout).await,
        ProbeBy::Tcp => {
            let connected = tokio::time::timeout(settings.timeout, connector.connect(backend, true)).await;
            let connected = connected.map_err(|_| NoAnswer::TimedOut)?;
            connected.map_err(|error| NoAnswer::Failed(error.to_string()))?.close();
            return Ok(Answer { status: 200, retry_after: false, body: Vec::new() });
        }
        ProbeBy::Generate => {
            let messages = serde_json::json!([{ "role": "user", "content": "Hi" }]);
            let body = serde_json::json!({ "model": settings.model, "messages": messages, "max_tokens": 1 });
            Asked { method: Method::POST, path: "/v1/chat/completions".to_owned(), body: body.to_string().into() }
        }
    };
    exchange(connector, backend, asked, settings.timeout).await
}

/// Why a probe has no answer.
enum NoAnswer {
    TimedOut,
    Failed(String),
}

async fn get(connector: &Connector, backend: &Backend, path: &str, limit: Duration) -> Result<Answer, NoAnswer> {
    let asked = Asked { method: Method::GET, path: path.to_owned(), body: Bytes::new() };
    exchange(connector, backend, asked, limit).await
}

async fn exchange(connector: &Connector, backend: &Backend, what: Asked, limit: Duration) -> Result<Answer, NoAnswer> {
    let asked = async {
        let mut upstream = connector.connect(backend, false).await.map_err(|error| error.to_string())?;
        let answer = ask(&mut upstream, backend, what).await.map_err(|error| error.to_string())?;
        if upstream.is_done() {
            connector.release(upstream, Duration::from_secs(4));
        }
        Ok(answer)
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(answered) => answered.map_err(NoAnswer::Failed),
        Err(_) => Err(NoAnswer::TimedOut),
    }
}

async fn ask(upstream: &mut Upstream, backend: &Backend, what: Asked) -> super::error::Result<Answer> {
    let mut headers = backend.settings.headers.clone();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("tidegate-probe"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if !what.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(what.body.len()));
    }
    let target = format!("{}{}", backend.settings.base_path, what.path);
    upstream.send(RequestHead { method: what.method, target, headers: headers.into() }, what.body).await?;
    let head = upstream.read_head().await?;
    let status = head.status.as_u16();
    let retry_after = head.headers.contains_key(header::RETRY_AFTER);
    let mut body = Vec::new();
    while !upstream.is_done() && body.len() < LARGEST {
        let Some(data): Option<Bytes> = upstream.read_body().await? else { break };
        body.extend_from_slice(&data);
    }
    Ok(Answer { status, retry_after, body })
}

/// Remembers the models that an answer lists. What is no list of models leaves what is known alone.
fn learn(backend: &Backend, answer: Option<Answer>) {
    let Some(answer) = answer.filter(|answer| answer.status == 200) else { return };
    let Ok(Value::Object(mut list)) = serde_json::from_slice(&answer.body) else { return };
    let Some(Value::Array(models)) = list.remove("data") else { return };
    let models: Vec<Map<String, Value>> = models
        .into_iter()
        .filter_map(|model| match model {
            Value::Object(model) if model.get("id").is_some_and(Value::is_string) => Some(model),
            _ => None,
        })
        .take(MOST_MODELS)
        .collect();
    backend.revisions.store(Arc::new(super::revision::of_list(&models)));
    backend.learn(models);
}

/// Models of one backend that are remembered.
const MOST_MODELS: usize = 1000;
