//! What a client asked: the JSON body, read leniently where servers differ and strictly where a wrong type
//! would make the answer a lie.

use http::StatusCode;
use serde_json::{Map, Value};

use super::Server;

/// A request that is not answered, in words for the caller.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param: Some(param), code: None }
    }

    pub(super) fn of(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{model}` does not exist here"),
            param: Some("model"),
            code: Some("model_not_found"),
        }
    }
}

/// A JSON body and the model it names.
#[derive(Debug)]
pub(super) struct Asked {
    body: Map<String, Value>,
    pub(super) model: String,
}

impl Asked {
    /// Reads the body of a POST; the model must be one that the server has.
    pub(super) fn read(server: &Server, body: &[u8]) -> Result<Self, Refusal> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::of(StatusCode::BAD_REQUEST, format!("The body is not valid JSON: {error}")))?;
        let Value::Object(body) = body else {
            return Err(Refusal::of(StatusCode::BAD_REQUEST, "The body must be a JSON object"));
        };
        let model = match body.get("model") {
            Some(Value::String(model)) => model.clone(),
            Some(_) => return Err(Refusal::invalid("model", "`model` must be a string")),
            None => return Err(Refusal::invalid("model", "`model` is missing")),
        };
        if server.serves(&model) { Ok(Self { body, model }) } else { Err(Refusal::unknown_model(&model)) }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&Value, Refusal> {
        self.field(name).ok_or_else(|| Refusal::invalid(name, format!("`{name}` is missing")))
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool, Refusal> {
        match self.field(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| Refusal::invalid(name, format!("`{name}` must be a boolean"))),
        }
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.field(name) else { return Ok(None) };
        match value.as_u64() {
            Some(count) if count > 0 => Ok(Some(count)),
            _ => Err(Refusal::invalid(name, format!("`{name}` must be a whole number of at least 1"))),
        }
    }

    /// How many answers are wanted: `n`, 1 if absent.
    pub(super) fn choices(&self) -> Result<u64, Refusal> {
        match self.count("n")?.unwrap_or(1) {
            n @ 1..=16 => Ok(n),
            _ => Err(Refusal::invalid("n", "`n` must be at most 16")),
        }
    }

    /// Whether a stream ends with a chunk of usage numbers.
    pub(super) fn usage_in_stream(&self) -> bool {
        self.field("stream_options").and_then(|o| o.get("include_usage")).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The conversation: `messages`, an array with something in it.
    pub(super) fn messages(&self) -> Result<&[Value], Refusal> {
        match self.required("messages")? {
            Value::Array(messages) if !messages.is_empty() => Ok(messages),
            _ => Err(Refusal::invalid("messages", "`messages` must be an array of at least one message")),
        }
    }
}

/// All text in a message, a part, a list of them, or a bare string, one line each.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"),
        Value::Object(part) => part.get("content").or_else(|| part.get("text")).map(text_of).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The text of the last message a user wrote.
pub(super) fn last_user_text(messages: &[Value]) -> String {
    let role = |message: &&Value| message.get("role").is_none_or(|role| role == "user");
    messages.iter().rev().find(role).map(text_of).unwrap_or_default()
}

/// Words stand for tokens everywhere in the simulator, so that its numbers can be checked by eye.
pub(super) fn words_in(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}
