//! Who a key belongs to and what it may use, as the filters themselves say: they are run on a request with nothing
//! but its head.

use bytes::Bytes;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::Serialize;
use tidegate_config::Config;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::exchange::{Exchange, RequestHead};
use tidegate_plugins::{Answerer, Caller, Verdict};

use super::{Explanation, Question, Refusal};
use crate::snapshot::NamedFilter;

/// Who sends the request, as a filter found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The name of the key.
    pub key: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The service, where no user is behind it.
    pub service: Option<String>,
    /// The team.
    pub team: Option<String>,
    /// The organisation.
    pub org: Option<String>,
    /// The models it may ask for; absent: all.
    pub models: Option<Vec<String>>,
    /// Who is served first when not all can be: from 0, the last, to 9, the first.
    pub priority: u8,
}

impl From<&Caller> for Identity {
    fn from(caller: &Caller) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let models = caller.models.as_ref().map(|models| models.iter().map(|model| model.to_string()).collect());
        Self {
            key: text(&caller.key),
            user: text(&caller.user),
            service: text(&caller.service),
            team: text(&caller.team),
            org: text(&caller.org),
            models,
            priority: caller.priority.get(),
        }
    }
}

/// What is sent, besides what the question says.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The key; none: who sends it is not asked.
    pub key: Option<String>,
    /// The body; none: one that names the model, and nothing else.
    pub body: Option<Bytes>,
    /// Headers beside the key's.
    pub headers: HeaderMap,
}

impl Question {
    /// What a body says that the question leaves open.
    #[must_use]
    pub fn with(mut self, body: Option<&Bytes>) -> Self {
        let endpoint = Endpoint::from_path(&self.path).unwrap_or(Endpoint::Other);
        if let Some((body, call)) = body.and_then(|body| Some((body, Call::read(body, endpoint).ok()?))) {
            self.model = self.model.or_else(|| call.model(body).map(|model| model.to_string()));
            self.stream |= call.stream;
        }
        self
    }
}

/// Asks the filters, in the order of the file, what they make of the key and of the request. Of the key, those behind the
/// first that needs the body are not asked. `filters` are those of `config`, which was explained.
pub async fn identify(explanation: &mut Explanation, config: &Config, filters: &[NamedFilter], sent: &Sent) {
    if explanation.filters.is_empty() {
        return;
    }
    let mut exchange = exchange(&explanation.request.path, sent);
    let before = explanation.refused.clone();
    if sent.key.is_some() {
        who(explanation, filters, &mut exchange).await;
    }
    // A name that the file does not have may be one that a filter makes another of.
    if explanation.refused == before {
        settle(explanation, &mut exchange, sent.body.clone());
        let mut led = Vec::new();
        for (step, named) in explanation.filters.iter_mut().zip(filters) {
            step.says = named.filter.explain(&exchange);
            let models = named.filter.sends_to(&exchange);
            if let Some((first, _)) = models.first() {
                exchange.send_to(first.clone());
                led = models;
            }
        }
        if !led.is_empty() {
            super::sent_to(config, &led, explanation);
        }
    }
}

/// Gives the request its body, and says who answers: the first of those who may.
fn settle(explanation: &Explanation, exchange: &mut Exchange, body: Option<Bytes>) {
    let asked = explanation.model.as_ref().map(|choice| choice.asked.clone()).or(explanation.request.model.clone());
    let named = || serde_json::json!({ "model": asked, "stream": explanation.request.stream }).to_string().into();
    let body = body.unwrap_or_else(named);
    let call = Call::read(&body, exchange.endpoint()).ok();
    exchange.replace_body(body, call);
    let Some(asked) = &asked else { return };
    exchange.send_to(asked.as_str().into());
    let (Some(choice), Some(target)) = (&explanation.model, explanation.targets.first()) else { return };
    exchange.settle_on(Arc::new(Answerer {
        route: choice.entry.as_str().into(),
        pool: target.pool.as_str().into(),
        model: target.model.as_ref().unwrap_or(asked).as_str().into(),
        revision: 0,
    }));
}

async fn who(explanation: &mut Explanation, filters: &[NamedFilter], exchange: &mut Exchange) {
    for (at, named) in filters.iter().enumerate().take_while(|(_, named)| !named.filter.needs_body()) {
        let refused = match named.filter.request(exchange).await {
            Ok(Verdict::Continue | Verdict::Follow(_)) => continue,
            Ok(Verdict::Answer(reply)) => (reply.status, message(reply.text())),
            Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()),
        };
        // The model is only looked up behind the filters.
        explanation.filters.truncate(at + 1);
        explanation.model = None;
        return refuse(explanation, refused.0, format!("{} says: {}", named.name, refused.1));
    }
    let Some(caller) = exchange.caller() else { return };
    explanation.caller = Some(Identity::from(&**caller));
    let asked = explanation.model.as_ref().map(|model| &model.asked).or(explanation.request.model.as_ref()).cloned();
    match asked {
        Some(model) if !caller.may_use(&model) => {
            refuse(explanation, StatusCode::FORBIDDEN, format!("this key may not use {model}"));
        }
        _ => {}
    }
}

fn exchange(path: &str, sent: &Sent) -> Exchange {
    // What cannot be a header cannot be a key: it is sent as none.
    let bearer = sent.key.as_ref().and_then(|key| HeaderValue::from_str(&format!("Bearer {key}")).ok());
    let mut headers = sent.headers.clone();
    headers.extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
    let endpoint = Endpoint::from_path(path).unwrap_or(Endpoint::Other);
    let head = RequestHead { method: Method::POST, path: path.into(), query: None, headers };
    Exchange::new(head, endpoint, "explain".into(), None)
}

fn refuse(explanation: &mut Explanation, status: StatusCode, why: String) {
    explanation.targets.clear();
    explanation.refused = Some(Refusal { status: status.as_u16(), why });
}

/// What an error says, in either protocol.
fn message(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    body["error"]["message"].as_str().unwrap_or("no").to_owned()
}
