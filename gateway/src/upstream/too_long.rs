//! How servers say that a prompt is longer than the model's context: each has words of its own.

use memchr::memmem;

/// OpenAI, vLLM, SGLang, llama.cpp, Anthropic, TGI.
const TOO_LONG: [&[u8]; 8] = [
    b"context_length_exceeded",
    b"maximum context length",
    b"exceed_context_size",
    b"exceeds the available context size",
    b"context window",
    b"is longer than the model's context length",
    b"prompt is too long",
    b"`inputs` must have less than",
];

/// Whether a refusal says so.
pub(crate) fn says_too_long(body: &[u8]) -> bool {
    let body = body.to_ascii_lowercase();
    TOO_LONG.iter().any(|words| memmem::find(&body, words).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_it_in_words_of_their_own() {
        for body in [
            r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested"}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 300000 tokens"}}"#,
        ] {
            assert!(says_too_long(body.as_bytes()), "{body}");
        }
        assert!(!says_too_long(br#"{"error":{"message":"max_tokens is too large"}}"#));
    }
}
