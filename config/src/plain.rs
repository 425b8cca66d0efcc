//! A file that is not the configuration, but written in the same language: a `keys_file` of a filter.

use serde::Deserialize;

use crate::compose::compose;
use crate::key_path::KeyPath;

/// Reads YAML (and so JSON) as plain data; nothing is interpolated.
///
/// # Errors
/// What is wrong with it, and on which line. No text of the file is in it: it may hold secrets.
pub fn parse_value(text: &str) -> Result<serde_json::Value, String> {
    let (root, misread) = compose(text.strip_prefix('\u{feff}').unwrap_or(text));
    if let Some(misread) = misread.into_iter().next() {
        let line = misread.span.map(|span| format!("line {}: ", span.start.0)).unwrap_or_default();
        return Err(format!("{line}{}", misread.fault.message));
    }
    let Some(mut root) = root else { return Ok(serde_json::Value::Null) };
    root.assign_paths(KeyPath::root());
    serde_json::Value::deserialize(&root).map_err(|trouble| trouble.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_read_as_it_stands() {
        let value = parse_value("- { id: a, n: 1, hash: \"${x}\" }\n- null\n").unwrap();
        assert_eq!(value, serde_json::json!([{ "id": "a", "n": 1, "hash": "${x}" }, null]));
        assert_eq!(parse_value(""), Ok(serde_json::Value::Null));
    }

    #[test]
    fn a_fault_names_its_line_and_shows_nothing() {
        assert_eq!(parse_value("a: 1\na: hush\n"), Err("line 2: `a` is already set on line 1".to_owned()));
        assert!(parse_value("a: 1\nkey: \"hush\n").unwrap_err().starts_with("line 2: not YAML"));
    }
}
