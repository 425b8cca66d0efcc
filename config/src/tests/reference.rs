//! `gateway.yaml` names every setting, and what it says is the default is the default.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::World;
use crate::tree::{Content, Node};
use crate::{Config, KeyPath, schema};

fn reference() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.yaml")).unwrap()
}

/// The file with every commented setting taken into use.
fn uncommented() -> String {
    let lines: Vec<String> = reference().lines().map(str::to_owned).collect();
    let is_setting = |line: &str| {
        let line = line.trim_start();
        line.starts_with('#') && !line.starts_with("# ") && line != "#"
    };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let filled = lines.get(index + 1).is_some_and(|next| is_setting(next) && indent(next) > indent(line));
        let line = if is_setting(line) { line.replacen('#', "", 1) } else { line.clone() };
        let line = if filled { line.trim_end_matches(" {}").trim_end_matches(" []") } else { &line };
        text += line;
        text.push('\n');
    }
    text
}

fn load(text: &str) -> Config {
    let pem = "-----BEGIN SOMETHING-----";
    let world =
        World::default().var("ADMIN_TOKEN", "t").var("BACKEND_KEY", "k").var("KEY_PEPPER", "p").var("OTLP_TOKEN", "t");
    let world = world.var("CACHE_SALT", "a salt of some length");
    let world = world.file("tls/cert.pem", pem).file("tls/key.pem", pem).file("tls/ca.pem", pem);
    let world = world.file("tls/operators.pem", pem).file("backends.yaml", "[]");
    world.load(text).unwrap_or_else(|faults| panic!("{faults}")).config
}

#[test]
fn it_can_be_used_as_it_is_and_with_every_setting_in_use() {
    load(&reference());
    let full = load(&uncommented());
    assert!(full.cors.is_some() && full.default_model.is_some() && full.filters.len() == 1);
    assert!(full.pools[0].backends[0].max_in_flight.is_some());
}

#[test]
fn it_names_every_setting_of_the_schema() {
    let schema = schema();
    let file: Value = serde_yaml::from_str(&uncommented()).unwrap();
    let mut named = BTreeMap::new();
    walk(&schema, &schema, &[&file], "", &mut named);
    let missing: Vec<_> = named.iter().filter(|(_, named)| !**named).map(|(setting, _)| setting).collect();
    assert!(missing.is_empty(), "not in gateway.yaml: {missing:#?}");
    assert!(named.len() > 60, "{named:#?}");
}

/// Notes for every property of every type below `schema` whether one of the values at its place has it.
fn walk(root: &Value, schema: &Value, values: &[&Value], path: &str, named: &mut BTreeMap<String, bool>) {
    if let Some(name) = schema["$ref"].as_str() {
        let definition = root.pointer(name.trim_start_matches('#')).unwrap();
        walk(root, definition, values, name, named);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let inner: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        // The other form of a choice that the file shows in a comment: `{ pool: NAME }` beside `refuse`.
        let is_choice = ["unpacked", "pool"].contains(&name.as_str()) && !path.contains("Model");
        *named.entry(format!("{path}.{name}")).or_default() |= !inner.is_empty() || is_choice;
        walk(root, property, &inner, &format!("{path}.{name}"), named);
    }
    for form in ["anyOf", "oneOf", "allOf"].iter().filter_map(|form| schema[form].as_array()).flatten() {
        walk(root, form, values, path, named);
    }
    let children = |pick: fn(&Value) -> Vec<&Value>| values.iter().flat_map(|value| pick(value)).collect::<Vec<_>>();
    if schema["items"].is_object() {
        let items = children(|value| value.as_array().into_iter().flatten().collect());
        walk(root, &schema["items"], &items, &format!("{path}[]"), named);
    }
    if schema["additionalProperties"].is_object() {
        let items = children(|value| value.as_object().into_iter().flat_map(serde_json::Map::values).collect());
        walk(root, &schema["additionalProperties"], &items, &format!("{path}.*"), named);
    }
}

#[test]
fn every_line_that_is_in_use_can_be_left_out_without_changing_anything() {
    let text = reference();
    let whole = format!("{:?}", load(&text));
    let (root, _) = crate::compose::compose(&text);
    let mut root = root.unwrap();
    root.assign_paths(KeyPath::root());
    let mut settings = Vec::new();
    each_setting(&root, &mut settings);
    assert!(settings.len() > 50, "{settings:#?}");
    for path in settings {
        let mut without: Value = serde_yaml::from_str(&text).unwrap();
        let pointer: String = path.steps()[..path.steps().len() - 1].iter().map(step).collect();
        let key = step(path.steps().last().unwrap());
        without.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(&key[1..]).unwrap();
        let without = format!("{:?}", load(&serde_json::to_string(&without).unwrap()));
        let same = without == whole || Some(&path.to_string()[..]) == Some("listen");
        assert!(same, "{path} is not at its default");
    }
}

fn step(step: &crate::Step) -> String {
    match step {
        crate::Step::Key(key) => format!("/{key}"),
        crate::Step::Item(item) => format!("/{item}"),
    }
}

/// The settings of the file that have a default: all but the names that the user chooses and what a list item needs.
fn each_setting(node: &Node, settings: &mut Vec<KeyPath>) {
    match &node.content {
        Content::Table(entries) => {
            for (key, value) in entries {
                let path = value.path.to_string();
                let needed = ["pools", "backends", "url", "pool", "address"].contains(&key.text.as_str());
                let named = path == "models.*" || path == "pools.main";
                if !needed && !named && path != "models" {
                    settings.push(value.path.clone());
                }
                each_setting(value, settings);
            }
        }
        Content::List(items) => items.iter().for_each(|item| each_setting(item, settings)),
        Content::Scalar(_) | Content::Gone => {}
    }
}
