//! The JSON Schema (2020-12) of the file, from the as-written types: what editors complete and check with.

use serde_json::{Value, json};

use crate::written::File;

/// The schema of the file; filters are only known to be one-key tables.
pub fn schema() -> Value {
    let generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<File>().to_value();
    finish(&mut schema);
    schema
}

/// What the types cannot say: a number or a truth value may be a reference (`${env:N}`), a default of nothing is none,
/// and a line break in a comment of ours is no line break for the reader.
fn finish(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(kind @ ("integer" | "boolean")) = object.get("type").and_then(Value::as_str) {
                let kinds = json!([kind, "string"]);
                object.insert("type".to_owned(), kinds);
                object.insert("pattern".to_owned(), r"\$\{".into());
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n");
            }
            object.values_mut().for_each(finish);
        }
        Value::Array(items) => items.iter_mut().for_each(finish),
        _ => {}
    }
}

/// The schema of the file with the settings of these filters and balancers (name and schema) spelled out.
pub fn schema_with(filters: &[(&str, Value)], balancers: &[(&str, Value)]) -> Value {
    let mut schema = schema();
    schema["properties"]["filters"]["items"] = one_of(&mut schema, filters);
    let balance = one_of(&mut schema, balancers);
    let described = &mut schema["$defs"]["Pool"]["properties"]["balance"];
    described["oneOf"] = balance["oneOf"].clone();
    if let Some(described) = described.as_object_mut() {
        described.remove("anyOf");
    }
    schema
}

/// One of these by name alone, or a table with the name and the settings.
fn one_of(schema: &mut Value, named: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    let mut one_of = vec![json!({ "type": "string", "enum": names })];
    for (name, settings) in named {
        let mut settings = settings.clone();
        let description = settings.get("description").cloned();
        adopt_definitions(schema, name, &mut settings);
        let mut entry = json!({
            "type": "object",
            "properties": { *name: settings },
            "required": [name],
            "additionalProperties": false,
        });
        if let Some(description) = description {
            entry["description"] = description;
        }
        one_of.push(entry);
    }
    json!({ "oneOf": one_of })
}

/// Moves a filter's own definitions beside the file's, under names that cannot collide.
fn adopt_definitions(schema: &mut Value, filter: &str, settings: &mut Value) {
    if let Some(object) = settings.as_object_mut() {
        object.remove("$schema");
        if let Some(Value::Object(definitions)) = object.remove("$defs") {
            for (name, mut definition) in definitions {
                rename_references(&mut definition, filter);
                schema["$defs"][format!("{filter}.{name}")] = definition;
            }
        }
    }
    rename_references(settings, filter);
}

fn rename_references(value: &mut Value, filter: &str) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/$defs/{filter}.{name}");
            }
            object.values_mut().for_each(|value| rename_references(value, filter));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, filter)),
        _ => {}
    }
}
