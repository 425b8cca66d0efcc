//! The members we read, in one list, and what counts as an attempt to spell one of them differently.

macro_rules! keys {
    ($($name:literal => $key:ident,)*) => {
        /// A top-level member that the gateway or one of its filters reads, and that therefore must have one reading.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Key {
            $(
                #[doc = concat!("`", $name, "`")]
                $key,
            )*
        }

        impl Key {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$key),*];

            pub(super) const COUNT: usize = Self::ALL.len();
            pub(super) const NAMES: [&'static str; Self::COUNT] = [$($name),*];
        }
    };
}

keys! {
    "model" => Model,
    "messages" => Messages,
    "input" => Input,
    "prompt" => Prompt,
    "stream" => Stream,
    "stream_options" => StreamOptions,
    "max_tokens" => MaxTokens,
    "max_completion_tokens" => MaxCompletionTokens,
    "max_output_tokens" => MaxOutputTokens,
    "n" => N,
    "best_of" => BestOf,
    "tools" => Tools,
}

impl Key {
    /// The name in the body.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The key that is spelt exactly so.
    #[must_use]
    pub fn exactly(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }
}

/// Whether a reader that ignores case takes `key` for `name`, which is lower case. Go's `encoding/json` is one, and
/// it folds as Unicode does: the long s is an s, the Kelvin sign a k.
pub(super) fn reads_as(key: &str, name: &str) -> bool {
    // The two signs that fold into ASCII take two and three bytes.
    if key.len() < name.len() || key.len() > name.len() * 3 {
        return false;
    }
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(name.chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_by_its_own_name() {
        for (number, key) in Key::ALL.iter().enumerate() {
            assert_eq!(Key::exactly(key.name()), Some(*key));
            assert_eq!(*key as usize, number);
        }
    }

    #[test]
    fn case_is_folded_as_the_loosest_reader_does() {
        for key in ["model", "Model", "MODEL", "mODEL"] {
            assert!(reads_as(key, "model"), "{key}");
        }
        assert!(reads_as("max_to\u{212a}en\u{17f}", "max_tokens"));
        for key in ["models", "mode", "m\u{f6}del", "model ", ""] {
            assert!(!reads_as(key, "model"), "{key}");
        }
    }
}
