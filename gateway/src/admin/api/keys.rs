//! `/admin/keys`: managed keys, made, shown, rotated and revoked.
//!
//! A secret is in one answer only: the one to the request that made it. When a change is answered it is on the disk and
//! holds for requests.

use super::json;
use super::wanted::Asked;
use crate::admin::routes::{problem, problem_of};
use crate::core::Core;
use crate::storage::keys::{self as stored, Changed};
use crate::storage::{Storage, StorageError};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rusqlite::Transaction;
use serde::Deserialize;
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::time::Duration;
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::keys::{Key, NewKey, Record, new_id};
use tidegate_plugins::when::When;

/// Keys on a page, if the request does not say; and the most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// How long an answer waits for its change to hold for requests, which takes milliseconds.
const HOLDS: Duration = Duration::from_secs(1);

type Answer = Result<Response, Refused>;

/// An answer that says why not.
struct Refused(Box<Response>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Response> for Refused {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

fn refused(status: StatusCode, detail: &str) -> Refused {
    problem(status, detail).into()
}

/// With a token all of it; without, whoever can connect, a web page in an operator's browser included, is told that there
/// has to be one.
pub(super) fn routes(has_token: bool) -> Router<Arc<Core>> {
    if !has_token {
        let refuse = async || {
            let detail = "managing keys needs a token or a certificate: set `admin.token` or `admin.tls.client_ca` in the file, and restart";
            problem(StatusCode::FORBIDDEN, detail)
        };
        let any = axum::routing::any(refuse);
        return Router::new().route("/admin/keys", any.clone()).route("/admin/keys/{*rest}", any);
    }
    Router::new()
        .route("/admin/keys", get(list).post(create))
        .route("/admin/keys/{id}", get(show).delete(revoke))
        .route("/admin/keys/{id}/revoke", post(revoke))
        .route("/admin/keys/{id}/rotate", post(rotate))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

async fn list(
    State(core): State<Arc<Core>>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(Page { after, limit }) = page.map_err(|error| refused(StatusCode::BAD_REQUEST, &error.body_text()))?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(refused(StatusCode::BAD_REQUEST, &format!("`limit` is a number from 1 to {LARGEST_PAGE}")));
    }
    // One more than asked for tells whether there are more.
    let mut records = read(&core, move |connection| stored::list(connection, &after, limit + 1)).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|record| record.key.id.clone());
    let keys: Vec<Value> = records.iter().map(shown).collect();
    Ok(json(StatusCode::OK, &value!({ "keys": keys, "next": next })))
}

async fn show(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Answer {
    let found = read(&core, move |connection| stored::get(connection, &id)).await?;
    Ok(json(StatusCode::OK, &shown(&done(found, "")?)))
}

async fn create(State(core): State<Arc<Core>>, body: Bytes) -> Answer {
    let key = wanted(&core, &body)?;
    if core.snapshot.load().views.has_key(&key.id) {
        return Err(refused(StatusCode::CONFLICT, "a key in the file has this id: it would have the same buckets"));
    }
    let new = secret(&core)?;
    let sealed = new.sealed();
    let made = write(&core, move |transaction| stored::insert(transaction, &key, &sealed, When::now())).await?;
    let record = done(made, "there is a key of this id already")?;
    let mut answer = json(StatusCode::CREATED, &with_secret(&record, &new));
    let path = percent_encoding::utf8_percent_encode(&record.key.id, percent_encoding::NON_ALPHANUMERIC);
    if let Ok(location) = HeaderValue::from_str(&format!("/admin/keys/{path}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

async fn revoke(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Answer {
    let revoked = write(&core, move |transaction| stored::revoke(transaction, &id, When::now())).await?;
    Ok(json(StatusCode::OK, &shown(&done(revoked, "")?)))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    overlap: Option<String>,
}

async fn rotate(State(core): State<Arc<Core>>, Path(id): Path<String>, body: Bytes) -> Answer {
    let Rotation { overlap } = if body.is_empty() { Rotation::default() } else { parse(&body)? };
    let overlap = match overlap {
        Some(overlap) => tidegate_config::parse_duration(&overlap)
            .map_err(|error| refused(StatusCode::BAD_REQUEST, &format!("overlap: {error}")))?,
        None => core.snapshot.load().overlap,
    };
    let new = secret(&core)?;
    let sealed = new.sealed();
    let rotated = write(&core, move |transaction| {
        stored::rotate(transaction, &id, &sealed, When::now(), When::from_now(overlap))
    });
    let record = done(rotated.await?, "this key was revoked: make another")?;
    Ok(json(StatusCode::OK, &with_secret(&record, &new)))
}

/// The key that a request asks for, held against who there is.
fn wanted(core: &Core, body: &[u8]) -> Result<Key, Refused> {
    let (mut asked, mut faults): (Asked, _) = (parse(body)?, Vec::new());
    if !asked.0.contains_key("id") {
        let id = new_id().map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
        asked.0.insert("id".to_owned(), id.into());
    }
    let key = asked.read(&mut faults);
    if !key.hash.is_empty() {
        faults.push(SettingsError::at("hash", "the gateway makes the key, and its hash"));
    }
    key.is_new(When::now(), &mut faults);
    let snapshot = core.snapshot.load();
    key.checked("", snapshot.tenants.as_deref(), &snapshot.own_limits, &mut faults);
    if !key.limits.is_empty() && !snapshot.decides_limits() {
        let help = "put `limits: []` below `api_key`, to say where they are decided";
        faults.push(SettingsError::at("limits", "there is no filter `limits` in the file").help(help));
    }
    if faults.is_empty() { Ok(key) } else { Err(faulty(&faults)) }
}

fn faulty(faults: &[SettingsError]) -> Refused {
    let errors = faults.iter().map(|fault| value!({ "at": fault.path, "message": fault.message, "help": fault.help }));
    let (errors, first): (Vec<_>, _) = (errors.collect(), faults.first().map_or("", |fault| fault.message.as_str()));
    problem_of(StatusCode::UNPROCESSABLE_ENTITY, first, value!({ "errors": errors })).into()
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        refused(StatusCode::BAD_REQUEST, &format!("the body is not the JSON that was expected: {error}"))
    })
}

fn secret(core: &Core) -> Result<NewKey, Refused> {
    let made = core.snapshot.load().hasher.generate();
    made.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, &format!("no random numbers: {error}")))
}

/// The key as it is now, or why there is none.
fn done(changed: Changed, why: &str) -> Result<Record, Refused> {
    match changed {
        Changed::Done(record) => Ok(*record),
        Changed::Unknown => Err(refused(StatusCode::NOT_FOUND, "there is no such key")),
        Changed::Refused => Err(refused(StatusCode::CONFLICT, why)),
    }
}

fn with_secret(record: &Record, new: &NewKey) -> Value {
    let mut shown = shown(record);
    shown["key"] = new.secret().into();
    shown
}

/// A key for whoever manages it: all but secrets and hashes.
pub fn shown(record: &Record) -> Value {
    let mut shown = serde_json::to_value(&record.key).unwrap_or_default();
    shown["state"] = record.state(When::now()).name().into();
    shown["created"] = record.created.to_string().into();
    if let Some(revoked) = record.revoked {
        shown["revoked"] = revoked.to_string().into();
    }
    // Of a key that was rotated, until when those before the newest let in.
    let secrets = record.secrets.iter().map(|secret| {
        value!({ "created": secret.created.to_string(), "until": secret.until.map(|until| until.to_string()) })
    });
    shown["secrets"] = secrets.collect();
    shown
}

fn storage(core: &Core) -> Result<Storage, Refused> {
    let detail = "there is no `storage` in the file, where managed keys are kept";
    core.storage.clone().ok_or_else(|| refused(StatusCode::NOT_FOUND, detail))
}

async fn read<T: Send + 'static>(
    core: &Core,
    read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    let storage = storage(core)?;
    let read = tokio::task::spawn_blocking(move || storage.read(read)).await;
    read.unwrap_or(Err(StorageError::Unknown)).map_err(|error| away(&error))
}

async fn write<T: Send + 'static>(
    core: &Core,
    write: impl FnMut(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Refused> {
    let storage = storage(core)?;
    let written = storage.commit(write).await.map_err(|error| away(&error))?;
    let _ = tokio::task::spawn_blocking(move || storage.seen(HOLDS)).await;
    Ok(written)
}

fn away(error: &StorageError) -> Refused {
    let (status, detail) = match error {
        StorageError::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, format!("nothing was changed: {error}")),
        StorageError::Refused(_) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        StorageError::Unknown => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}; look before you try again")),
    };
    let mut answer = problem(status, &detail);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer.into()
}
