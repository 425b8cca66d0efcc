//! Which revision of a model a pool serves, as far as its backends tell.

use super::Pool;
use serde_json::{Map, Value};
use std::collections::HashMap;
use tidegate_plugins::cache_key::write_canonical;

/// What says which model it really is, of what servers say of a model in `/v1/models`. Not `created`: vLLM and llama.cpp
/// give the time of asking.
const TELLING: &[&str] =
    &["root", "parent", "revision", "digest", "sha256", "version", "quantization", "path", "meta", "max_model_len"];

/// A hash for each model of a list, of what tells its revision.
pub(super) fn of_list(models: &[Map<String, Value>]) -> HashMap<Box<str>, u64> {
    let one = |model: &Map<String, Value>| {
        let told: Map<String, Value> = model
            .iter()
            .filter(|(name, _)| TELLING.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        Some((model.get("id")?.as_str()?.into(), if told.is_empty() { 0 } else { hash(&Value::Object(told)) }))
    };
    models.iter().filter_map(one).collect()
}

fn hash(value: &Value) -> u64 {
    let mut form = Vec::new();
    let written = write_canonical(value.to_string().as_bytes(), 0, &|_| false, &mut form);
    debug_assert!(written, "what serde_json writes is JSON");
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&form).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The revisions of `model` that the backends of `pool` serve, as one number: the same as long as they are the same,
/// however many backends serve each. 0 if nobody says.
pub(crate) fn of_pool(pool: &Pool, model: &str) -> u64 {
    let membership = pool.membership.load();
    let known = membership.backends.iter().filter_map(|backend| backend.revisions.load().get(model).copied());
    let mut known: Vec<u64> = known.filter(|revision| *revision != 0).collect();
    known.sort_unstable();
    known.dedup();
    match known[..] {
        [] => 0,
        [only] => only,
        _ => known.iter().fold(0, |all, revision| all.rotate_left(7).wrapping_mul(MIX) ^ revision),
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn revision(model: Value) -> u64 {
        let Value::Object(model) = model else { unreachable!() };
        of_list(&[model])["m"]
    }

    #[test]
    fn the_time_of_asking_is_no_revision_and_a_digest_is() {
        let plain = revision(json!({"id": "m", "created": 1, "root": "/models/a", "permission": [{"id": "x"}]}));
        assert_eq!(revision(json!({"id": "m", "created": 2, "root": "/models/a", "permission": [{"id": "y"}]})), plain);
        assert_ne!(revision(json!({"id": "m", "created": 1, "root": "/models/b"})), plain);
        assert_ne!(revision(json!({"id": "m", "root": "/models/a", "digest": "1"})), plain);
        assert_eq!(revision(json!({"id": "m", "created": 1, "owned_by": "us"})), 0);
    }
}
