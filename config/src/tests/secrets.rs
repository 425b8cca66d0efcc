//! No secret of a file is ever shown.

use super::{POOL, World, loaded};
use crate::KeyPath;

const SECRETS: &str = "admin: { listen: 0.0.0.0, token: hush-token } # old token: hush-old
filters:
  - api_key: { keys: [{ id: alice, hash: hush-hash }], list: { tokens: 5 }, secrets: [hush-1, hush-2] }
pools:
  main:
    backends:
      - { url: nonsense, key: 'hush-key', headers: { X-Api-Key: hush-header, X-Org: shown }, weight: x }
      - url: http://127.0.0.1:1
        key: |-
          hush-block
        token: hush-unknown
";

#[test]
fn faults_show_lines_without_the_secrets_in_them() {
    let faults = World::default().load(SECRETS).unwrap_err();
    let shown = format!("{faults}{}", faults.to_json());
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("{ url: nonsense, key: ***, headers: { X-Api-Key: ***, X-Org: shown }"), "{shown}");
}

#[test]
fn no_line_of_the_file_can_be_shown_with_a_secret_in_it() {
    let loaded = loaded(
        &SECRETS
            .replace("0.0.0.0", "127.0.0.1:1")
            .replace("nonsense", "http://127.0.0.1:2")
            .replace("weight: x", "")
            .replace("token: hush-unknown", "name: b"),
    );
    for path in ["admin.listen", "admin.token", "filters[0].api_key.secrets[1]", "pools.main.backends[1].key"] {
        let fault = loaded.positions.fault(&KeyPath::root().inside(path), "");
        assert!(fault.place.is_some() && !fault.to_string().contains("hush"), "{fault}");
    }
    let yaml = loaded.config.masked_yaml();
    assert!(!yaml.contains("hush"), "{yaml}");
    assert!(yaml.contains("x-org: shown") && yaml.contains("tokens: 5"), "{yaml}");
    assert!(!format!("{:?}", loaded.config.pools).contains("hush"));
}

#[test]
fn a_file_that_is_not_yaml_shows_no_secrets_either() {
    for text in ["token: hush\n  key: hush: [", "a: b\n-----BEGIN\nhushhushhushhushhushhushhushhush: : -\n{"] {
        let faults = World::default().load(text).unwrap_err();
        assert!(!faults.to_string().contains("hush"), "{faults}");
    }
}

#[test]
fn a_value_from_outside_is_never_part_of_a_message() {
    let text = "listen: \"${env:S}\"\nlog: { level: \"${env:S}\" }\nlimits: { body: \"${env:S}\" }\n\
                pools: { main: { balance: \"${env:S}\", backends: [{ url: \"${env:S}\", weight: \"${env:S}\" }] } }\n\
                models: { m: { pool: \"${env:S}\" } }\ndefault_model: \"${env:S}\"\n";
    let faults = World::default().var("S", "hush").load(text).unwrap_err();
    assert!(!faults.to_string().contains("hush"), "{faults}");
}

#[test]
fn the_caret_stays_under_its_setting_when_a_secret_before_it_is_masked() {
    let text = format!("{POOL}admin: {{ token: hush-hush-hush, listn: x }}\n");
    let shown = World::default().load(&text).unwrap_err().to_string();
    let lines: Vec<_> = shown.lines().collect();
    let line = lines.iter().position(|line| line.ends_with("^^^^^")).unwrap();
    assert_eq!(lines[line - 1].find("listn"), lines[line].find("^^^^^"), "{shown}");
    assert!(lines[line - 1].contains("token: ***,"), "{shown}");
}

#[test]
fn the_path_of_a_listener_key_is_no_secret() {
    let text = format!("{POOL}listen: {{ address: 127.0.0.1:1, tls: {{ cert: c.pem, key: k.pem }} }}\n");
    assert!(World::default().load(&text).unwrap_err().to_string().contains("key: k.pem"));
}
