//! `/v1/chat/completions`, whole and streamed, in words or as a tool call.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::{Value, json};

use super::asked::{Asked, Refusal, last_user_text, text_of, words_in};
use super::plan::{self, Plan, Script};
use super::speech::Speech;
use super::tools::Call;
use super::{Server, now};

enum Said {
    Words(Speech),
    Call(Call),
}

pub(super) fn answer(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let messages = asked.messages()?;
    let limit = asked.count("max_completion_tokens")?.or(asked.count("max_tokens")?);
    let asked_for = last_user_text(messages);
    let said = match messages.last() {
        Some(last) if last["role"] == "tool" => Said::Words(Speech::about_tool(&text_of(last), limit)),
        _ => match Call::chosen(server, asked, &asked_for) {
            Some(call) => Said::Call(call),
            None => Said::Words(Speech::about(&asked_for, limit)),
        },
    };
    let chat = Chat {
        id: server.id("chatcmpl-"),
        created: now(),
        model: &asked.model,
        choices: asked.choices()?,
        prompt_tokens: messages.iter().map(|message| words_in(&text_of(message))).sum(),
        said,
    };
    server.prompt_tokens.fetch_add(chat.prompt_tokens, Ordering::Relaxed);
    if asked.flag("stream")? { Ok(Plan::Stream(chat.script(asked.usage_in_stream()))) } else { Ok(chat.whole()) }
}

struct Chat<'a> {
    id: String,
    created: u64,
    model: &'a str,
    choices: u64,
    prompt_tokens: u64,
    said: Said,
}

impl Chat<'_> {
    fn whole(&self) -> Plan {
        let message = match &self.said {
            Said::Words(speech) => json!({"role": "assistant", "content": speech.text(), "refusal": null}),
            Said::Call(call) => json!({"role": "assistant", "content": null, "tool_calls": [call.whole()]}),
        };
        let choice =
            |index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": self.finish()});
        let choices: Vec<Value> = (0..self.choices).map(choice).collect();
        let body = json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": choices, "usage": self.usage(),
        });
        // The choices are thought of side by side.
        Plan::Whole { body, tokens: self.tokens() }
    }

    fn script(&self, with_usage: bool) -> Script {
        let mut script = Script::default();
        let content = if matches!(self.said, Said::Words(_)) { json!("") } else { Value::Null };
        for index in 0..self.choices {
            script.event(self.chunk(index, &json!({"role": "assistant", "content": content}), None, with_usage));
        }
        for delta in self.deltas() {
            script.token(self.chunk(0, &delta, None, with_usage));
            for index in 1..self.choices {
                script.token_beside(self.chunk(index, &delta, None, with_usage));
            }
        }
        for index in 0..self.choices {
            script.event(self.chunk(index, &json!({}), Some(self.finish()), with_usage));
        }
        if with_usage {
            script.event(self.event(&json!([]), Some(self.usage())));
        }
        script.event(Bytes::from_static(b"data: [DONE]\n\n"));
        script
    }

    fn deltas(&self) -> Vec<Value> {
        match &self.said {
            Said::Words(speech) => speech.words.iter().map(|word| json!({"content": word})).collect(),
            Said::Call(call) => call.deltas(),
        }
    }

    fn chunk(&self, index: u64, delta: &Value, finish: Option<&str>, with_usage: bool) -> Bytes {
        let choices = json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        self.event(&choices, with_usage.then_some(Value::Null))
    }

    fn event(&self, choices: &Value, usage: Option<Value>) -> Bytes {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        plan::data(&chunk)
    }

    fn finish(&self) -> &'static str {
        match &self.said {
            Said::Words(speech) if speech.cut => "length",
            Said::Words(_) => "stop",
            Said::Call(_) => "tool_calls",
        }
    }

    fn tokens(&self) -> u64 {
        match &self.said {
            Said::Words(speech) => speech.tokens(),
            Said::Call(call) => call.tokens(),
        }
    }

    fn usage(&self) -> Value {
        let spoken = self.tokens() * self.choices;
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": spoken, "total_tokens": self.prompt_tokens + spoken,
        })
    }
}
