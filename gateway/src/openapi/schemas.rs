//! The schemas of the admin listener's answers: those that are types are made from them, the others are tables here.

use crate::telemetry::live::Live;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use tidegate_plugins::keys::Key;

/// A schema's name, what it is, and its members: name (with `?` if it may be absent), kind, meaning.
type Table = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]);

/// A schema by its short name: `string`, `integer`, `number`, `boolean`, `any`, `Name` of a table, `[of]`, `{of}` by name,
/// `a|b|c` one of these words, with `?` for null.
pub(super) fn kind(name: &str) -> Value {
    if let Some(name) = name.strip_suffix('?') {
        return match kind(name) {
            Value::Object(schema)
                if schema.get("type").is_some_and(Value::is_string) && !schema.contains_key("enum") =>
            {
                let mut schema = schema;
                schema["type"] = json!([schema["type"], "null"]);
                schema.into()
            }
            schema => json!({ "anyOf": [schema, { "type": "null" }] }),
        };
    }
    if let Some(of) = name.strip_prefix('[').and_then(|of| of.strip_suffix(']')) {
        return json!({ "type": "array", "items": kind(of) });
    }
    if let Some(of) = name.strip_prefix('{').and_then(|of| of.strip_suffix('}')) {
        return json!({ "type": "object", "additionalProperties": kind(of) });
    }
    match name {
        "any" => json!({}),
        "string" | "integer" | "number" | "boolean" | "object" => json!({ "type": name }),
        _ if name.contains('|') => json!({ "type": "string", "enum": name.split('|').collect::<Vec<_>>() }),
        _ => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

/// All of them, by name.
pub(super) fn all() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<Live>();
    generator.subschema_for::<Key>();
    let mut all: Map<String, Value> = generator.take_definitions(true);
    all.extend(TABLES.iter().map(|(name, about, members)| ((*name).to_owned(), object(about, members))));
    all
}

fn object(about: &str, members: &[(&str, &str, &str)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, of, about) in members {
        let name = name.strip_suffix('?').unwrap_or_else(|| {
            required.push(*name);
            name
        });
        let mut schema = kind(of);
        if !about.is_empty() {
            schema["description"] = (*about).into();
        }
        properties.insert(name.to_owned(), schema);
    }
    json!({ "type": "object", "description": about, "properties": properties, "required": required })
}

const TABLES: &[Table] = &[
    (
        "Problem",
        "What went wrong (RFC 9457).",
        &[
            ("type", "string", "Always about:blank."),
            ("title", "string", "The status in words."),
            ("status", "integer", ""),
            ("detail", "string", "What went wrong, and what to do."),
            ("faults?", "[string]", "Of a configuration: all that is wrong with it."),
            ("errors?", "[Fault]", "Of a key: all that is wrong with it."),
        ],
    ),
    (
        "Fault",
        "Something that is wrong with what was asked for.",
        &[("at", "string", "The member."), ("message", "string", ""), ("help", "string?", "What to do.")],
    ),
    (
        "Health",
        "How the gateway is.",
        &[
            ("ready", "boolean", "Whether requests should be sent here."),
            ("reason", "string?", "Why not."),
            ("config", "string", "The hash of the configuration in use."),
            ("requests_in_flight", "integer", "Requests that are not over."),
            ("connections", "integer", "Open connections of clients."),
            ("pools", "{Pool}", "By name."),
        ],
    ),
    (
        "Pool",
        "A pool.",
        &[
            ("up", "boolean", "Whether any of its backends is up."),
            ("panicking", "boolean", "Whether most are out, and all are used."),
            ("backends", "{Backend}", "By name."),
        ],
    ),
    (
        "Backend",
        "A backend.",
        &[
            (
                "state",
                "up|down|unknown|draining|leaving",
                "unknown: not asked yet; leaving: discovery names it no more.",
            ),
            ("in_flight", "integer", "Requests it is working on for this gateway."),
            ("max_in_flight", "integer?", "How many it gets at once; null: no bound."),
            ("breaker", "string", "closed (trusted), half_open or open (left alone): the worst of its models."),
            ("breakers_open", "integer", "Models that it is not asked for."),
            ("elsewhere", "number", "Requests that it has from others, as it says itself."),
            ("cache_used", "number", "How much of its own cache for prompts is used, from 0 to 1."),
        ],
    ),
    (
        "Limits",
        "The limits there are.",
        &[("limits", "[Limit]", "In the order of the file, then those of tenants and keys.")],
    ),
    (
        "Limit",
        "A limit.",
        &[
            ("limit", "string", "Its name in messages, logs and metrics."),
            ("per", "string", "Whose buckets it has."),
            ("of?", "[string]", "Of a limit that tenants or keys have for themselves: whose, the first of them."),
            ("others?", "integer", "How many more have it."),
            ("kind", "string", "What it counts."),
            ("allows", "string", "How much, as the file writes it."),
            ("most", "any", "What a full bucket holds: of money an amount, of all else a whole number."),
            ("models?", "[string]", "The models it is for; absent: all."),
            ("shadow", "boolean", "Whether it only counts."),
            ("subjects", "integer", "Subjects that have a bucket now."),
            ("decisions", "{integer}", "granted, refused, would_refuse, crowded."),
        ],
    ),
    ("Subject", "How somebody's buckets stand.", &[("subject", "string", ""), ("buckets", "[Bucket]", "")]),
    (
        "Bucket",
        "A bucket.",
        &[
            ("limit", "string", "The limit it is of."),
            ("kind", "string", "What is counted."),
            ("allows", "string", "How much is allowed, as the file writes it."),
            ("shadow", "boolean", "Whether the limit only counts."),
            ("most", "any", "What a full bucket holds."),
            ("left", "any", "What the next request finds."),
            ("reserved", "any", "What requests that are not over have taken, by estimate."),
            ("owed", "any", "What was spent beyond what there was."),
            ("next_in_ms", "integer?", "Until there is one more."),
            ("full_in_ms", "integer?", "Until it is full, if nothing more is taken."),
        ],
    ),
    (
        "Spenders",
        "Who spends most.",
        &[
            ("by", "org|user|key|model", ""),
            ("of", "tokens|requests|cost|limited", ""),
            ("window", "5m|1h|24h", ""),
            ("covers_seconds", "integer", "How far back it goes."),
            ("currency", "string", ""),
            ("spenders", "[Spender]", "The largest first."),
            ("total", "Spent", "Of all there are."),
            ("error_at_most", "Spent", "By how much each number may be too low."),
        ],
    ),
    (
        "Spender",
        "Somebody who spends.",
        &[
            ("name", "string", ""),
            ("org?", "string", "Of a user, if one is known."),
            ("requests", "integer", ""),
            ("tokens", "integer", ""),
            ("cost", "number", ""),
            ("limited", "integer", "Requests that a limit refused."),
        ],
    ),
    (
        "Spent",
        "What was spent.",
        &[
            ("requests", "integer", ""),
            ("tokens", "integer", ""),
            ("cost", "number", ""),
            ("limited", "integer", "Requests that a limit refused."),
        ],
    ),
    (
        "Cache",
        "What is kept of answers.",
        &[("memory", "Kept", ""), ("files", "[Kept]", "One for each file."), ("idempotency", "KeptKeys", "")],
    ),
    ("Kept", "Answers, and what they take.", &[("bytes", "integer", ""), ("answers", "integer", "")]),
    (
        "KeptKeys",
        "Idempotency keys, and what their answers take.",
        &[("bytes", "integer", ""), ("keys", "integer", "")],
    ),
    ("Forgotten", "How many answers were forgotten.", &[("memory", "integer", ""), ("files", "integer", "")]),
    (
        "Keys",
        "A page of managed keys.",
        &[
            ("keys", "[ManagedKey]", ""),
            ("next", "string?", "What to ask for with `after`; null: these were the last."),
        ],
    ),
    (
        "Log",
        "How loud the log is.",
        &[
            ("level", "string", "In use."),
            ("level_in_file", "string", ""),
            ("by_hand", "boolean", "Whether that differs from the file."),
            ("sample", "any", "`log.sample` of the file."),
        ],
    ),
    (
        "Version",
        "A configuration that is or was in use.",
        &[
            ("version", "integer", ""),
            ("hash", "string", ""),
            ("since", "string", "When it came into use."),
            ("by", "string", "start, signal, request, watch, rollback."),
            ("changes", "[Change]", "Against the one before."),
            ("restart", "[string]", "Settings that differ and need a restart."),
            ("outcome?", "applied|unchanged", "Of a reload."),
            ("warnings?", "[string]", "Of a reload."),
            ("file?", "string?", "Of the one in use: where it came from."),
            ("config?", "object", "Of the one in use: all of it, secrets as ***."),
        ],
    ),
    (
        "Change",
        "A setting that changed; null for what is not there.",
        &[("path", "string", ""), ("from", "any", ""), ("to", "any", "")],
    ),
    ("History", "The last configurations.", &[("versions", "[Version]", "The oldest first.")]),
];
