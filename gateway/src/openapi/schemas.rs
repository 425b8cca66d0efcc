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
            ("down", "[string]", "Pools that nobody is up in, while others have somebody."),
            ("config", "string", "The hash of the configuration in use."),
            ("requests_in_flight", "integer", "Requests that are not over."),
            ("connections", "integer", "Open connections of clients."),
            ("pools", "{Pool}", "By name."),
            ("records", "{RecordPlace}", "Where records are kept, by name."),
        ],
    ),
    (
        "RecordPlace",
        "A place where records are kept.",
        &[
            ("up", "boolean", "Whether it can be written."),
            ("reason", "string?", "Why not."),
            ("waiting", "integer", "Records that are not written yet."),
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
        "Usage",
        "What was used.",
        &[
            ("by", "[string]", ""),
            ("since", "string", "The first day."),
            ("until", "string", "The last day."),
            ("currency", "string", ""),
            ("usage", "[Used]", "By name."),
            ("total", "Used", "Of all pages, without names."),
            ("next", "string?", "What to ask for with `after`; null: these were the last."),
        ],
    ),
    (
        "Used",
        "What was used, with the names that were asked for: null where a request has none.",
        &[
            ("org?", "string?", ""),
            ("team?", "string?", ""),
            ("user?", "string?", ""),
            ("service?", "string?", ""),
            ("key?", "string?", "Its id."),
            ("model?", "string?", "As the file names it."),
            ("cause?", "string", "How the requests ended: none is well."),
            ("day?", "string", "UTC."),
            ("requests", "integer", ""),
            ("again", "integer", "Of those, with an answer that was made for another."),
            ("estimated", "integer", "Of those, with tokens that no backend has counted."),
            ("prompt_tokens", "integer", ""),
            ("cached_tokens", "integer", "Of the prompts, from backends' own caches."),
            ("completion_tokens", "integer", ""),
            ("saved_prompt_tokens", "integer", "Of answers that were made for another."),
            ("saved_completion_tokens", "integer", ""),
            ("cost", "number", ""),
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
        "Successor",
        "The process that serves from now on.",
        &[("pid", "integer", "Its number."), ("version", "string", "Its version.")],
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
    (
        "Requests",
        "The last requests, the newest first.",
        &[
            ("requests", "[Request]", ""),
            ("next", "integer?", "What to ask for with `before`; null: there are no older ones."),
            ("kept", "integer", "How many are kept."),
            ("bytes", "integer", "What they take."),
        ],
    ),
    (
        "Request",
        "A request that is over; what there is nothing to say of is left out.",
        &[
            ("number", "integer", "Counted from the start."),
            ("request_id", "string", ""),
            ("trace_id", "string", ""),
            ("time", "string", "When it came."),
            ("method", "string", ""),
            ("path", "string", ""),
            ("endpoint", "string", ""),
            ("route", "string", ""),
            ("model?", "string", "As it was asked for."),
            ("model_served?", "string", "As the backend calls it."),
            ("pool", "string", ""),
            ("backend?", "string", "Who answered."),
            ("source", "string", "Where the answer is from."),
            ("status", "integer", ""),
            ("upstream_status?", "integer", ""),
            ("upstream_request_id?", "string", ""),
            ("cause", "string", "Who is to blame; none: it went well."),
            ("error?", "string", "The code."),
            ("stream", "boolean", ""),
            ("client?", "string", "Where it came from."),
            ("user?", "string", ""),
            ("service?", "string", ""),
            ("team?", "string", ""),
            ("org?", "string", ""),
            ("key_id?", "string", ""),
            ("attempts", "integer", "Backends that were tried."),
            ("retried?", "[string]", "What went wrong before."),
            ("fallback?", "any", "Where it went on."),
            ("resumes?", "[string]", "Of a stream that broke."),
            ("hedge?", "string", "What became of a second request."),
            ("duration_ms", "number", ""),
            ("ttft_ms?", "number", "Until the first token."),
            ("overhead_ms", "number", "What the gateway itself added."),
            ("queue_ms", "number", ""),
            ("upstream_ms", "number", ""),
            ("tokens?", "RequestTokens", ""),
            ("cost?", "Cost", ""),
            ("request_bytes", "integer", ""),
            ("response_bytes", "integer", ""),
            ("notes?", "{string}", "What filters noted."),
            ("steps", "[Step]", "What it met, in the order in which that began."),
            ("steps_left_out?", "integer", "More than these."),
        ],
    ),
    (
        "RequestTokens",
        "Tokens of a request.",
        &[
            ("prompt", "integer?", ""),
            ("completion", "integer?", ""),
            ("cached", "integer?", "A part of prompt."),
            ("reasoning", "integer?", "A part of completion."),
            ("estimated", "boolean", "Whether the gateway counted, because the backend did not say."),
        ],
    ),
    ("Cost", "Money.", &[("amount", "number", ""), ("currency", "string", "")]),
    (
        "Step",
        "Something that a request met.",
        &[
            ("step", "body|filter|queue|pause|attempt|first_token|stream", ""),
            ("at_ms", "number", "After the request began."),
            ("took_ms", "number", ""),
            ("name?", "string", "Of a filter."),
            ("verdict?", "string", "Of a filter."),
            ("pool?", "string", "Of a queue or an attempt."),
            ("outcome?", "string", "Of a queue or an attempt."),
            ("number?", "integer", "Of an attempt."),
            ("backend?", "string", "Of an attempt."),
            ("sent_ms?", "number", "Of an attempt: when the request had gone out."),
            ("head_ms?", "number", "Of an attempt: when the head of the answer was there."),
            ("status?", "integer", "Of an attempt."),
            ("events?", "integer", "Of a first token: how many events the stream had."),
        ],
    ),
    ("History", "The last configurations.", &[("versions", "[Version]", "The oldest first.")]),
];
