//! Values that must never be printed, and the names that give them away.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::key_path::{KeyPath, Step};

/// What stands in the place of a secret wherever one would be shown.
pub const MASK: &str = "***";

/// A credential. It can be used, and cannot be printed by accident: `Debug`, `Display` and `Serialize` show `***`.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The credential itself. Each caller of this is a place where a secret leaves: keep them few.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&mask_of(&self.0))
    }
}

/// Hashes that mean nothing to other processes.
static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

thread_local! {
    /// Whether secrets are shown as marks, by which two of them can be told apart.
    static MARKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `show` so that secrets it shows are marks instead of `***`: the same for the same secret, and for nobody to see.
pub(crate) fn marked<T>(show: impl FnOnce() -> T) -> T {
    MARKING.set(true);
    let shown = show();
    MARKING.set(false);
    shown
}

/// What stands in the place of this secret.
pub(crate) fn mask_of(secret: &str) -> String {
    if MARKING.get() { format!("{MASK}{:016x}", MARKS.hash_one(secret)) } else { MASK.to_owned() }
}

/// Whether a setting or header of this name holds a secret: `key`, `keys`, `api_key`, `X-Api-Key`, `token`, `hash`,
/// `password`, `authorization` ... Names that merely end alike (`monkey`), timeouts and counts of the other kind of
/// token (`first_token`, `tokens`), and files that hold a secret (`keys_file`) do not.
pub fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 14] = [
        "key",
        "keys",
        "apikey",
        "token",
        "hash",
        "hashes",
        "password",
        "passphrase",
        "secret",
        "secrets",
        "pepper",
        "authorization",
        "cookie",
        "credential",
    ];
    const COUNTED: [&str; 6] = ["first", "next", "last", "max", "per", "inter"];
    let name = name.to_ascii_lowercase();
    let mut words = name.rsplit(['_', '-', '.', ' ']);
    let last = words.next().unwrap_or_default();
    let counted = last == "token" && words.next().is_some_and(|word| COUNTED.contains(&word));
    WORDS.contains(&last) && !counted
}

/// What the keys begin with that Tidegate gives out, and how many letters and digits behind that may be one: not all that
/// there are, so that one which lost some on the way is not shown either.
const KEY_PREFIX: [char; 3] = ['t', 'g', '-'];
const KEY_DIGITS: usize = 24;

/// Where keys that Tidegate gives out stand in a text, wherever that is: each from its first character to behind its last.
pub(crate) fn keys_in(text: &[char]) -> Vec<(usize, usize)> {
    let begins = |at: &usize| text[*at..].iter().zip(KEY_PREFIX).all(|(c, digit)| c.to_ascii_lowercase() == digit);
    let end = |at: usize| at + 3 + text[at + 3..].iter().take_while(|c| c.is_ascii_alphanumeric()).count();
    let starts = (0..text.len().saturating_sub(KEY_PREFIX.len() + KEY_DIGITS - 1)).filter(begins);
    starts.map(|start| (start, end(start))).filter(|(start, end)| end - start >= KEY_DIGITS + 3).collect()
}

/// A text as it may be shown: with `***` for each key that Tidegate gives out.
pub(crate) fn without_keys(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
    for (start, end) in keys_in(&characters) {
        shown.extend(&characters[from..start]);
        shown.push_str(MASK);
        from = end;
    }
    shown.extend(&characters[from..]);
    shown
}

/// Whether the scalar at `path` is a secret. The `key` of a listener's certificate is the path of a file.
pub(crate) fn is_secret(path: &KeyPath) -> bool {
    let mut keys = path.steps().iter().rev().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Item(_) => None,
    });
    keys.next().is_some_and(is_secret_name) && keys.next() != Some("tls")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new("sk-live");
        let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert_eq!(shown, "*** *** \"***\"");
        assert_eq!(secret.expose(), "sk-live");
    }

    #[test]
    fn keys_of_ours_are_seen_in_any_text() {
        let key = "tg-006hm9sm8575pt3nga7ssadprf8dvtqq1nbdgr1";
        for (text, shown) in [
            (key.to_owned(), "***"),
            (format!("string \"{key}\", expected"), "string \"***\", expected"),
            (format!("é{key}.{} tg-", &key[..30]), "é***.*** tg-"),
            ("a pool tg-blue-0123456789012345678901234567".to_owned(), "a pool tg-blue-0123456789012345678901234567"),
        ] {
            assert_eq!(without_keys(&text), shown);
        }
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in ["key", "token", "hash", "X-Api-Key", "Authorization", "client_secret", "keys"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["monkey", "keys_file", "tokens", "first_token", "cert", "url"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
