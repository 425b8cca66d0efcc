//! How servers say that a request is longer than the model's context, be it by its prompt alone or together with the
//! tokens it asks for: each has words of its own. They are looked for where a server speaks, at the beginning of what it
//! says is wrong: a server that quotes the request may quote a prompt about exactly this.

use tidegate_plugins::events::Events;
use tidegate_plugins::json;

/// What a server says, as pieces that follow each other in its sentence, in small letters.
const TOO_LONG: [&[&str]; 31] = [
    // OpenAI, Groq, Azure, Cerebras and whoever speaks like them; llama.cpp; Z.ai; LiteLLM.
    &["context_length_exceeded"],
    &["exceed_context_size"],
    &["context_window_exceeded"],
    &["contextwindowexceedederror"],
    // OpenAI, vLLM, SGLang, DeepSeek, OpenRouter, Mistral, Ollama.
    &["maximum context length"],
    // vLLM 0.16 and SGLang; vLLM, of its engine, of older models, and of `max_tokens` alone.
    &["model's context length"],
    &["prompt", "longer than the maximum model length"],
    &["too long to fit into the model"],
    &["max_tokens", "cannot be greater than max_model_len"],
    // SGLang's scheduler, Poolside; TensorRT-LLM.
    &["input length", "exceeds the maximum allowed", "tokens"],
    &["prompt length", "should not exceed max_seq_len"],
    // TGI and TEI.
    &["`inputs` must have less than", "tokens"],
    &["`inputs` tokens + `max_new_tokens` must be <="],
    // llama.cpp, of what it splits and of what it cannot.
    &["exceeds the available context size"],
    &["larger than the max context size"],
    // Ollama, in three versions; LM Studio, in two.
    &["longer than the context length"],
    &["exceeds the context length"],
    &["exceeded max context length"],
    &["greater than the context length"],
    &["loaded with context length of only"],
    // Anthropic, also at Bedrock and Vertex.
    &["prompt is too long"],
    &["exceed context limit"],
    // OpenAI's responses, MiniMax, gateways.
    &["exceed", "context window"],
    &["context window exceeds limit"],
    // Bedrock, Gemini, xAI, Cohere, Kimi, Qwen; Groq.
    &["input is too long for requested model"],
    &["input token count", "exceeds the maximum number of tokens"],
    &["maximum prompt length is", "tokens"],
    &["too many tokens: size limit exceeded"],
    &["exceeded model token limit"],
    &["range of input length should be"],
    &["reduce the length of the messages"],
];

/// How much of a sentence is read.
const BEGINNING: usize = 512;

/// Whether a refusal says so, be it an answer or an event of a stream.
pub(crate) fn says_too_long(body: &[u8]) -> bool {
    let mut events = Events::new(body).filter(|event| !event.is_comment_only()).peekable();
    if events.peek().is_some() {
        return events.any(|event| says(&event.payload()));
    }
    says(body.trim_ascii())
}

/// Whether one who describes a fault describes this one.
fn says(said: &[u8]) -> bool {
    match said.first() {
        Some(b'{') => speaks(said, NESTS),
        // Gemini puts its only fault into a list.
        Some(b'[') => {
            json::elements_within(said, 0..said.len()).next().is_some_and(|fault| speaks(&said[fault], NESTS))
        }
        _ => is_too_long(&String::from_utf8_lossy(said)),
    }
}

/// How deep a fault may lie in others.
const NESTS: u8 = 3;

/// Whether the fault that `object` describes is this one.
fn speaks(object: &[u8], nests: u8) -> bool {
    const SPEAK: [&str; 6] = ["error", "message", "detail", "code", "type", "error_type"];
    json::members(object).filter(|member| SPEAK.iter().any(|name| member.is(name))).any(|member| {
        match &object[member.value.clone()] {
            [b'"', text @ .., b'"'] => json::unquoted(text).is_some_and(|text| is_too_long(&text)),
            inner @ [b'{', ..] if nests > 0 => speaks(inner, nests - 1),
            _ => false,
        }
    })
}

