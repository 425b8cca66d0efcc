//! `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's protocol, whole and streamed.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Server;
use super::asked::{Asked, Refusal, last_user_text, text_of, words_in};
use super::completions::with;
use super::plan::{self, Plan, Script};
use super::speech::Speech;

pub(super) fn answer(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let input_tokens = input_tokens(asked)?;
    asked.required("max_tokens")?;
    let speech = Speech::about(&last_user_text(asked.messages()?), asked.count("max_tokens")?);
    server.prompt_tokens.fetch_add(input_tokens, Ordering::Relaxed);
    let shell = json!({
        "id": server.id("msg_"), "type": "message", "role": "assistant", "model": asked.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": input_tokens, "output_tokens": 0},
    });
    if asked.flag("stream")? {
        return Ok(Plan::Stream(script(&shell, &speech)));
    }
    let usage = json!({"input_tokens": input_tokens, "output_tokens": speech.tokens()});
    let content = json!([{"type": "text", "text": speech.text()}]);
    let body = with(&shell, &json!({"content": content, "stop_reason": stop_reason(&speech), "usage": usage}));
    Ok(Plan::Whole { body, tokens: speech.tokens() })
}

pub(super) fn count(_: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    Ok(Plan::Now(json!({"input_tokens": input_tokens(asked)?})))
}

fn input_tokens(asked: &Asked) -> Result<u64, Refusal> {
    let system = asked.field("system").map(text_of).unwrap_or_default();
    Ok(words_in(&system) + asked.messages()?.iter().map(|message| words_in(&text_of(message))).sum::<u64>())
}

fn script(shell: &Value, speech: &Speech) -> Script {
    let mut script = Script::default();
    let block = json!({"type": "text", "text": ""});
    script.event(plan::typed(&json!({"type": "message_start", "message": shell})));
    script.event(plan::typed(&json!({"type": "content_block_start", "index": 0, "content_block": block})));
    script.event(plan::typed(&json!({"type": "ping"})));
    for word in &speech.words {
        let delta = json!({"type": "text_delta", "text": word});
        script.token(plan::typed(&json!({"type": "content_block_delta", "index": 0, "delta": delta})));
    }
    script.event(plan::typed(&json!({"type": "content_block_stop", "index": 0})));
    let delta = json!({"stop_reason": stop_reason(speech), "stop_sequence": null});
    let usage = json!({"output_tokens": speech.tokens()});
    script.event(plan::typed(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
    script.event(plan::typed(&json!({"type": "message_stop"})));
    script
}

fn stop_reason(speech: &Speech) -> &'static str {
    if speech.cut { "max_tokens" } else { "end_turn" }
}
