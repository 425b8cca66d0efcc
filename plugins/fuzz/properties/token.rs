//! A credential and a key set, both from whoever sends them: nobody is let in who has not the secret.

use futures_util::FutureExt;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tidegate_plugins::filters::Jwt;
use tidegate_plugins::services::{Files, Services};
use tidegate_plugins::testing::exchange_with;
use tidegate_plugins::{Filter, Plugin};

struct Set(Value);

impl Files for Set {
    fn read(&self, _: &Path) -> io::Result<Value> {
        Ok(self.0.clone())
    }
}

/// The first line is the credential, the others are the key set.
pub(crate) fn token(data: &[u8]) {
    let (credential, set) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let credential = String::from_utf8_lossy(credential);
    let set: Value = serde_json::from_slice(set).unwrap_or_default();
    for otherwise in ["refuse", "next"] {
        judged(&credential, &set, otherwise);
    }
}

fn judged(credential: &str, set: &Value, otherwise: &str) {
    let services = Services { files: Arc::new(Set(set.clone())), ..Services::none() };
    let mut settings = json!({
        "issuer": "i", "audience": ["a"], "otherwise": otherwise,
        "algorithms": ["HS256"], "secret": "nobody who sends bytes knows this one",
    });
    // The keys of a set are for other algorithms: they must not be taken for the secret.
    for filed in [false, true] {
        if filed {
            settings["algorithms"] = json!(["HS256", "ES256", "EdDSA"]);
            settings["jwks"] = json!({ "file": "set" });
        }
        let Ok(filter) = Jwt::new(serde_json::from_value(settings.clone()).expect("well-formed"), &services) else {
            continue;
        };
        for header in ["authorization", "x-api-key"] {
            let value = if header == "x-api-key" { credential.to_owned() } else { format!("Bearer {credential}") };
            let mut exchange = exchange_with("{}", &[(header, &value)]);
            let verdict = filter.request(&mut exchange).now_or_never();
            assert!(
                matches!(verdict, Some(Ok(_))),
                "without a network nothing is waited for, and it is no fault of ours"
            );
            assert!(exchange.caller().is_none(), "{credential:?} was let in");
        }
    }
}
