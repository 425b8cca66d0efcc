//! A salt for each tenant, in requests to backends that take one (vLLM's `cache_salt`).
//!
//! A backend that keeps the beginnings of prompts answers sooner to whoever sends one that it has seen: so one tenant could
//! find out, by timing, what another has asked. Prompts with different salts share nothing. The salt is a keyed hash: it
//! does not say who the tenant is, and nobody can ask for another's. A client's own salt sets it further apart, within its
//! tenant.

use super::{Route, Trip};
use tidegate_plugins::cache_key::Scope;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::json;
use tidegate_plugins::splice::Edits;

/// The member of the body.
const SALT: &str = "cache_salt";

/// How many of the hash's digits are sent: 128 bits.
const DIGITS: usize = 32;

/// What salts are made with, from a pool's secret.
pub(crate) fn key(secret: &str) -> [u8; 32] {
    blake3::derive_key("tidegate 2026-11 cache salt", secret.as_bytes())
}

/// The body as it was before it was salted: another pool's backends may refuse a salt.
pub(super) fn take_out(trip: &mut Trip<'_>) {
    if let Some((body, call)) = trip.unsalted.take() {
        trip.exchange.replace_body(body, call);
    }
}

/// Salts the body for a pool whose backends take salts.
pub(super) fn put_in(trip: &mut Trip<'_>, route: &Route) {
    let (Some(key), Some(call)) = (&route.pool.salts, trip.exchange.call()) else { return };
    if !matches!(call.endpoint, Endpoint::Chat | Endpoint::Completions | Endpoint::Responses) {
        return;
    }
    let body = trip.exchange.body();
    let own = json::member(body, SALT).map(|at| &body[at]).unwrap_or_default();
    // Those who cannot be told apart share one.
    let tenant = Scope::Org.tenant(trip.exchange.caller().map(|caller| &**caller));
    let (kind, name) = tenant.map_or(("nobody", ""), |tenant| tenant.parts());
    let mut hasher = blake3::Hasher::new_keyed(key);
    for field in [kind.as_bytes(), name.as_bytes(), own] {
        hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
    }
    let salt = format!("\"{}\"", &hasher.finalize().to_hex()[..DIGITS]);
    let mut edits = Edits::default();
    if edits.set_member(body, 0..call.end() + 1, SALT, &salt).is_err() {
        return;
    }
    let Ok(salted) = edits.apply(body) else { return };
    let Ok(read) = Call::read(&salted, call.endpoint) else { return };
    trip.unsalted = Some((body.clone(), Some(call.clone())));
    trip.exchange.replace_body(salted, Some(read));
}
