//! Which of the known endpoints a path names.

/// What a request asks for, read from its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/rerank`, `/v2/rerank`, `/rerank`
    Rerank,
    /// `/v1/messages`, Anthropic's protocol
    Messages,
    /// `/v1/messages/count_tokens`, Anthropic's protocol
    CountTokens,
    /// `/tokenize`
    Tokenize,
    /// `/detokenize`
    Detokenize,
    /// `/v1/images/*`
    Images,
    /// `/v1/audio/*`
    Audio,
    /// Any other path under `/v1/`
    Other,
}

impl Endpoint {
    /// The endpoint that `path` (without its query) names; `None` for a path that is none of ours, or that a backend
    /// may read as another than we do (`/v1/%63hat/completions`, `/v1//chat`, `/v1/x/../chat`).
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/responses" => Self::Responses,
            "/v1/rerank" | "/v2/rerank" | "/rerank" => Self::Rerank,
            "/v1/messages" => Self::Messages,
            "/v1/messages/count_tokens" => Self::CountTokens,
            "/tokenize" => Self::Tokenize,
            "/detokenize" => Self::Detokenize,
            _ => {
                let rest = path.strip_prefix("/v1/").filter(|rest| has_one_reading(rest))?;
                match rest.split_once('/') {
                    Some(("images", _)) => Self::Images,
                    Some(("audio", _)) => Self::Audio,
                    _ => Self::Other,
                }
            }
        })
    }

    /// Whether a call of this endpoint has to name a model. A tokenizer's server often has but one, and what other
    /// paths carry we do not know.
    #[must_use]
    pub fn needs_model(self) -> bool {
        !matches!(self, Self::Tokenize | Self::Detokenize | Self::Other)
    }

    /// A short name, for labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Rerank => "rerank",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Tokenize => "tokenize",
            Self::Detokenize => "detokenize",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Other => "other",
        }
    }

    /// The value of `gen_ai.operation.name`: the semantic conventions' own where they have one, else our short name.
    #[must_use]
    pub fn gen_ai_operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            other => other.as_str(),
        }
    }
}

/// Whether every server reads this path as the same one: no empty or dot segments, no backslash, and nothing
/// percent-encoded that need not be (RFC 3986 section 6.2.2).
fn has_one_reading(path: &str) -> bool {
    let segments_are_plain = path.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    let mut escapes = path.split('%');
    let bare = escapes.next().unwrap_or_default();
    let text_is_plain = |text: &str| !text.bytes().any(|byte| byte == b'\\' || byte <= b' ' || byte >= 0x7f);
    segments_are_plain
        && text_is_plain(bare)
        && escapes.all(|escape| escape.get(..2).is_some_and(must_be_escaped) && text_is_plain(&escape[2..]))
}

fn must_be_escaped(hex: &str) -> bool {
    let digits = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = u8::from_str_radix(hex, 16).ok().filter(|_| digits);
    byte.is_some_and(|byte| {
        !byte.is_ascii_alphanumeric()
            && !byte.is_ascii_control()
            && !matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_its_endpoint() {
        let known = [
            ("/v1/chat/completions", Endpoint::Chat),
            ("/v1/completions", Endpoint::Completions),
            ("/v1/embeddings", Endpoint::Embeddings),
            ("/v1/responses", Endpoint::Responses),
            ("/v1/rerank", Endpoint::Rerank),
            ("/v2/rerank", Endpoint::Rerank),
            ("/rerank", Endpoint::Rerank),
            ("/v1/messages", Endpoint::Messages),
            ("/v1/messages/count_tokens", Endpoint::CountTokens),
            ("/tokenize", Endpoint::Tokenize),
            ("/detokenize", Endpoint::Detokenize),
            ("/v1/audio/transcriptions", Endpoint::Audio),
            ("/v1/images/generations", Endpoint::Images),
            ("/v1/files/file-1", Endpoint::Other),
            ("/v1/files/a%20b%C3%A9", Endpoint::Other),
            ("/v1/images", Endpoint::Other),
        ];
        for (path, endpoint) in known {
            assert_eq!(Endpoint::from_path(path), Some(endpoint), "{path}");
        }
    }

    #[test]
    fn a_path_with_two_readings_is_none() {
        let bent = [
            "",
            "/",
            "/v1",
            "/v1/",
            "/V1/chat/completions",
            "/v1/chat/completions/",
            "/v1//chat/completions",
            "/v1/./chat",
            "/v1/x/../chat/completions",
            "/v1/%63hat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat%2Fcompletions",
            "/v1/%2e%2e/x",
            "/v1/a%",
            "/v1/a%2",
            "/v1/a%zz",
            "/v1/a%+1",
            "/v1/a%00",
            "/v1/a\\b",
            "/v1/a b",
            "/v1/é",
            "/metrics",
        ];
        for path in bent {
            assert_eq!(Endpoint::from_path(path), None, "{path}");
        }
    }
}
