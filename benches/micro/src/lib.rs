//! What is measured: requests and events as they come, in sizes that matter.

pub mod balancers;
pub mod cache;
pub mod file;
pub mod limits;
pub mod parts;
pub mod replay;
pub mod road;

use bytes::Bytes;

/// A chat request of about `size` bytes, in messages of a few hundred bytes each.
pub fn chat(size: usize) -> Bytes {
    const MESSAGE: usize = 300;
    let messages: Vec<_> = (0..size.div_ceil(MESSAGE))
        .map(|turn| {
            let role = if turn % 2 == 0 { "user" } else { "assistant" };
            let text = "The tide comes in, \\\"slowly\\\", and goes out. ".repeat(6);
            format!(r#"{{"role":"{role}","content":"{text}"}}"#)
        })
        .collect();
    format!(r#"{{"model":"gpt-4o-mini","temperature":0.7,"stream":true,"messages":[{}]}}"#, messages.join(",")).into()
}

/// One event of a chat's stream, with one token.
pub fn event() -> Bytes {
    let data = r#"{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1730000000,"model":"llama-3.1-8b","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
    format!("data: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_about_as_large_as_asked() {
        for size in [1 << 10, 32 << 10, 1 << 20] {
            let length = chat(size).len();
            assert!(length >= size && length < 2 * size, "{size}: {length}");
        }
    }
}
