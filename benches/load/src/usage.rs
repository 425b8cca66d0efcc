//! The tokens that an answer says it has, found without reading it as JSON.

use memchr::memmem;

/// What has been seen so far.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// The last number told: engines that tell it with each event count up.
    pub tokens: u64,
    /// The end of what was read before, for what is cut between two reads.
    tail: Vec<u8>,
}

const NAME: &[u8] = b"\"completion_tokens\"";

/// As much as a name, a colon with spaces and a number take.
const KEPT: usize = NAME.len() + 24;

impl Usage {
    /// Takes what has come.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        if !self.tail.is_empty() {
            let begin = &data[..data.len().min(KEPT)];
            self.tail.extend_from_slice(begin);
            let found = told(&self.tail);
            self.tail.drain(..self.tail.len().saturating_sub(if begin.len() == data.len() { KEPT } else { 0 }));
            self.tokens = found.unwrap_or(self.tokens);
        }
        self.tokens = told(data).unwrap_or(self.tokens);
        if data.len() > KEPT {
            self.tail.clear();
            self.tail.extend_from_slice(&data[data.len() - KEPT..]);
        } else if self.tail.is_empty() {
            self.tail.extend_from_slice(data);
        }
    }
}

/// The last number that `data` tells.
fn told(data: &[u8]) -> Option<u64> {
    let rest =
        data[memmem::rfind(data, NAME)? + NAME.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_however_the_answer_is_cut() {
        let answer = br#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":5,"completion_tokens" : 1234,"total_tokens":9},"more":"0123456789012345678901234567890123456789012345678901234567890123456789"}"#;
        for size in 1..=answer.len() {
            let mut usage = Usage::default();
            answer.chunks(size).for_each(|piece| usage.feed(piece));
            assert_eq!(usage.tokens, 1234, "{size}");
        }
        let mut none = Usage::default();
        none.feed(br#"{"usage":null}"#);
        assert_eq!(none.tokens, 0);
    }
}
