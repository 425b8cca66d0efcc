//! What the simulator says: that it is one, what it was asked, and a short story about tides.

/// The most of a prompt that is quoted back, in characters.
const QUOTED: usize = 160;

const STORY: &str = "A harbour master once tried to keep every ship waiting for the perfect tide. \
    The quay filled up, the crews grew restless, and the perfect tide never came. \
    So she built a gate instead. It let each ship through as soon as the water would carry it, \
    and when one channel silted up, it sent the next ship down another. \
    Since then nobody in that town speaks of perfect tides, and all the ships arrive.";

/// An answer in words, possibly cut short.
pub(super) struct Speech {
    /// Each word but the first begins with its space, as tokens do.
    pub(super) words: Vec<String>,
    /// Whether the limit on tokens ended it.
    pub(super) cut: bool,
}

impl Speech {
    /// What to say about a prompt, in at most `limit` words.
    pub(super) fn about(prompt: &str, limit: Option<u64>) -> Self {
        let opening = match quote(prompt) {
            Some(quote) => format!("I am a simulator, not a language model, but I heard you say: \"{quote}\"."),
            None => "I am a simulator, not a language model, and you did not say anything.".to_owned(),
        };
        Self::new(&format!("{opening} Here is a story while you look around. {STORY}"), limit)
    }

    /// What to say once a tool has answered.
    pub(super) fn about_tool(result: &str, limit: Option<u64>) -> Self {
        let result = quote(result).unwrap_or_else(|| "nothing".to_owned());
        Self::new(&format!("I am a simulator, not a language model. The tool answered: {result}"), limit)
    }

    fn new(text: &str, limit: Option<u64>) -> Self {
        let mut words: Vec<String> = text
            .split_whitespace()
            .enumerate()
            .map(|(at, word)| if at == 0 { word.to_owned() } else { format!(" {word}") })
            .collect();
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let cut = words.len() > limit;
        words.truncate(limit);
        Self { words, cut }
    }

    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.words.len() as u64
    }
}

/// The text on one line, shortened; `None` if there is none.
fn quote(text: &str) -> Option<String> {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED) {
        _ if line.is_empty() => None,
        None => Some(line),
        Some((end, _)) => Some(format!("{}...", line[..end].trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_is_and_what_it_heard() {
        let text = Speech::about("how  are\nyou?", None).text();
        assert!(text.starts_with("I am a simulator"), "{text}");
        assert!(text.contains("\"how are you?\""), "{text}");
    }

    #[test]
    fn a_limit_cuts_it_to_that_many_words() {
        let speech = Speech::about("hello", Some(3));
        assert_eq!(speech.text(), "I am a");
        assert!(speech.cut);
        let whole = Speech::about("hello", None);
        assert!(!Speech::about("hello", Some(whole.tokens())).cut);
    }

    #[test]
    fn a_long_prompt_is_quoted_in_part_and_never_cut_inside_a_character() {
        let text = Speech::about(&"ä".repeat(10_000), None).text();
        assert!(text.len() < 2_000, "{}", text.len());
        assert!(text.contains(&format!("{}...", "ä".repeat(QUOTED))));
    }
}
