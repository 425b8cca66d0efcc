//! Tokens made on the spot with keys of each kind, good and bad in one way each.

mod issuers;
mod judged;
mod sign;

use super::Jwt;
use crate::filter::{Filter, Plugin, Verdict};
use crate::services::{Files, Services};
use crate::testing::exchange_with;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file `jwks.json` with this in it.
struct OneFile(Value);

impl Files for OneFile {
    fn read(&self, _: &Path) -> io::Result<Value> {
        Ok(self.0.clone())
    }
}

/// A filter with keys from a file, over these settings.
fn filter_with(jwks: Value, settings: Value) -> Jwt {
    let services = Services { files: Arc::new(OneFile(jwks)), ..Services::none() };
    Jwt::new(serde_json::from_value(settings).expect("well-formed"), &services)
        .unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn settings() -> Value {
    json!({
        "issuer": "https://issuer.example",
        "audience": ["tidegate", "other"],
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "jwks": { "file": "jwks.json" },
    })
}

/// With one more setting, or another.
fn settings_with(name: &str, value: Value) -> Value {
    let mut settings = settings();
    settings[name] = value;
    settings
}

/// What a request with this credential gets: its status if it is refused, else its user; and the reason in the log.
async fn presented(filter: &Jwt, token: &str) -> (Result<Option<String>, u16>, Option<String>) {
    let mut exchange = exchange_with("{}", &[("authorization", &format!("Bearer {token}"))]);
    let verdict = filter.request(&mut exchange).await.expect("no fault");
    let reason = exchange.take_notes().pop().map(|(_, reason)| reason);
    let user = exchange.caller().and_then(|caller| caller.user.as_deref().map(str::to_owned));
    match verdict {
        Verdict::Answer(reply) => (Err(reply.status.as_u16()), reason),
        _ => (Ok(user), reason),
    }
}

async fn user(filter: &Jwt, token: &str) -> Option<String> {
    presented(filter, token).await.0.unwrap_or_else(|status| panic!("refused with {status}"))
}

/// Why a token is refused, the answer being the same 401 for all.
async fn reason(filter: &Jwt, token: &str) -> String {
    let (status, reason) = presented(filter, token).await;
    assert_eq!(status, Err(401));
    reason.expect("the log has a reason")
}
