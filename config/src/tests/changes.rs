//! What differs between two files.

use serde_json::{Value, json};

use super::World;
use crate::changes;

/// The changes between two files that refer to `${env:K}` and `${env:L}`, as path, from, to.
fn between(before: &str, after: &str) -> Vec<(String, Value, Value)> {
    let world = World::default().var("K", "first-secret").var("L", "second-secret");
    let [before, after] =
        [before, after].map(|text| world.load(text).unwrap_or_else(|faults| panic!("{faults}")).config);
    let changes = changes(&before, &after);
    changes
        .into_iter()
        .map(|change| (change.path.to_string(), change.from.unwrap_or_default(), change.to.unwrap_or_default()))
        .collect()
}

const POOL: &str = "pools: { main: { backends: [http://127.0.0.1:1] } }\n";

#[test]
fn the_same_meaning_is_no_change_however_it_is_written() {
    let other = "# a comment\nlog: { level: info }\npools:\n  main:\n    backends:\n      - url: http://127.0.0.1:1\n";
    assert_eq!(between(POOL, other), []);
}

#[test]
fn settings_are_compared_one_by_one() {
    let after = format!("{POOL}log: {{ level: debug }}\nlimits: {{ body: 1MiB }}\nanswer_headers: false\n");
    assert_eq!(
        between(POOL, &after),
        [
            ("answer_headers".to_owned(), json!(true), json!(false)),
            ("limits.body".to_owned(), json!("32MiB"), json!("1MiB")),
            ("log.level".to_owned(), json!("info"), json!("debug")),
        ]
    );
}

#[test]
fn what_is_put_into_a_list_changes_nothing_around_it() {
    let list = |names: &[&str]| {
        let filters: Vec<_> = names.iter().map(|name| format!("  - {name}: {{}}\n")).collect();
        format!("{POOL}filters:\n{}", filters.concat())
    };
    let changes = between(&list(&["a", "c"]), &list(&["a", "b", "c"]));
    assert_eq!(changes, [("filters[1]".to_owned(), Value::Null, json!({ "b": {} }))]);
    let changes = between(&list(&["a", "b", "c"]), &list(&["a", "c"]));
    assert_eq!(changes, [("filters[1]".to_owned(), json!({ "b": {} }), Value::Null)]);
}

#[test]
fn another_secret_is_a_change_and_is_not_shown() {
    let file = |name: &str| {
        format!(
            "pools: {{ main: {{ backends: [ {{ url: http://127.0.0.1:1, key: \"${{env:{name}}}\", headers: {{ X-Api-Key: \"${{env:{name}}}\" }} }} ] }} }}\n\
             filters: [ {{ some: {{ token: \"${{env:{name}}}\", size: 3 }} }} ]\n"
        )
    };
    assert_eq!(between(&file("K"), &file("K")), []);
    let changes = between(&file("K"), &file("L"));
    let paths: Vec<_> = changes.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    for (path, from, to) in changes {
        assert_eq!((from, to), (json!("***"), json!("***")), "{path}");
    }
}
