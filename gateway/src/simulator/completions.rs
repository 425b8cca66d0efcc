//! `/v1/completions`: the older protocol, text in and text out.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::{Value, json};

use super::asked::{Asked, Refusal, text_of, words_in};
use super::plan::{self, Plan, Script};
use super::speech::Speech;
use super::{Server, now};

pub(super) fn answer(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let prompt = text_of(asked.required("prompt")?);
    let speech = Speech::about(&prompt, asked.count("max_tokens")?);
    let (choices, prompt_tokens) = (asked.choices()?, words_in(&prompt));
    server.prompt_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
    let spoken = speech.tokens() * choices;
    let usage =
        json!({"prompt_tokens": prompt_tokens, "completion_tokens": spoken, "total_tokens": prompt_tokens + spoken});
    let shell = json!({
        "id": server.id("cmpl-"), "object": "text_completion", "created": now(), "model": asked.model,
    });
    if asked.flag("stream")? {
        return Ok(Plan::Stream(script(&shell, &speech, choices, asked.usage_in_stream().then_some(usage))));
    }
    let (text, finish) = (speech.text(), finish(&speech));
    let choices: Vec<Value> = (0..choices).map(|index| choice(index, &text, Some(finish))).collect();
    Ok(Plan::Whole { body: with(&shell, &json!({"choices": choices, "usage": usage})), tokens: speech.tokens() })
}

fn script(shell: &Value, speech: &Speech, choices: u64, usage: Option<Value>) -> Script {
    let chunk = |choice: Value| {
        let fields = json!({"choices": [choice]});
        let chunk = with(shell, &fields);
        plan::data(&if usage.is_some() { with(&chunk, &json!({"usage": null})) } else { chunk })
    };
    let mut script = Script::default();
    for word in &speech.words {
        script.token(chunk(choice(0, word, None)));
        for index in 1..choices {
            script.token_beside(chunk(choice(index, word, None)));
        }
    }
    for index in 0..choices {
        script.event(chunk(choice(index, "", Some(finish(speech)))));
    }
    if let Some(usage) = &usage {
        script.event(plan::data(&with(shell, &json!({"choices": [], "usage": usage}))));
    }
    script.event(Bytes::from_static(b"data: [DONE]\n\n"));
    script
}

fn choice(index: u64, text: &str, finish: Option<&str>) -> Value {
    json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish})
}

fn finish(speech: &Speech) -> &'static str {
    if speech.cut { "length" } else { "stop" }
}

/// The object with these fields added.
pub(super) fn with(object: &Value, fields: &Value) -> Value {
    let mut object = object.clone();
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    object
}
