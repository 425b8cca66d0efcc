//! What is said about files that can be used and probably should not.

use super::{POOL, World};

fn warned(text: &str, message: &str, line: usize) {
    let world = World::default().var("K", "secret");
    let warnings = world.load(text).unwrap_or_else(|faults| panic!("{faults}")).warnings;
    let [warning] = &warnings[..] else { panic!("one warning expected of {text:?}: {warnings:#?}") };
    assert!(warning.message.contains(message), "{warning}");
    assert_eq!(warning.line(), Some(line), "{warning}");
}

fn silent(text: &str) {
    let warnings = World::default().var("K", "secret").load(text).unwrap_or_else(|faults| panic!("{faults}")).warnings;
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn an_open_door_is_pointed_at() {
    warned(&format!("{POOL}listen: 0.0.0.0:8080\n"), "anyone who can reach", 2);
    silent(&format!("{POOL}listen: 0.0.0.0:8080\nfilters: [api_key]\n"));
    let next = "filters: [ { api_key: { otherwise: next } } ]";
    warned(&format!("{POOL}listen: 0.0.0.0:8080\n{next}\n"), "anyone who can reach", 2);
    silent(POOL);
}

#[test]
fn a_cache_where_it_does_no_good_is_pointed_at() {
    let filters = |filters: &str| format!("{POOL}filters:\n{filters}");
    warned(&filters("  - api_key\n  - prompt_cache: {}\n  - limits: []\n"), "without asking the limits", 4);
    warned(&filters("  - prompt_cache: { scope: global }\n  - api_key\n"), "given to whoever asks", 3);
    silent(&filters("  - api_key\n  - limits: []\n  - prompt_cache: {}\n"));
    silent(&filters("  - api_key\n  - prompt_cache: { scope: global }\n"));
    silent(&filters("  - prompt_cache: { scope: global }\n"));
}

#[test]
fn a_limit_that_stands_where_nobody_is_known_is_pointed_at() {
    let filters = |filters: &str| format!("{POOL}filters:\n{filters}");
    let limits =
        |per: &str| format!("  - limits:\n      - {{ per: ip, requests: 1/s }}\n      - {{ {per}, requests: 1/s }}\n");
    warned(&filters(&format!("{}  - api_key\n", limits("per: user"))), "which user calls", 5);
    warned(&filters(&limits("per: [model, key]")), "which key calls", 5);
    silent(&filters(&format!("  - api_key\n{}", limits("per: user"))));
    silent(&filters(&limits("per: [ip, model]")));
    silent(&filters(&limits("per: org, anonymous: shared")));
}

#[test]
fn trust_in_everybody_is_pointed_at() {
    warned(&format!("{POOL}trusted_proxies:\n  - 10.0.0.0/8\n  - 0.0.0.0/0\n"), "whoever connects may claim", 4);
    silent(&format!("{POOL}trusted_proxies: [10.0.0.0/8, unix]\n"));
    let filter = "filters: [ { trusted_headers: {} } ]\n";
    warned(&format!("{POOL}{filter}"), "these headers never count", 2);
    silent(&format!("{POOL}{filter}trusted_proxies: [unix]\n"));
}

#[test]
fn a_key_that_others_may_see_is_pointed_at() {
    let backend = |fields: &str| format!("pools: {{ a: {{ backends: [{{ {fields} }}] }} }}\n");
    warned(&backend("url: https://a.com, key: plain"), "plain text", 1);
    warned(&backend("url: https://a.com, headers: { X-Api-Key: plain }"), "plain text", 1);
    let traces = |value: &str| {
        format!("{POOL}traces: {{ endpoint: 'http://10.0.0.1:4318', headers: {{ authorization: {value} }} }}\n")
    };
    warned(&traces("Bearer x"), "plain text", 2);
    silent(&traces("\"${env:K}\""));
    let record = |key: &str| {
        format!("{POOL}filters: [{{ record: {{ to: {{ files: {{ path: . }} }}, chain: {{ key: {key} }} }} }}]\n")
    };
    warned(&record("plain"), "plain text", 2);
    silent(&record("\"${env:K}\""));
    warned(&backend("url: http://a.com, key: \"${env:K}\""), "unencrypted", 1);
    silent(&backend("url: https://a.com, key: \"${env:K}\""));
    silent(&backend("url: http://10.0.0.1:8000, key: \"${env:K}\""));
    silent(&backend("url: http://vllm:8000, key: \"${env:K}\""));
    let text =
        "pools:\n  a:\n    tls:\n      verify: false\n    backends: [{ url: https://a.com, key: \"${env:K}\" }]\n";
    warned(text, "not verified", 4);
}

#[test]
fn timeouts_that_can_never_be_reached_are_pointed_at() {
    warned(&format!("{POOL}timeouts: {{ total: 4m, first_byte: 1m }}\n"), "`first_token` is longer", 2);
    warned(&format!("{POOL}timeouts: {{ connect: 6m }}\n"), "`connect` is longer", 2);
    let text = "pools:\n  main:\n    timeouts: { idle: 2h }\n    backends: [http://127.0.0.1:1]\n";
    warned(text, "`idle` is longer", 3);
    warned(&format!("{POOL}models:\n  m: {{ pool: main, timeouts: {{ idle: 2h }} }}\n"), "`idle` is longer", 3);
}

#[test]
fn a_pool_that_does_not_do_what_it_seems_to_is_pointed_at() {
    let pools = "pools:\n  a: { backends: [http://a:1] }\n  b: { backends: [http://b:1] }\n";
    warned(&format!("{pools}models: {{ m: {{ pool: a }} }}\n"), "nothing is ever sent to the pool `b`", 3);
    silent(&format!("{pools}models: {{ m: {{ pool: a }} }}\nother_paths: {{ pool: b }}\n"));
    warned("pools: { a: { health: off, backends: [http://a:1, http://b:1] } }\n", "without health checks", 1);
    warned("pools: { a: { tls: {}, backends: [http://a:1] } }\n", "no backend of this pool speaks TLS", 1);
    warned("pools: { a: { backends: [http://a:1/v1/] } }\n", "/v1/v1", 1);
    let alone = "pools:\n  a: { resume: {}, backends: [http://a:1] }\n";
    warned(alone, "nobody else could continue a stream", 2);
    let more = "  b: { resume: {}, backends: [http://b:1, http://c:1] }\n";
    silent(&format!("{alone}{more}models: {{ m: {{ pool: a, fallback: [b] }} }}\n"));
}
