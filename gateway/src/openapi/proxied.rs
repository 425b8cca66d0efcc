//! What clients call. Bodies are their servers' own: only what the gateway reads of them, or changes, is described; all
//! else passes as it is.

use super::{Operation, info, paths};
use serde_json::{Map, Value, json};

const ABOUT: &str = "One address for all models. Bodies and answers are those of the model servers, byte for byte; here is what \
    the gateway itself reads, and what it adds. Any other path under /v1/ passes too, if the file says to whom \
    (`other_paths`). docs/faults.md has each error by its code.";

/// docs/openapi.json, as it should be.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": info("Tidegate", ABOUT),
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "x_api_key": [] }, {}],
        "tags": [
            { "name": "OpenAI", "description": "As OpenAI's SDKs speak." },
            { "name": "Anthropic", "description": "As Anthropic's SDKs speak; errors have their shape." },
            { "name": "servers", "description": "What model servers have beside." },
        ],
        "paths": paths(operations()),
        "components": {
            "schemas": schemas(),
            "headers": headers(),
            "responses": responses(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A key (`api_key`), or a token (`jwt`)." },
                "x_api_key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
        },
    })
}

/// How the gateway's own refusals are told, by status: what each may be.
const REFUSALS: [(u16, &str); 18] = [
    (400, "What was sent is wrong: `param` and the message say where."),
    (401, "The key or token is missing, unknown, or has ended."),
    (403, "The caller may not: this model, from this address, or for want of an organisation."),
    (404, "There is no such path, or nobody answers for this model."),
    (405, "Not with this method; see `allow`."),
    (408, "The body came too slowly."),
    (409, "The request with this Idempotency-Key is still being answered."),
    (413, "The body is larger than it may be."),
    (415, "The body is compressed."),
    (417, "`expect` with anything but 100-continue."),
    (422, "This Idempotency-Key was used with another body."),
    (429, "A limit, a budget, or backends that are full; `retry-after` says when to come back."),
    (431, "The head is larger than it may be."),
    (500, "Our fault."),
    (502, "The backend broke, or made no sense."),
    (503, "No backend is there, all are full, or the gateway is on its way out."),
    (504, "The backend took too long; or only a kept answer was wanted and there is none."),
    (529, "The backend is overloaded, in Anthropic's words."),
];

fn responses() -> Value {
    let response = |about: &str, schema: &str| {
        json!({
            "description": about,
            "headers": {
                "x-request-id": { "$ref": "#/components/headers/x-request-id" },
                "retry-after": { "$ref": "#/components/headers/retry-after" },
                "x-should-retry": { "$ref": "#/components/headers/x-should-retry" },
            },
            "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } },
        })
    };
    let mut all = Map::new();
    for (status, about) in REFUSALS {
        all.insert(format!("OpenAI{status}"), response(about, "Error"));
        all.insert(format!("Anthropic{status}"), response(about, "AnthropicError"));
    }
    all.into()
}

const HEADERS: [(&str, &str); 15] = [
    ("x-request-id", "The id of the request: the client's own, if it sent one, or a new one."),
    ("x-upstream-request-id", "The backend's own id."),
    ("x-correlation-id", "As the client sent it."),
    ("x-tidegate-backend", "Who answered."),
    ("x-tidegate-attempts", "How many backends were tried."),
    ("x-tidegate-overhead-ms", "Time the gateway added before the head of the answer."),
    ("x-ratelimit-limit-requests", "What the tightest limit of requests holds."),
    ("x-ratelimit-remaining-requests", "What is left of it."),
    ("x-ratelimit-reset-requests", "When it is full again, such as 6m0s."),
    ("x-ratelimit-limit-tokens", "What the tightest limit of tokens holds."),
    ("x-ratelimit-remaining-tokens", "What is left of it."),
    ("x-ratelimit-reset-tokens", "When it is full again."),
    ("cache-status", "What the cache made of it (RFC 9211)."),
    ("retry-after", "Seconds until it is worth asking again; retry-after-ms is finer."),
    ("x-should-retry", "false where waiting does not help."),
];

fn headers() -> Value {
    let headers =
        HEADERS.map(|(name, about)| (name.to_owned(), json!({ "description": about, "schema": { "type": "string" } })));
    Value::Object(headers.into_iter().collect())
}

fn schemas() -> Value {
    json!({
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": { "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": { "type": "string" },
                    "type": { "type": ["string", "null"] },
                    "param": { "type": ["string", "null"] },
                    "code": { "type": ["string", "null"], "description": "See docs/faults.md." },
                },
            } },
        },
        "AnthropicError": {
            "type": "object",
            "required": ["type", "error"],
            "properties": {
                "type": { "const": "error" },
                "error": { "type": "object", "required": ["type", "message"], "properties": {
                    "type": { "type": "string" }, "message": { "type": "string" },
                } },
                "request_id": { "type": ["string", "null"] },
            },
        },
        "Call": {
            "type": "object",
            "description": "A call of a model. All other members pass.",
            "properties": {
                "model": { "type": "string", "description": "An entry of `models`; may be absent where the file has a `default_model`." },
                "stream": { "type": "boolean", "description": "Whether the answer is to come as events." },
            },
            "additionalProperties": true,
        },
        "Models": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {
                "object": { "const": "list" },
                "data": { "type": "array", "items": { "$ref": "#/components/schemas/Model" } },
            },
        },
        "Model": {
            "type": "object",
            "required": ["id", "object"],
            "properties": { "id": { "type": "string" }, "object": { "const": "model" } },
            "additionalProperties": true,
        },
    })
}

