//! When the simulator calls a tool, and with what: a tool is called if the user's words name it ("weather" and
//! `get_weather`), or if the caller demands it; its arguments are made up to fit its parameters.

use serde_json::{Map, Value, json};

use super::Server;
use super::asked::Asked;

/// A call of one tool.
pub(super) struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Call {
    /// The call that the prompt asks for, if any.
    pub(super) fn chosen(server: &Server, asked: &Asked, prompt: &str) -> Option<Self> {
        let tools = asked.field("tools")?.as_array()?;
        let function = match asked.field("tool_choice") {
            Some(choice) if choice == "none" => return None,
            Some(choice) if choice == "required" => named_in(tools, prompt).or_else(|| tools.first()),
            Some(Value::Object(choice)) => {
                let wanted = choice.get("function").and_then(|function| function.get("name"))?;
                tools.iter().find(|tool| tool["function"]["name"] == *wanted)
            }
            _ => named_in(tools, prompt),
        }?
        .get("function")?;
        let name = function.get("name")?.as_str()?.to_owned();
        let arguments = arguments(&function["parameters"], prompt).to_string();
        Some(Self { id: server.id("call_"), name, arguments })
    }

    pub(super) fn whole(&self) -> Value {
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }

    /// The call as a stream tells it: its name first, then the arguments in pieces.
    pub(super) fn deltas(&self) -> Vec<Value> {
        let opening = json!({
            "index": 0, "id": self.id, "type": "function", "function": {"name": self.name, "arguments": ""},
        });
        let pieces = self.pieces().map(|piece| json!({"index": 0, "function": {"arguments": piece}}));
        std::iter::once(opening).chain(pieces).map(|call| json!({"tool_calls": [call]})).collect()
    }

    pub(super) fn tokens(&self) -> u64 {
        1 + self.pieces().count() as u64
    }

    fn pieces(&self) -> impl Iterator<Item = &str> {
        self.arguments.split_inclusive([':', ',', ' '])
    }
}

/// The first tool with a word of at least four letters in its name that the prompt has too.
fn named_in<'a>(tools: &'a [Value], prompt: &str) -> Option<&'a Value> {
    let prompt = prompt.to_lowercase();
    tools.iter().find(|tool| {
        let name = tool["function"]["name"].as_str().unwrap_or_default().to_lowercase();
        name.split(|c: char| !c.is_alphanumeric()).any(|word| word.len() >= 4 && prompt.contains(word))
    })
}

fn arguments(parameters: &Value, prompt: &str) -> Value {
    let Some(properties) = parameters["properties"].as_object() else { return json!({}) };
    let filled: Map<String, Value> =
        properties.iter().map(|(name, schema)| (name.clone(), filled(schema, prompt))).collect();
    Value::Object(filled)
}

fn filled(schema: &Value, prompt: &str) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|allowed| allowed.first()) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => arguments(schema, prompt),
        _ => json!(subject(prompt)),
    }
}

/// The last capitalised word, which is the place in "What is the weather in Paris?"; else the last word.
fn subject(prompt: &str) -> &str {
    let mut words = prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let capital = words.clone().rfind(|word| word.starts_with(char::is_uppercase));
    capital.or_else(|| words.next_back()).unwrap_or("simulator")
}
