//! What can be read without asking for words: models, health, counts, tokens.

use std::sync::atomic::Ordering;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::asked::Refusal;
use super::plan::{self, Body};

/// The page at a path.
pub(super) fn page(server: &Server, path: &str) -> Result<Response<Body>, Refusal> {
    let body = match path {
        "/health" => json!({"status": "ok"}),
        "/metrics" => return Ok(plan::full(StatusCode::OK, "text/plain; version=0.0.4", metrics(server))),
        "/v1/models" => {
            let models: Vec<Value> = server.settings.models.iter().map(|name| model(server, name)).collect();
            json!({"object": "list", "data": models})
        }
        _ => match path.strip_prefix("/v1/models/") {
            Some(name) if server.serves(name) => model(server, name),
            Some(name) => return Err(Refusal::unknown_model(name)),
            None => return Err(Refusal::of(StatusCode::NOT_FOUND, format!("There is nothing at {path}"))),
        },
    };
    Ok(plan::json(StatusCode::OK, &body))
}

fn model(server: &Server, name: &str) -> Value {
    json!({"id": name, "object": "model", "created": server.started, "owned_by": "tidegate-simulator"})
}

/// The numbers llama.cpp publishes under these names.
fn metrics(server: &Server) -> String {
    let counted = |name: &str, kind: &str, help: &str, value: i128| {
        format!("# HELP llamacpp:{name} {help}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n")
    };
    let prompt = server.prompt_tokens.load(Ordering::Relaxed).into();
    let spoken = server.spoken_tokens.load(Ordering::Relaxed).into();
    let processing = server.processing.load(Ordering::Relaxed).into();
    [
        counted("prompt_tokens_total", "counter", "Number of prompt tokens processed.", prompt),
        counted("tokens_predicted_total", "counter", "Number of generation tokens processed.", spoken),
        counted("requests_processing", "gauge", "Number of requests processing.", processing),
        counted("requests_deferred", "gauge", "Number of requests deferred.", 0),
    ]
    .concat()
}

/// Takes llama.cpp's `content` or vLLM's `prompt`, and answers with the fields of both.
pub(super) fn tokenize(body: &[u8]) -> Result<Value, Refusal> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::of(StatusCode::BAD_REQUEST, format!("The body is not valid JSON: {error}")))?;
    let text = body.get("content").or_else(|| body.get("prompt")).and_then(Value::as_str);
    let Some(text) = text else {
        return Err(Refusal::invalid("content", "`content` (or `prompt`) must be a string"));
    };
    let tokens: Vec<u64> = text.split_whitespace().map(|word| super::vectors::hash(word) % 32_000).collect();
    Ok(json!({"count": tokens.len(), "max_model_len": 4096, "tokens": tokens}))
}
