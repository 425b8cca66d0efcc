//! All faults at once, and none that is made up.

use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    size: u32,
    most: u32,
    word: Word,
    items: Vec<Item>,
    named: BTreeMap<String, Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: String,
    weight: u32,
    #[serde(default)]
    least: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    #[default]
    One,
    Two(u32),
}

/// What is wrong with settings that can be read.
fn judge(settings: Settings) -> Vec<SettingsError> {
    let mut faults = Vec::new();
    if settings.size == 0 {
        faults.push(SettingsError::at("size", "it is nothing"));
    }
    if settings.most == 0 || settings.size > settings.most {
        faults.push(SettingsError::at("most", "too little"));
    }
    if settings.items.is_empty() {
        faults.push(SettingsError::at("", "there are no items"));
    }
    for (at, item) in settings.items.iter().enumerate() {
        if item.id.is_empty() {
            faults.push(SettingsError::at(format!("items[{at}].id"), "it has no name"));
        }
        if item.least > item.weight {
            faults.push(SettingsError::at(format!("items[{at}].least"), "more than its weight"));
        }
    }
    faults
}

/// Where something is wrong, in order.
fn wrong(settings: Value) -> Vec<String> {
    let misfits = read::<Settings>(settings).expect_err("it does not fit");
    let mut paths: Vec<_> = misfits.judged(judge).into_iter().map(|fault| fault.path).collect();
    paths.sort();
    paths
}

#[test]
fn what_fits_is_read() {
    let settings: Settings = read(json!({ "word": { "two": 2 }, "size": 1 })).ok().expect("it fits");
    assert!(matches!(settings.word, Word::Two(2)) && settings.size == 1);
}

#[test]
fn all_that_does_not_fit_is_told_with_what_is_wrong_besides() {
    let settings = json!({
        "size": "large", "most": 0, "word": { "two": "x" }, "colour": "red",
        "items": [
            { "id": 5, "weight": 1, "least": 2 },
            7,
            { "id": "a", "weight": 1, "least": 2 },
            { "weight": "x" },
            { "id": "b", "weight": 1, "least": 2 },
        ],
        "named": { "a.b": { "id": "c" }, "c": 3 },
    });
    let expected = [
        "colour",
        "items[0].id",
        "items[0].least",
        "items[1]",
        "items[2].least",
        "items[3]",
        "items[3].weight",
        "items[4].least",
        "most",
        "named.\"a.b\"",
        "named.c",
        "size",
        "word.two",
    ];
    assert_eq!(wrong(settings), expected);
}

#[test]
fn what_follows_from_something_that_does_not_fit_is_not_told() {
    // It is nothing only because it cannot be read, and whether it is too much nobody knows.
    assert_eq!(wrong(json!({ "size": "large", "most": 5, "items": [{ "id": "a", "weight": 1 }] })), ["size"]);
    // The only item that there is.
    assert_eq!(wrong(json!({ "size": 1, "most": 1, "items": [{ "id": "a", "wait": 1 }] })), ["items[0].wait"]);
    assert_eq!(wrong(json!({ "size": 1, "most": 1, "items": [7] })), ["items[0]"]);
    assert_eq!(wrong(json!({ "size": 1, "most": 1, "items": 7 })), ["items"]);
    // Under another name.
    assert_eq!(wrong(json!({ "sise": 1, "most": 1, "items": [{ "id": "a", "weight": 1 }] })), ["sise"]);
}

#[test]
fn what_was_meant_for_a_setting_is_judged_as_it() {
    let settings = json!({ "sise": 1, "most": 0, "items": [{ "id": "a", "weigth": 1, "least": 2 }] });
    assert_eq!(wrong(settings.clone()), ["items[0].weigth", "most", "sise"]);
    let misfits = read::<Settings>(settings).err().expect("it does not fit");
    let help: Vec<_> = misfits.judged(judge).into_iter().filter_map(|fault| fault.help).collect();
    assert!(help.contains(&"did you mean `size`?".to_owned()), "{help:?}");
}

#[test]
fn what_remains_has_nothing_that_was_put_in() {
    let settings = json!({ "size": "3", "named": { "a": { "id": "x", "weight": 1 }, "b": 5 } });
    let misfits = read::<Settings>(settings).err().expect("it does not fit");
    let rest: Settings = misfits.rest().expect("the rest can be read");
    assert_eq!((rest.size, rest.named.keys().collect::<Vec<_>>()), (0, vec![&"a".to_owned()]));
}

#[test]
fn what_is_no_table_at_all_is_one_fault_and_many_are_not_counted_out() {
    assert_eq!(wrong(json!("words")), [""]);
    let items: Vec<_> = (0..200).collect();
    assert_eq!(wrong(json!({ "items": items })).len(), MOST_FAULTS);
}
