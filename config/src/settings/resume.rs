//! When the rest of a stream that broke is asked of another backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, SizeText};

/// When a stream breaks after its client has seen a part of it, the rest is asked of another backend, as a continuation
/// of what has been given: the client reads one unbroken stream. For streams of plain text of `/v1/chat/completions` and
/// `/v1/completions` only: nothing with tools, a schema, several choices, log probabilities or reasoning is continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resume {
    /// How the pool's backends are asked to continue a chat.
    pub style: ResumeStyle,
    /// How often the rest of one stream is asked for.
    pub attempts: u32,
    /// The longest text that is kept to be continued; it and the request's body count among `limits.bodies_in_flight`
    /// until the stream ends. A stream that grows longer is not resumed.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub text: usize,
}

impl Default for Resume {
    fn default() -> Self {
        Self { style: ResumeStyle::default(), attempts: 2, text: 256 << 10 }
    }
}

/// How a backend is asked to continue a chat. A prompt of `/v1/completions` is simply made longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResumeStyle {
    /// What was given is the last message, with `continue_final_message: true` and `add_generation_prompt: false`: vLLM,
    /// SGLang; llama.cpp passes over the fields and continues. A backend that refuses them is remembered for ten minutes.
    #[default]
    ContinueFinalMessage,
    /// What was given is the last message, and nothing else says so: for backends that continue a last message of the
    /// assistant by themselves, and refuse the fields.
    Prefill,
}

impl ResumeStyle {
    /// The word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ContinueFinalMessage => "continue_final_message",
            Self::Prefill => "prefill",
        }
    }
}
