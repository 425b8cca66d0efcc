//! Tokens, as a backend reports them in an answer.
//!
//! Every protocol has its own words for them; here they become one [`Usage`]. Only answers and events that contain
//! `"usage"` at all are looked into, and only the counts are read, so that a backend's odd types in other fields (or
//! in some of the counts) cost no more than those counts.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::json;

/// The key, to look for with [`json::mentions`].
pub(crate) static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));

/// More tokens than any request has: the largest contexts and batches are far below. One count that a broken backend makes up
/// would otherwise empty limits for hours, and stay in sums for ever.
const MOST: u64 = 1 << 26;

/// A backend says of itself what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unbelievable;

/// What an answer has cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// All tokens of the answer, reasoning included.
    pub completion: Option<u64>,
    /// Those of the prompt that came from the backend's cache.
    pub cached_prompt: Option<u64>,
    /// Those of the answer that were spent on reasoning.
    pub reasoning: Option<u64>,
    /// Whether the answer's tokens were counted by us, because the backend's own count did not come.
    pub estimated: bool,
}

/// Where in an answer the usage stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Top,
    /// In `message`: how a stream of Anthropic's begins, before anything was spent on the answer.
    Message,
    /// In `response`: an event of the responses API.
    Response,
}

impl Usage {
    /// The usage in a whole answer, or in the data of one event. `"usage": null` is none, and so is one that cannot be.
    #[must_use]
    pub fn from_answer(json: &[u8]) -> Option<Self> {
        Self::with_place(json)?.ok().map(|(usage, _)| usage)
    }

    /// Whether there is a usage that is not believed: it has a count that no request can have.
    #[must_use]
    pub fn is_unbelievable(json: &[u8]) -> bool {
        matches!(Self::with_place(json), Some(Err(Unbelievable)))
    }

    pub(crate) fn with_place(json: &[u8]) -> Option<Result<(Self, Place), Unbelievable>> {
        if !json::mentions(json, &KEY) {
            return None;
        }
        let within = |range: Range<usize>| {
            let usage = json::members_within(json, range).find(|member| member.key == b"usage")?;
            Self::of_object(json, usage.value)
        };
        let (usage, place) = json::members(json).find_map(|member| match member.key {
            b"usage" => Some((Self::of_object(json, member.value)?, Place::Top)),
            b"message" => Some((within(member.value)?, Place::Message)),
            b"response" => Some((within(member.value)?, Place::Response)),
            _ => None,
        })?;
        let counts = [usage.prompt, usage.completion, usage.cached_prompt, usage.reasoning];
        let is_possible = counts.into_iter().flatten().all(|count| count <= MOST);
        Some(if is_possible { Ok((usage, place)) } else { Err(Unbelievable) })
    }

    fn of_object(json: &[u8], usage: Range<usize>) -> Option<Self> {
        let number = |value: Range<usize>| json::whole_number(&json[value]);
        let detail = |details: Range<usize>, name: &[u8]| {
            number(json::members_within(json, details).find(|member| member.key == name)?.value)
        };
        let mut read = Self::default();
        let (mut cache_write, mut cache_read, mut total) = (None, None, None);
        for member in json::members_within(json, usage) {
            match member.key {
                b"prompt_tokens" | b"input_tokens" => read.prompt = number(member.value),
                b"completion_tokens" | b"output_tokens" => read.completion = number(member.value),
                b"total_tokens" => total = number(member.value),
                b"cache_read_input_tokens" => cache_read = number(member.value),
                b"cache_creation_input_tokens" => cache_write = number(member.value),
                b"prompt_tokens_details" | b"input_tokens_details" => {
                    read.cached_prompt = detail(member.value, b"cached_tokens");
                }
                b"completion_tokens_details" | b"output_tokens_details" => {
                    read.reasoning = detail(member.value, b"reasoning_tokens");
                }
                _ => {}
            }
        }
        // Anthropic counts the cache beside the input, the others within it.
        let cache = cache_read.unwrap_or(0_u64).saturating_add(cache_write.unwrap_or(0));
        read.prompt = read.prompt.map(|prompt| prompt.saturating_add(cache));
        read.cached_prompt = read.cached_prompt.or(cache_read);
        // A rerank has a total only, and no answer that it could belong to.
        if read.completion.is_none() {
            read.prompt = read.prompt.or(total);
        }
        (read != Self::default()).then_some(read)
    }

    /// What `later` says counts; what it does not mention stays.
    pub(crate) fn update(&mut self, later: Self) {
        *self = Self {
            prompt: later.prompt.or(self.prompt),
            completion: later.completion.or(self.completion),
            cached_prompt: later.cached_prompt.or(self.cached_prompt),
            reasoning: later.reasoning.or(self.reasoning),
            estimated: later.estimated,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(json: &str) -> Option<[Option<u64>; 4]> {
        Usage::from_answer(json.as_bytes())
            .map(|usage| [usage.prompt, usage.completion, usage.cached_prompt, usage.reasoning])
    }

    #[test]
    fn each_protocol_is_read_in_its_own_words() {
        let chat = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
        assert_eq!(counts(chat), Some([Some(9), Some(12), Some(4), Some(3)]));
        let embeddings = r#"{"data":[{"usage":{"prompt_tokens":1}}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        assert_eq!(counts(embeddings), Some([Some(8), None, None, None]));
        assert_eq!(counts(r#"{"usage":{"total_tokens":56}}"#), Some([Some(56), None, None, None]));
        let message = r#"{"usage":{"input_tokens":5,"cache_creation_input_tokens":10,"cache_read_input_tokens":20,"output_tokens":7}}"#;
        assert_eq!(counts(message), Some([Some(35), Some(7), Some(20), None]));
        let response = r#"{"type":"response.completed","response":{"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":0},
            "output_tokens":87,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":123}}}"#;
        assert_eq!(counts(response), Some([Some(36), Some(87), Some(0), Some(2)]));
    }

    #[test]
    fn a_count_that_no_request_can_have_is_not_believed_nor_what_stands_beside_it() {
        for (count, believed) in [(MOST, true), (MOST + 1, false), (9_007_199_254_740_993, false), (u64::MAX, false)] {
            for json in [
                format!(r#"{{"usage":{{"prompt_tokens":{count},"completion_tokens":2}}}}"#),
                format!(r#"{{"message":{{"usage":{{"input_tokens":1,"output_tokens":{count}}}}}}}"#),
                format!(r#"{{"usage":{{"prompt_tokens":1,"prompt_tokens_details":{{"cached_tokens":{count}}}}}}}"#),
            ] {
                assert_eq!((counts(&json).is_some(), Usage::is_unbelievable(json.as_bytes())), (believed, !believed));
            }
        }
        let sum = format!(r#"{{"usage":{{"input_tokens":{MOST},"cache_read_input_tokens":1,"output_tokens":1}}}}"#);
        assert!(Usage::is_unbelievable(sum.as_bytes()));
    }

    #[test]
    fn what_is_no_usage_is_none() {
        for json in [
            r#"{"usage":null}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":[1]}"#,
            r#"{"choices":[{"usage":{"prompt_tokens":1}}]}"#,
            r#"{"content":"\"usage\":{\"prompt_tokens\":1}"}"#,
            r#"{"usage"#,
            "",
        ] {
            assert_eq!(counts(json), None, "{json}");
        }
    }

    #[test]
    fn an_odd_count_costs_that_count_only() {
        let odd = r#"{"usage":{"prompt_tokens":"9","completion_tokens":12.0,"prompt_tokens_details":null}}"#;
        assert_eq!(counts(odd), Some([None, Some(12), None, None]));
    }
}
