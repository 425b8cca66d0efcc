//! What of a request cannot change its answer, and what beside its body can: the one list of each.

use crate::call::Endpoint;
use http::HeaderName;

/// Whether the topmost member `name` of a request to `endpoint` cannot change what is answered. Whatever is not named
/// here counts, known or not.
pub fn is_moot(endpoint: Endpoint, name: &str) -> bool {
    // Settled beforehand, and hashed as who answers.
    if name == "model" {
        return true;
    }
    // How the answer is to come, not what it says: it is kept so that it can come either way.
    if matches!(name, "stream" | "stream_options") {
        return true;
    }
    match endpoint {
        // Answers of the responses API repeat what they were asked with: metadata, user and the like are part of them.
        Endpoint::Responses => false,
        _ => MOOT.contains(&name),
    }
}

/// Who asks, what for, and under which number.
const MOOT: &[&str] = &[
    "user",
    "metadata",
    "store",
    "safety_identifier",
    // Names that backends may know a request by: vLLM, SGLang, llama.cpp.
    "request_id",
    "rid",
    "id_slot",
    // Hints for the backend's own cache of prompts.
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
];

/// Headers that change what is answered: versions and trial features of the API. `vary` adds to them.
pub fn telling_headers() -> [HeaderName; 4] {
    ["anthropic-version", "anthropic-beta", "openai-beta", "openai-version"].map(HeaderName::from_static)
}
