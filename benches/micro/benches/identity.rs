//! What it costs to find out who sends a request by a token: remembered, and by each kind of signature.

#[path = "../../../plugins/src/filters/jwt/tests/sign.rs"]
#[expect(dead_code, reason = "it makes bad tokens too")]
mod sign;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use serde_json::{Value, json};
use sign::{Signer, claims};
use std::hint::black_box;
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

fn filter(signer: &Signer, remembered: u64) -> Jwt {
    let services = Services { files: Arc::new(Set(json!({ "keys": [signer.jwk("k")] }))), ..Services::none() };
    let settings = json!({
        "issuer": "https://issuer.example", "audience": ["tidegate"], "algorithms": [signer.algorithm()],
        "jwks": { "file": "jwks.json" }, "remembered": remembered,
    });
    let settings = serde_json::from_value(settings).expect("well-formed");
    Jwt::new(settings, &services).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn let_in(filter: &Jwt, header: &str) {
    let mut exchange = exchange_with("{}", &[("authorization", header)]);
    filter.request(&mut exchange).now_or_never().expect("it waits for nothing").expect("no fault");
    assert!(black_box(exchange).caller().is_some());
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    group.bench_function("exchange alone", |bench| {
        bench.iter(|| black_box(exchange_with("{}", &[("authorization", "x")])))
    });
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519()] {
        let header = format!("Bearer {}", signer.token("k", &claims()));
        let forgetful = filter(&signer, 0);
        group.bench_function(signer.algorithm(), |bench| bench.iter(|| let_in(&forgetful, &header)));
        if signer.algorithm() == "EdDSA" {
            let filter = filter(&signer, 10_000);
            group.bench_function("remembered", |bench| bench.iter(|| let_in(&filter, &header)));
        }
    }
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