/// Whether this is said. A length in letters is that of a field.
fn is_too_long(text: &str) -> bool {
    let beginning: String = text.chars().take(BEGINNING).collect::<String>().to_lowercase().replace('\u{2019}', "'");
    let is_said = |pieces: &&[&str]| {
        let mut rest = Some(&*beginning);
        pieces.iter().all(|piece| {
            rest = rest.and_then(|rest| Some(&rest[rest.find(piece)? + piece.len()..]));
            rest.is_some()
        })
    };
    let of_a_field = beginning.contains("character") && !beginning.contains("token");
    !of_a_field && TOO_LONG.iter().any(is_said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openai(message: &str) -> String {
        serde_json::json!({ "error": { "message": message, "type": "BadRequestError", "param": null, "code": 400 } })
            .to_string()
    }

    fn flat(message: &str) -> String {
        serde_json::json!({ "object": "error", "message": message, "type": "BadRequestError", "code": 400 }).to_string()
    }

    fn bare(message: &str) -> String {
        serde_json::json!({ "error": message, "error_type": "validation" }).to_string()
    }

    #[test]
    fn engines_say_it_in_words_of_their_own() {
        for body in [
            // vLLM, from the oldest to the newest.
            flat("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion."),
            openai("The prompt (total length 25938) is too long to fit into the model (context length 4096)."),
            openai("The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens."),
            openai("The decoder prompt (length 4096) plus the number of requested output tokens (at least 1) is longer than the maximum model length of 4096."),
            openai("'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum context length is 4096 tokens and your request has 500 input tokens (4000 > 4096 - 500)."),
            openai("You passed 1193 input tokens and requested 7000 output tokens. However, the model's context length is only 8192 tokens, resulting in a maximum input length of 1192 tokens."),
            openai("This model's maximum context length is 100 tokens. However, you requested 9 output tokens and your prompt contains 999 characters (more than 900 characters, which is the upper bound for 91 input tokens)."),
            openai("max_tokens=200000 cannot be greater than max_model_len=max_total_tokens=4096. Please request fewer output tokens."),
            // SGLang, also where it has begun a stream.
            flat("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
            flat("Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 4000 tokens from the input messages and 1000 tokens for the completion."),
            flat("Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens). Use a shorter input or enable --allow-auto-truncate."),
            format!("data: {}\n\n", openai("The input (5000 tokens) is longer than the model's context length (4096 tokens).")),
            // TGI, TEI, TensorRT-LLM.
            bare("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 20 `max_new_tokens`"),
            bare("Input validation error: `inputs` must have less than 1024 tokens. Given: 5000"),
            flat("The sum of prompt length (4000) and query length (0) max_tokens (2048) should not exceed max_seq_len (4096)"),
            // llama.cpp, from the oldest to the newest.
            openai("the request exceeds the available context size. try increasing the context size or enable context shift"),
            r#"{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size (4 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":4}}"#.to_owned(),
            openai("input (100500 tokens) is larger than the max context size (4096 tokens). skipping"),
            // Ollama, LM Studio.
            bare("input length exceeds maximum context length"),
            bare("the input length exceeds the context length"),
            bare("prompt too long; exceeded max context length by 4096 tokens"),
            openai("the prompt is longer than the context length currently available to the model; shorten the prompt"),
            bare("The number of tokens to keep from the initial prompt is greater than the context length."),
            bare("Trying to keep the first 50785 tokens when context the overflows. However, the model is loaded with context length of only 45217 tokens, which is not enough."),
        ] {
            assert!(says_too_long(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn services_say_it_in_words_of_their_own() {
        for body in [
            r#"{"error":{"message":"x","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#.to_owned(),
            openai("Your input exceeds the context window of this model. Please adjust your input and try again."),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#.to_owned(),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or `max_tokens` and try again"}}"#.to_owned(),
            r#"{"message":"Input is too long for requested model."}"#.to_owned(),
            r#"[{"error":{"code":400,"message":"The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).","status":"INVALID_ARGUMENT"}}]"#.to_owned(),
            flat("Prompt contains 300000 tokens and 0 draft tokens, too large for model with 131072 maximum context length"),
            flat("This model\u{2019}s maximum context length is 131072 tokens."),
            r#"{"code":"x","error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens."}"#.to_owned(),
            r#"{"message":"too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs."}"#.to_owned(),
            openai("Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)"),
            openai("Range of input length should be [1, 129024]"),
            openai("Please reduce the length of the messages or completion."),
            openai("litellm.ContextWindowExceededError: No models have context window large enough for this call."),
            r#"{"detail":{"error":"invalid params, context window exceeds limit"}}"#.to_owned(),
        ] {
            assert!(says_too_long(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn another_refusal_is_not_taken_for_it() {
        for body in [
            openai("max_tokens is too large: 200000. This model supports at most 16384 completion tokens, whereas you provided 200000."),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 200000 > 64000, which is the maximum allowed number of output tokens for this model"}}"#.to_owned(),
            openai("max_tokens must be at least 1, got 0."),
            openai("truncate_prompt_tokens value (9000) is greater than max_model_len (4096). Please request a smaller truncation size."),
            r#"{"message":"too many tokens: max tokens must be less than or equal to 4096, the maximum output for this model - received 8192."}"#.to_owned(),
            openai("Invalid 'user': string too long. Expected a string with maximum length 64, but got a string with length 65 instead."),
            openai("'prompt' is too long: at most 4000 characters."),
            openai("Prompt is too long. The maximum is 4000 characters."),
            r#"{"error":{"message":"Request too large for model `x` in organization `y` on tokens per minute (TPM): Limit 6000, Requested 9000, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#.to_owned(),
            r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#.to_owned(),
            // Quoted, not said.
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{"prompt":"what is a maximum context length"}}]}"#.to_owned(),
            r#"{"error":{"message":"x","code":400},"request":{"message":"maximum context length"}}"#.to_owned(),
            openai(&format!("Field required; got {}: prompt is too long", "x".repeat(600))),
            String::new(),
            "{\"error\":".to_owned(),
        ] {
            assert!(!says_too_long(body.as_bytes()), "{body}");
        }
    }
}
