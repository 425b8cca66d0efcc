//! `check` names all that is wrong with a file at once.

use crate::gateway::{Folder, command};
use serde_json::Value;

#[test]
fn a_fault_of_form_hides_no_other_fault_of_its_filter_nor_of_the_file() {
    let folder = Folder::new();
    let config = folder.write(
        "gateway.yaml",
        "\
log: { level: loud }
models:
  a: { pool: nowhere, as: [] }
  b: { pool: main, fallback: [nobody] }
tenants:
  acme: { priority: urgent, users: { ann: { modles: [a] }, bob: { expires: 5, models: [''] } } }
filters:
  - api_key:
      otherwise: maybe
      keys:
        - { id: 5, hash: abc }
        - { id: b, hash: def, org: nobody, flag: 1 }
        - { hash: ghi }
  - limits:
      - { per: user, requests: many, burst: 5 }
      - { per: usr, requests: 5/min }
      - { per: user, request: 5/min, tokens: 5/day, burst: 5 }
  - prompt_cache: { for: soon, size: 0, stale_if_error: [] }
  - jwt: { issuer: 5, algorithms: [none], clock_skew: long }
pools:
  main: { balance: { prefix_affinity: { blok: 1, load: lots } }, backends: [{ uri: x }, 'http://127.0.0.1:1'], queue: { max_wait: 0s } }
",
    );
    let output = command(&["check", &config.display().to_string(), "--format", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told: Vec<_> = said["errors"].as_array().unwrap().iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    let expected = [
        "log.level",
        "models.a.pool",
        "models.a.as",
        "models.b.fallback[0]",
        "tenants.acme.priority",
        "tenants.acme.users.ann.modles",
        "tenants.acme.users.bob.expires",
        "filters[0].api_key.otherwise",
        // Nobody's, and of no name.
        "filters[0].api_key.keys[0]",
        "filters[0].api_key.keys[0].id",
        "filters[0].api_key.keys[1].hash",
        "filters[0].api_key.keys[1].org",
        "filters[0].api_key.keys[1].flag",
        "filters[0].api_key.keys[2]",
        "filters[0].api_key.keys[2]",
        "filters[1].limits[0].requests",
        "filters[1].limits[1].per",
        "filters[1].limits[2].request",
        "filters[2].prompt_cache.max_entry",
        "filters[2].prompt_cache.for",
        "filters[2].prompt_cache.size",
        "filters[2].prompt_cache.stale_if_error",
        "filters[3].jwt",
        "filters[3].jwt.issuer",
        "filters[3].jwt.algorithms[0]",
        "filters[3].jwt.clock_skew",
        "pools.main.balance.prefix_affinity.blok",
        "pools.main.balance.prefix_affinity.load",
        "pools.main.backends[0].uri",
        "pools.main.queue.max_wait",
    ];
    assert_eq!(told, expected, "{said:#}");
}
