//! `/admin/cache`: what is kept, and how it is forgotten, in memory and in files.

use super::super::routes::problem;
use super::json;
use crate::core::Core;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;
use tidegate_plugins::cache_key::CacheKey;
use tidegate_plugins::filters::prompt_cache::Purge;
use tidegate_plugins::units::Time;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/admin/cache", get(show).delete(clear)).route("/admin/cache/purge", post(purge))
}

async fn show(State(core): State<Arc<Core>>) -> Response {
    let shared = core.snapshot.load().shared.clone();
    // Files are read here: not on a thread that others wait for.
    let loads = tokio::task::spawn_blocking(move || {
        let files: Vec<_> = shared.tiers.all().iter().map(|file| file.load()).collect();
        (shared.caches.load(), files, shared.kept.size())
    });
    let Ok(((bytes, answers), files, (keys, key_bytes))) = loads.await else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "the caches could not be looked at");
    };
    let files: Vec<_> = files.iter().map(|(bytes, answers)| value!({ "bytes": bytes, "answers": answers })).collect();
    json(
        StatusCode::OK,
        &value!({
            "memory": { "bytes": bytes, "answers": answers },
            "files": files,
            "idempotency": { "bytes": key_bytes, "keys": keys },
        }),
    )
}

async fn clear(State(core): State<Arc<Core>>) -> Response {
    forget(&core, &Purge::default()).await
}

/// What is to be forgotten: all that everything said here holds for.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    /// `org/acme`, `key/k1`, `user/u1`, `everybody`.
    tenant: Option<String>,
    /// The entry of `models`.
    model: Option<String>,
    /// Such as `10m`.
    older_than: Option<Time>,
    /// 64 hexadecimal digits, as `explain` and the log have them; several with blanks between.
    key: Option<String>,
}

/// Keys that one purge may name: each answer is held against all of them.
const MOST_KEYS: usize = 64;

async fn purge(State(core): State<Arc<Core>>, body: Bytes) -> Response {
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("the body is not what to forget: {error}")),
    };
    let Wanted { tenant, model, older_than, key } = wanted;
    if tenant.is_none() && model.is_none() && older_than.is_none() && key.is_none() {
        let message = "say what to forget: tenant, model, older_than or key (DELETE /admin/cache forgets all)";
        return problem(StatusCode::BAD_REQUEST, message);
    }
    let Some(keys) = key.as_deref().map_or(Some(Vec::new()), read_keys) else {
        let message = format!("a key has 64 hexadecimal digits, and {MOST_KEYS} keys are the most at one time");
        return problem(StatusCode::BAD_REQUEST, &message);
    };
    let older_than: Option<Duration> = older_than.map(|time| time.0);
    forget(&core, &Purge { tenant, route: model, older_than, keys }).await
}

/// At least one: none would be all.
fn read_keys(text: &str) -> Option<Vec<CacheKey>> {
    let keys: Vec<_> = text.split_whitespace().map(read_key).collect::<Option<_>>()?;
    Some(keys).filter(|keys| (1..=MOST_KEYS).contains(&keys.len()))
}

fn read_key(text: &str) -> Option<CacheKey> {
    let digits =
        Some(text.as_bytes()).filter(|digits| digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit))?;
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(CacheKey(key))
}

/// The files first: what is forgotten there does not come back to memory.
async fn forget(core: &Core, what: &Purge) -> Response {
    let shared = core.snapshot.load().shared.clone();
    let mut in_files = 0;
    for file in shared.tiers.all() {
        match file.purge(what).await {
            Some(purged) => in_files += purged,
            None => {
                let message = "a file that answers are kept in cannot be written; nothing was forgotten in memory";
                return problem(StatusCode::SERVICE_UNAVAILABLE, message);
            }
        }
    }
    let in_memory = shared.caches.purge(what);
    json(StatusCode::OK, &value!({ "memory": in_memory, "files": in_files }))
}