/// The paths of calls: tag, path, what for, what else the gateway reads in the body, and whether answers may stream.
const CALLS: [(&str, &str, &str, &[&str], bool); 11] = [
    (
        "OpenAI",
        "/v1/chat/completions",
        "Chat",
        &["messages", "max_tokens", "max_completion_tokens", "stream_options", "n"],
        true,
    ),
    ("OpenAI", "/v1/completions", "Complete a text", &["prompt", "max_tokens", "stream_options", "n"], true),
    ("OpenAI", "/v1/responses", "Respond", &["input", "previous_response_id", "max_output_tokens"], true),
    ("OpenAI", "/v1/embeddings", "Embed texts", &["input", "encoding_format", "dimensions"], false),
    ("Anthropic", "/v1/messages", "Answer messages", &["messages", "system", "max_tokens"], true),
    ("Anthropic", "/v1/messages/count_tokens", "Count the tokens of messages", &["messages", "system"], false),
    ("servers", "/v1/rerank", "Order documents", &["query", "documents"], false),
    ("servers", "/v2/rerank", "Order documents", &["query", "documents"], false),
    ("servers", "/rerank", "Order documents", &["query", "documents"], false),
    ("servers", "/tokenize", "Cut a text into tokens", &[], false),
    ("servers", "/detokenize", "Make tokens a text", &[], false),
];

fn operations() -> Vec<Operation> {
    let mut all: Vec<Operation> = CALLS.iter().map(call).collect();
    for path in ["/v1/audio/{what}", "/v1/images/{what}"] {
        let form =
            json!({ "type": "object", "properties": { "model": { "type": "string" } }, "additionalProperties": true });
        let mut operation =
            Operation::new("OpenAI", "post", path, "Audio and images: JSON, or a form that is streamed")
                .path("what", "Such as transcriptions, speech, generations, edits.")
                .takes(true, json!({ "$ref": "#/components/schemas/Call" }));
        if let Some(body) = &mut operation.body {
            body["content"]["multipart/form-data"] = json!({ "schema": form });
        }
        all.push(refusing(operation.content(200, "The server's answer.", json!({ "*/*": {} })), "OpenAI"));
    }
    let realtime = Operation::new("OpenAI", "get", "/v1/realtime", "Talk over a WebSocket")
        .query("model", "string", "An entry of `models`.")
        .content(101, "The WebSocket; from here on the server's protocol.", json!({}));
    all.push(refusing(realtime, "OpenAI"));
    let list = Operation::new("OpenAI", "get", "/v1/models", "List the models that the caller may use");
    all.push(refusing(list.gives(200, "What the file names and backends serve.", "Models"), "OpenAI"));
    let one = Operation::new("OpenAI", "get", "/v1/models/{model}", "Look at a model").path("model", "Its name.");
    all.push(refusing(one.gives(200, "The model.", "Model"), "OpenAI"));
    all
}

fn call((tag, path, about, reads, streams): &(&'static str, &'static str, &'static str, &[&str], bool)) -> Operation {
    let read: Map<String, Value> = reads.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    let mut body = json!({ "allOf": [{ "$ref": "#/components/schemas/Call" }] });
    if !read.is_empty() {
        body["properties"] = read.into();
    }
    let mut content = json!({ "application/json": {} });
    if *streams {
        let about = "Whole events; one that fails after it has begun ends with an event that has an `error`.";
        content["text/event-stream"] = json!({ "schema": { "type": "string", "description": about } });
    }
    let operation = Operation::new(tag, "post", path, about)
        .header("x-request-id", "Taken over if it is 1 to 128 printable ASCII characters.")
        .header("traceparent", "Continued if it is valid (W3C).")
        .header("idempotency-key", "The same answer for the same key, where the file has the filter.")
        .header("cache-control", "no-store, no-cache, max-age=N, only-if-cached: what the cache may do.")
        .takes(true, body)
        .content(200, "The server's answer.", content);
    refusing(operation, if *tag == "Anthropic" { "Anthropic" } else { "OpenAI" })
}

/// With the refusals that any path may have, and the headers of answers.
fn refusing(mut operation: Operation, shape: &str) -> Operation {
    let headers: Map<String, Value> = HEADERS
        .iter()
        .filter(|(name, _)| !matches!(*name, "retry-after" | "x-should-retry"))
        .map(|(name, _)| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") })))
        .collect();
    for answer in operation.answers.values_mut() {
        answer["headers"] = headers.clone().into();
    }
    for (status, _) in REFUSALS.iter().filter(|(status, _)| shape == "Anthropic" || *status != 529) {
        let answer = json!({ "$ref": format!("#/components/responses/{shape}{status}") });
        operation.answers.insert(status.to_string(), answer);
    }
    operation
}
