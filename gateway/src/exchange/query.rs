//! The query of a request: what must not stand in it, and the model where it names one. Whoever else reads the query
//! must find the same in it as the gateway does.

use super::fail::{Fault, Result};
use std::sync::Arc;

/// Keys in URLs end in logs, histories and other people's hands.
///
/// # Errors
/// 400, so that nobody gets used to it.
pub(super) fn check(query: &str) -> Result<()> {
    const KEYS: [&str; 4] = ["key", "api_key", "api-key", "access_token"];
    let names = query.split('&').map(|pair| name(pair.split('=').next().unwrap_or_default()));
    if query.is_empty() || !names.into_iter().any(|name| KEYS.contains(&name.as_str())) {
        return Ok(());
    }
    let message =
        "A key does not belong into a URL: send it as 'Authorization: Bearer KEY', and have this one replaced.";
    Err(Fault::bad("credential_in_url", message))
}

/// The name of a query's pair as any server may read it: decoded, in lower case, without blanks.
fn name(name: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    decoded.replace('+', " ").trim().to_ascii_lowercase()
}

/// The model that the query names; spelt plainly, and once.
///
/// # Errors
/// 400 if it can be read in two ways.
pub(super) fn model(query: &str) -> Result<Option<Arc<str>>> {
    let is_model = |pair: &&str| name(pair.split('=').next().unwrap_or_default()) == "model";
    let mut models = query.split('&').filter(is_model);
    let (Some(pair), second) = (models.next(), models.next()) else { return Ok(None) };
    if second.is_some() {
        return Err(Fault::bad("duplicate_field", "The query names more than one model."));
    }
    let plain = pair.strip_prefix("model=");
    let plain = plain.ok_or_else(|| Fault::bad("ambiguous_parameter", "The query's 'model' must be spelt plainly."))?;
    Ok(Some(percent_encoding::percent_decode_str(plain).decode_utf8_lossy().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_plainly_and_once() {
        assert_eq!(model("x=1&model=a%2Fb").ok().flatten().as_deref(), Some("a/b"));
        assert_eq!(model("x=1").ok().flatten(), None);
        for query in ["model=a&model=b", "model=a&mod%65l=b", "Model=a", "model=a&+model=b", "mod%65l=a", "model"] {
            assert!(model(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_key_has_no_place_in_a_url() {
        for query in ["key=x", "a=1&API_KEY=x", "api%2Dkey=x"] {
            assert!(check(query).is_err(), "{query}");
        }
        assert!(check("").is_ok() && check("api-version=1&keys=2").is_ok());
    }
}
