//! What comes from outside the file: references and overrides.

use super::{POOL, World};
use crate::{Address, Config, KeyPath, Source, load};

fn config(world: &World, text: &str) -> Config {
    world.load(text).unwrap_or_else(|faults| panic!("{faults}")).config
}

fn message(world: &World, text: &str) -> String {
    world.load(text).map(|loaded| loaded.config).expect_err("the file has faults").to_string()
}

const BACKEND: &str = "pools: { main: { backends: [{ url: http://127.0.0.1:1, key: KEY, weight: WEIGHT }] } }\n";

#[test]
fn references_are_replaced_in_any_value_and_read_by_its_type() {
    let world = World::default().var("N", "3").var("EMPTY", "").file("keys/a", " 12345\n");
    let text = BACKEND.replace("KEY", "\"${file:keys/a}\"").replace("WEIGHT", "\"${env:N}\"");
    let backend = config(&world, &text).pools[0].backends[0].clone();
    assert_eq!((backend.weight, backend.key.unwrap().expose()), (3, "12345"));
    let text = BACKEND.replace("KEY", "\"a$${b${env:EMPTY:-c}\"").replace("WEIGHT", "1");
    assert_eq!(config(&world, &text).pools[0].backends[0].key.as_ref().unwrap().expose(), "a${bc");
}

#[test]
fn a_filter_gets_its_settings_replaced_and_typed() {
    let world = World::default().var("N", "3");
    let text = format!("{POOL}filters:\n  - limit:\n      max: ${{env:N}}\n      note: \"${{env:N}}\"\n  - other\n");
    let filters = config(&world, &text).filters;
    assert_eq!(filters[0].settings, serde_json::json!({ "max": 3, "note": "3" }));
    assert_eq!((filters[1].name.as_str(), &filters[1].settings), ("other", &serde_json::json!({})));
    assert_eq!(filters[0].path, KeyPath::root().key("filters").item(0).key("limit"));
}

#[test]
fn a_reference_to_nothing_is_refused() {
    for (reference, said) in [
        ("${env:NOPE}", "the environment variable NOPE is not set"),
        ("${file:nope}", "cannot read the file nope"),
        ("${nope}", "neither ${env:NAME}"),
        ("${env:NOPE", "without its `}`"),
        ("${env:}", "does not name a variable"),
    ] {
        let text = BACKEND.replace("KEY", &format!("\"{reference}\"")).replace("WEIGHT", "1");
        assert!(message(&World::default(), &text).contains(said), "{reference}");
    }
}

#[test]
fn any_setting_can_be_set_by_a_variable() {
    let world = World::default()
        .var("TIDEGATE_LISTEN", "127.0.0.1:1")
        .var("TIDEGATE_ADMIN__TOKEN", "12345")
        .var("TIDEGATE_POOLS__LLAMA_3_1__BACKENDS__0", "http://127.0.0.1:2")
        .var("TIDEGATE_POOLS__LLAMA_3_1__BACKENDS__1__URL", "http://127.0.0.1:3")
        .var("TIDEGATE_POOLS__LLAMA_3_1__HEALTH", "{ every: 8s }")
        .var("TIDEGATE_POOLS__LLAMA_3_1__HEALTH__EVERY", "7s")
        .var("TIDEGATE_LIMITS", "{ headers: 7 }");
    let text = "listen: [127.0.0.1:9]\nlimits: { headers: 8 }\n\
                pools: { llama-3.1: { health: off, backends: [http://127.0.0.1:9] } }\n";
    let config = config(&world, text);
    assert_eq!(config.listen[0].address, Address::parse("127.0.0.1:1").unwrap());
    assert_eq!(config.admin.token.unwrap().expose(), "12345");
    let pool = &config.pools[0];
    let urls: Vec<_> = pool.backends.iter().map(|backend| backend.url.to_string()).collect();
    assert_eq!(urls, ["http://127.0.0.1:2", "http://127.0.0.1:3"]);
    assert_eq!(pool.health.as_ref().unwrap().every.as_secs(), 7);
    assert_eq!(config.limits.headers, 7);
}

