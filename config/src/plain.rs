//! A file that is not the configuration, but written in the same language.

/// Reads YAML (and so JSON) as plain data, for filters whose settings name a file.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_value(text: &str) -> Result<serde_json::Value, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}
