//! `/v1/responses`, whole or as typed events.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::asked::{Asked, Refusal, last_user_text, text_of, words_in};
use super::completions::with;
use super::plan::{self, Plan, Script};
use super::speech::Speech;
use super::{Server, now};

pub(super) fn answer(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let input = asked.required("input")?;
    let prompt = match input {
        Value::Array(items) => last_user_text(items),
        other => text_of(other),
    };
    let instructions = asked.field("instructions").map(text_of).unwrap_or_default();
    let input_tokens = words_in(&text_of(input)) + words_in(&instructions);
    server.prompt_tokens.fetch_add(input_tokens, Ordering::Relaxed);
    let said = Answer {
        speech: Speech::about(&prompt, asked.count("max_output_tokens")?),
        item: server.id("msg_"),
        shell: shell(server, asked),
        input_tokens,
    };
    if asked.flag("stream")? {
        return Ok(Plan::Stream(said.script()));
    }
    Ok(Plan::Whole { body: said.finished(), tokens: said.speech.tokens() })
}

/// What is the same in a response before and after it was made.
fn shell(server: &Server, asked: &Asked) -> Value {
    let told = |name: &str, otherwise: Value| asked.field(name).cloned().unwrap_or(otherwise);
    json!({
        "id": server.id("resp_"), "object": "response", "created_at": now(), "model": asked.model,
        "status": "in_progress", "error": null, "incomplete_details": null, "output": [], "usage": null,
        "instructions": told("instructions", Value::Null),
        "max_output_tokens": told("max_output_tokens", Value::Null),
        "metadata": told("metadata", json!({})),
        "parallel_tool_calls": told("parallel_tool_calls", json!(true)),
        "previous_response_id": told("previous_response_id", Value::Null),
        "temperature": told("temperature", json!(1.0)),
        "text": told("text", json!({"format": {"type": "text"}})),
        "tool_choice": told("tool_choice", json!("auto")),
        "tools": told("tools", json!([])),
        "top_p": told("top_p", json!(1.0)),
        "truncation": told("truncation", json!("disabled")),
    })
}

struct Answer {
    speech: Speech,
    item: String,
    shell: Value,
    input_tokens: u64,
}

impl Answer {
    fn script(&self) -> Script {
        let mut script = Script::default();
        let mut number = 0_u64;
        let mut numbered = |event: Value| {
            let event = with(&event, &json!({"sequence_number": number}));
            number += 1;
            plan::typed(&event)
        };
        script.event(numbered(json!({"type": "response.created", "response": self.shell})));
        script.event(numbered(json!({"type": "response.in_progress", "response": self.shell})));
        let begun =
            json!({"id": self.item, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
        script.event(numbered(json!({"type": "response.output_item.added", "output_index": 0, "item": begun})));
        script.event(numbered(self.about("response.content_part.added", &json!({"part": part("")}))));
        for word in &self.speech.words {
            script.token(numbered(self.about("response.output_text.delta", &json!({"delta": word, "logprobs": []}))));
        }
        let text = self.speech.text();
        script.event(numbered(self.about("response.output_text.done", &json!({"text": text, "logprobs": []}))));
        script.event(numbered(self.about("response.content_part.done", &json!({"part": part(&text)}))));
        let item = self.message();
        script.event(numbered(json!({"type": "response.output_item.done", "output_index": 0, "item": item})));
        let ended = if self.speech.cut { "response.incomplete" } else { "response.completed" };
        script.event(numbered(json!({"type": ended, "response": self.finished()})));
        script
    }

    /// An event about the one text part of the one item.
    fn about(&self, kind: &str, fields: &Value) -> Value {
        with(&json!({"type": kind, "item_id": self.item, "output_index": 0, "content_index": 0}), fields)
    }

    fn status(&self) -> &'static str {
        if self.speech.cut { "incomplete" } else { "completed" }
    }

    fn message(&self) -> Value {
        json!({
            "id": self.item, "type": "message", "role": "assistant", "status": self.status(),
            "content": [part(&self.speech.text())],
        })
    }

    fn finished(&self) -> Value {
        let spoken = self.speech.tokens();
        let cut = if self.speech.cut { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        let usage = json!({
            "input_tokens": self.input_tokens, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": spoken, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + spoken,
        });
        with(
            &self.shell,
            &json!({"status": self.status(), "incomplete_details": cut, "output": [self.message()], "usage": usage}),
        )
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}