#[test]
fn a_whole_configuration_can_come_from_variables() {
    let world = World::default().var("TIDEGATE_POOLS__MAIN__BACKENDS__0", "http://127.0.0.1:1");
    assert_eq!(config(&world, "").pools[0].name, "main");
}

#[test]
fn an_override_wins_over_a_reference_that_leads_nowhere() {
    let world = World::default().var("TIDEGATE_ADMIN__TOKEN", "a${b");
    let text = format!("{POOL}admin: {{ token: \"${{env:NOPE}}\" }}\n");
    assert_eq!(config(&world, &text).admin.token.unwrap().expose(), "a${b");
}

#[test]
fn an_empty_variable_switches_nothing_off() {
    let world = World::default().var("EMPTY", "").var("TILDE", "~");
    for token in ["${env:EMPTY}", "\"${env:EMPTY}\""] {
        let text = format!("{POOL}admin:\n  token: {token}\n");
        assert!(message(&world, &text).contains("the token is empty"));
    }
    assert_eq!(config(&world, &format!("{POOL}admin:\n  token: ${{env:TILDE}}\n")).admin.token.unwrap().expose(), "~");
    let world = World::default().var("TIDEGATE_ADMIN__TOKEN", " ");
    assert!(message(&world, POOL).contains("set to nothing"));
}

#[test]
fn paths_start_from_the_directory_of_the_file() {
    let source = Source {
        name: "/etc/tidegate/gateway.yaml".to_owned(),
        text: "listen: unix:a.sock\npools: { a: { backends: [{ url: unix:b.sock, key: \"${file:k}\" }] } }\n"
            .to_owned(),
    };
    let config = load(&source, &World::default().file("/etc/tidegate/k", "key")).unwrap().config;
    assert_eq!(config.listen[0].address, Address::Unix("/etc/tidegate/a.sock".into()));
    assert_eq!(config.pools[0].backends[0].url.address, Address::Unix("/etc/tidegate/b.sock".into()));
    assert_eq!(config.pools[0].backends[0].key.as_ref().unwrap().expose(), "key");
}

#[test]
fn a_variable_that_sets_nothing_known_is_refused_by_name() {
    for (name, value, said) in [
        ("TIDEGATE_LISTN", "x", "did you mean `listen`?"),
        ("TIDEGATE_LIMITS__BODY", "1s", "such as 512"),
        ("TIDEGATE_POOLS__MAIN__BACKENDS__5", "http://a:1", "there is no item 5"),
        ("TIDEGATE_POOLS__MAIN__BACKENDS__X", "http://a:1", "not the number of a list item"),
        ("TIDEGATE_POOLS__MAIN__BACKENDS__0__WEIGHT", "2", "set it as a whole"),
        ("TIDEGATE_LISTEN", "[a", "put it in quotes"),
        ("TIDEGATE_ADMIN____LISTEN", "x", "does not name a setting"),
    ] {
        let said_all = message(&World::default().var(name, value), POOL);
        assert!(said_all.contains(said) && said_all.contains(&format!("set by: {name}")), "{said_all}");
    }
    let text =
        "pools: { a-b: { backends: [http://a:1] }, a_b: { backends: [http://a:2] } }\nmodels: { m: { pool: a-b } }";
    let world = World::default().var("TIDEGATE_POOLS__A_B__RETRIES", "1");
    assert!(message(&world, text).contains("may mean `a-b` or `a_b`"));
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let world = World::default()
        .var("TIDEGATE_CONFIG", "gateway.yaml")
        .var("TIDEGATE_LOG", "debug")
        .var("TIDEGATE_PORT", "tcp://10.0.0.1:8080")
        .var("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1")
        .var("TIDEGATE_SERVICE_PORT_HTTP", "8080")
        .var("TIDEGATE_ADMIN_SERVICE_HOST", "10.0.0.1")
        .var("HOME", "/root");
    config(&world, POOL);
}
