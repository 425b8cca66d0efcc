//! Conversations that nobody had.

/// What follows the text of the last message.
pub const END: &str = "\"}]}";

/// A conversation of `size` bytes, in messages as long as people's. `options` stand behind the model's name, each with a
/// comma before it.
pub fn conversation(model: &str, options: &str, size: usize) -> String {
    const MESSAGE: usize = 900;
    let turn = TURN.escape_default().to_string();
    let begin = "{\"role\":\"user\",\"content\":\"";
    let mut body = format!("{{\"model\":\"{model}\"{options},\"messages\":[{begin}");
    let mut message = 0;
    while body.len() + turn.len() + END.len() + begin.len() + 3 <= size {
        if message > MESSAGE {
            body += "\"},";
            body += begin;
            message = 0;
        } else {
            body += &turn;
            message += turn.len();
        }
    }
    let left = size.saturating_sub(body.len() + END.len());
    body.extend(std::iter::repeat_n('x', left));
    body + END
}

/// So many bytes of such talk.
pub fn text(size: usize) -> String {
    TURN.chars().cycle().take(size).collect()
}

const TURN: &str = "Could you look at \"the report\" once more?\nIt says that the tide turns at noon, and that the gate should \
                    have been open since the morning; which of the two is right? ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_json_of_the_size_asked_for() {
        for size in [256, 1024, 32 << 10, 1 << 20] {
            let body = conversation("m", ",\"temperature\":0.7,\"stream\":true", size);
            assert_eq!(body.len(), size);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(value["model"], "m");
        }
        assert_eq!(text(1000).len(), 1000);
    }
}
