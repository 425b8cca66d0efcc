use super::*;
use crate::exchange::Caller;
use crate::testing;
use serde_json::{Value, json};
use std::collections::HashMap;

fn services() -> Services {
    Services { models: ["small".into(), "large".into(), "gpt-*".into()].into(), ..Services::none() }
}

fn filter(settings: Value) -> ModelRoute {
    ModelRoute::new(serde_json::from_value(settings).unwrap(), &services())
        .unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn faults(settings: Value) -> Vec<String> {
    let faults = ModelRoute::new(serde_json::from_value(settings).unwrap(), &services()).err().expect("faults");
    faults.into_iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
}

async fn routed(filter: &ModelRoute, body: &str, user: Option<&str>) -> String {
    let mut exchange = testing::exchange(body);
    exchange.identify(Arc::new(Caller { user: user.map(Into::into), ..Caller::default() }));
    assert!(matches!(filter.request(&mut exchange).await, Ok(Verdict::Continue)));
    exchange.model().unwrap().to_string()
}

#[tokio::test]
async fn the_first_rule_that_means_a_request_decides() {
    let filter = filter(json!({ "rules": [
        { "when": "has_tools", "model": "large" },
        { "when": "model == \"auto\"", "model": "small" },
    ]}));
    assert_eq!(routed(&filter, r#"{"model":"auto","tools":[{}]}"#, None).await, "large");
    assert_eq!(routed(&filter, r#"{"model":"auto"}"#, None).await, "small");
    assert_eq!(routed(&filter, r#"{"model":"gpt-x"}"#, None).await, "gpt-x");
}

#[tokio::test]
async fn each_model_of_a_split_answers_its_share() {
    let filter = filter(json!({ "rules": [{ "split": { "small": 9, "large": 1 } }] }));
    let mut counts = HashMap::<String, u32>::new();
    for _ in 0..1000 {
        *counts.entry(routed(&filter, r#"{"model":"auto"}"#, None).await).or_default() += 1;
    }
    assert!((95..=105).contains(&counts["large"]), "{counts:?}");
}

#[tokio::test]
async fn who_sticks_stays_and_a_changed_weight_moves_only_its_share() {
    let with =
        |weight: u32| filter(json!({ "rules": [{ "split": { "small": 90, "large": weight }, "sticky": "user" }] }));
    let (tenth, fifth) = (with(10), with(23));
    let (mut large, mut moved) = (0, 0);
    for user in 0..2000 {
        let user = format!("user-{user}");
        let before = routed(&tenth, r#"{"model":"auto"}"#, Some(&user)).await;
        assert_eq!(before, routed(&tenth, r#"{"model":"auto"}"#, Some(&user)).await);
        let after = routed(&fifth, r#"{"model":"auto"}"#, Some(&user)).await;
        large += u32::from(before == "large");
        moved += u32::from(before != after);
        assert!(before != "large" || after == "large", "a grown share gives nobody away");
    }
    assert!((150..=250).contains(&large), "{large}");
    assert!((130..=280).contains(&moved), "{moved}");
}

#[test]
fn what_cannot_be_meant_is_told_all_at_once() {
    let told = faults(json!({ "lists": { "beta": ["a"] }, "rules": [
        { "name": "a", "when": "org in gama", "model": "small" },
        { "name": "a", "when": "stream", "model": "tiny" },
        { "when": "stream" },
        { "when": "stream", "split": { "small": 0 } },
        { "when": "stream", "model": "small", "sticky": "user" },
        { "model": "gpt-4" },
        { "model": "small" },
    ]}));
    let expected = [
        "rules[0].when: at character 8: there is no list `gama` under `lists`",
        "rules[1].name: another rule is called 'a'",
        "rules[1].model: the file has no model 'tiny'",
        "rules[2]: say where to: either `model` or `split`",
        "rules[3].split: at least one model must have a weight",
        "rules[4].sticky: there is nothing to choose from",
        "rules[6]: it is never reached: rule 6 is for all requests",
    ];
    assert_eq!(told, expected);
    assert_eq!(faults(json!({ "rules": [] })), ["rules: there is no rule"]);
}
