//! A fresh key as `tidegate keys new` gives it.

use super::command;

/// The key itself, and its hash for the file.
pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) hash: String,
}

impl Key {
    pub(crate) fn new(id: &str) -> Self {
        let output = command(&["keys", "new", "--id", id]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        let key = printed.lines().find(|line| line.starts_with("tg-")).expect("a key stands on a line of its own");
        let hash = printed.lines().find_map(|line| line.trim().strip_prefix("hash: ")).expect("the entry has a hash");
        Self { key: key.trim().to_owned(), hash: hash.trim_matches('"').to_owned() }
    }
}
