//! `/v1/models`: what the file names and what the backends say they serve, as one list.
//!
//! Answered from what the probes last heard, so that a backend that is down takes nothing else off the list and a
//! client's question costs no backend anything.

use crate::models::Model;
use crate::snapshot::Snapshot;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use tidegate_config::Pattern;

/// The models there are, by id: those of the file in its order, then those that wildcards let through.
pub(crate) fn list(snapshot: &Snapshot) -> Vec<(String, Value)> {
    let mut listed = Vec::new();
    let mut seen = HashSet::new();
    for model in snapshot.models.iter() {
        let ids = match &model.pattern {
            Pattern::Exact(id) => vec![id.clone()],
            Pattern::Prefix(_) => served(model).into_iter().filter(|id| belongs(snapshot, id, model)).collect(),
        };
        for id in ids {
            if seen.insert(id.clone()) {
                let described = describe(model, &id);
                listed.push((id, Value::Object(described)));
            }
        }
    }
    listed
}

/// Whether a request for `id` would go to `model`, rather than to a closer one.
fn belongs(snapshot: &Snapshot, id: &str, model: &Arc<Model>) -> bool {
    snapshot.models.resolve(id).is_some_and(|resolved| Arc::ptr_eq(resolved, model))
}

/// The ids that the backends behind `model` serve.
fn served(model: &Model) -> Vec<String> {
    let mut ids = Vec::new();
    for backend in model.targets.iter().flat_map(|target| target.pool.backends()) {
        for described in &backend.serves.load().models {
            if let Some(id) = described.get("id").and_then(Value::as_str) {
                ids.push(id.to_owned());
            }
        }
    }
    ids
}

/// A model as its backend describes it, under the name that clients use for it.
fn describe(model: &Model, id: &str) -> Map<String, Value> {
    let mut described = model.targets.iter().find_map(|target| {
        let served = target.send_as.as_deref().unwrap_or(id);
        target.pool.backends().iter().find_map(|backend| {
            backend.serves.load().models.iter().find(|described| described.get("id") == Some(&json!(served))).cloned()
        })
    });
    let described = described.get_or_insert_default();
    described.insert("id".to_owned(), json!(id));
    for (key, value) in [("object", json!("model")), ("created", json!(0)), ("owned_by", json!("tidegate"))] {
        described.entry(key).or_insert(value);
    }
    std::mem::take(described)
}
