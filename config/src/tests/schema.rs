//! The schema says what the types say.

use serde_json::{Value, json};

use crate::{schema, schema_with};

#[test]
fn it_has_the_defaults_and_what_is_required() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!((&schema["required"], &schema["additionalProperties"]), (&json!(["pools"]), &json!(false)));
    assert_eq!(schema["$defs"]["Limits"]["properties"]["body"]["default"], "32MiB");
    assert_eq!(schema["$defs"]["Retries"]["properties"]["most"]["type"], json!(["integer", "string"]));
    assert_eq!(
        schema["properties"]["listen"]["default"],
        json!([{ "address": "127.0.0.1:8080", "tls": null, "proxy_protocol": false }])
    );
}

#[test]
fn every_setting_is_described() {
    fn undescribed(value: &Value, path: &str, found: &mut Vec<String>) {
        for (name, property) in value["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) && name != "unpacked" && name != "pool" {
                found.push(format!("{path}.{name}"));
            }
        }
        for (name, definition) in value["$defs"].as_object().into_iter().flatten() {
            undescribed(definition, name, found);
        }
    }
    let mut found = Vec::new();
    undescribed(&schema(), "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_filter_brings_its_settings_and_their_types() {
    let settings = json!({
        "$schema": "x",
        "description": "Who may call.",
        "type": "object",
        "properties": { "keys": { "type": "array", "items": { "$ref": "#/$defs/Key" } } },
        "$defs": { "Key": { "properties": { "next": { "$ref": "#/$defs/Key" } } } },
    });
    let schema = schema_with(&[("api_key", settings)], &[]);
    let forms = &schema["properties"]["filters"]["items"]["oneOf"];
    assert_eq!(forms[0]["enum"], json!(["api_key"]));
    let filter = &forms[1]["properties"]["api_key"];
    assert_eq!(filter["properties"]["keys"]["items"]["$ref"], "#/$defs/api_key.Key");
    assert_eq!(schema["$defs"]["api_key.Key"]["properties"]["next"]["$ref"], "#/$defs/api_key.Key");
    assert_eq!((&filter["$schema"], &filter["$defs"]), (&Value::Null, &Value::Null));
    assert_eq!(forms[1]["description"], "Who may call.");
}
