//! Who a key belongs to and what it may use, as the filters themselves say: they are run on a request with nothing
//! but its head.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::Serialize;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::exchange::{Exchange, RequestHead};
use tidegate_plugins::{Caller, Verdict};

use super::{Explanation, Refusal};
use crate::snapshot::NamedFilter;

/// Who sends the request, as a filter found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The name of the key.
    pub key: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The team.
    pub team: Option<String>,
    /// The organisation.
    pub org: Option<String>,
    /// The models it may ask for; absent: all.
    pub models: Option<Vec<String>>,
}

impl From<&Caller> for Identity {
    fn from(caller: &Caller) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let models = caller.models.as_ref().map(|models| models.iter().map(|model| model.to_string()).collect());
        Self {
            key: text(&caller.key),
            user: text(&caller.user),
            team: text(&caller.team),
            org: text(&caller.org),
            models,
        }
    }
}

/// Asks the filters, in the order of the file, what they make of the key. Those behind the first that needs the body
/// are not asked. `filters` are those of the configuration that was explained.
pub async fn identify(explanation: &mut Explanation, filters: &[NamedFilter], key: &str) {
    if explanation.filters.is_empty() {
        return;
    }
    let mut exchange = exchange(&explanation.request.path, key);
    for (at, named) in filters.iter().enumerate().take_while(|(_, named)| !named.filter.needs_body()) {
        let refused = match named.filter.request(&mut exchange).await {
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

fn exchange(path: &str, key: &str) -> Exchange {
    // What cannot be a header cannot be a key: it is sent as none.
    let bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok();
    let headers: HeaderMap = bearer.into_iter().map(|bearer| (AUTHORIZATION, bearer)).collect();
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
