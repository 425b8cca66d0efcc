//! The admin listener.

use super::schemas::{self, kind};
use super::{Operation, info, paths, refusal};
use serde_json::{Value, json};

const ABOUT: &str = "What the gateway shows of itself, and what can be changed while it runs, on the listener that `admin` \
    in the file names. With `admin.token` all but probes and the pages themselves need it; without, whoever is on the \
    machine may, but no web page from elsewhere, and nothing that lets strangers in.";

/// docs/openapi-admin.json, as it should be.
pub fn document() -> Value {
    let mut schemas = schemas::all();
    let key = schemas.remove("Key").unwrap_or_default();
    schemas.insert("WantedKey".to_owned(), wanted_key(&key));
    schemas.insert("ManagedKey".to_owned(), managed_key(&key));
    json!({
        "openapi": "3.1.0",
        "info": info("Tidegate: admin", ABOUT),
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }, {}],
        "tags": tags(),
        "paths": paths(operations()),
        "components": {
            "schemas": schemas,
            "responses": { "Problem": {
                "description": "What went wrong (RFC 9457).",
                "content": { "application/problem+json": { "schema": kind("Problem") } },
            } },
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer", "description": "`admin.token` of the file, if it has one.",
            } },
        },
    })
}

fn tags() -> Value {
    let tags = [
        ("probes", "For orchestrators and Prometheus."),
        ("now", "What is going on."),
        ("backends", "Pools and backends."),
        ("limits", "Limits, and who meets them."),
        ("cache", "Answers that are kept."),
        ("keys", "Managed keys. They need `storage` and `admin.token` in the file."),
        ("configuration", "The file, and how loud the log is."),
        ("pages", "For browsers."),
    ];
    tags.map(|(name, about)| json!({ "name": name, "description": about })).to_vec().into()
}

/// A key as it is asked for: it may go without an id, and its hash is the gateway's to make.
fn wanted_key(key: &Value) -> Value {
    let mut wanted = key.clone();
    wanted["description"] = "The key that is wanted; without an id it is given one.".into();
    wanted["required"] = json!([]);
    if let Some(properties) = wanted["properties"].as_object_mut() {
        properties.remove("hash");
    }
    wanted
}

/// A key as it is shown: as it was asked for, and what became of it.
fn managed_key(key: &Value) -> Value {
    let mut managed = wanted_key(key);
    managed["description"] = "A managed key.".into();
    managed["required"] = json!(["id", "state", "created", "secrets"]);
    managed["properties"]["state"] = kind("active|disabled|expired|revoked");
    managed["properties"]["created"] = kind("string");
    managed["properties"]["revoked"] = kind("string");
    managed["properties"]["key"] =
        json!({ "type": "string", "description": "The secret: in the one answer to the request that made it." });
    managed["properties"]["warning"] =
        json!({ "type": "string", "description": "That it lets nobody in: no filter of the file takes managed keys." });
    managed["properties"]["secrets"] = json!({
        "type": "array",
        "description": "When each was made, and until when those before the newest let in.",
        "items": { "type": "object", "required": ["created", "until"], "properties": {
            "created": kind("string"), "until": kind("string?"),
        } },
    });
    managed
}

fn operations() -> Vec<Operation> {
    let all = [probes(), now(), backends(), limits(), cache(), keys(), configuration()].into_iter().flatten();
    let mut all: Vec<_> = all.collect();
    for operation in all.iter_mut().filter(|operation| !operation.open) {
        for (status, about) in
            [(401, "The token is missing or wrong."), (403, "A page from elsewhere, and there is no token.")]
        {
            operation.answers.entry(status.to_string()).or_insert_with(|| refusal(about));
        }
    }
    all
}

fn probes() -> Vec<Operation> {
    let new = |path, about| Operation::new("probes", "get", path, about);
    vec![
        new("/livez", "Whether the process lives").says(200, "It does.", "text/plain").open(),
        new("/readyz", "Whether requests should be sent here")
            .says(200, "They should.", "text/plain")
            .says(503, "They should not; the text says why.", "text/plain")
            .open(),
        new("/healthz", "How the gateway is").gives(200, "Pools and backends as they are.", "Health"),
        new("/metrics", "All metrics").says(200, "Prometheus' text format 0.0.4.", "text/plain"),
    ]
}

fn now() -> Vec<Operation> {
    let playground = |method| {
        Operation::new("now", method, "/admin/playground/{path}", "Send a request through the whole road")
            .path("path", "A path of the client listener, such as v1/chat/completions.")
            .header("x-tidegate-key", "The client's key, if the file asks for one.")
            .content(200, "What the client would be told; any status there is.", json!({ "*/*": {} }))
            .refuses(400, "This is no path, or no key, that a request could have.")
            .refuses(413, "The body is larger than 2 MiB.")
            .refuses(429, "Eight are under way.")
            .refuses(502, "The road ended without an answer.")
    };
    let find = ["route", "model", "pool", "backend", "org", "user", "key", "trace"];
    let requests = Operation::new("now", "get", "/admin/requests", "The last requests, with what each met on its way")
        .query("limit", "integer", "How many at most; 100 if absent, 500 at most.")
        .query("before", "integer", "Older than this number.")
        .query("status", "string", "Such as 429, or 5xx.")
        .query("cause", "string", "Who is to blame; failed: anybody.")
        .query("slower_ms", "integer", "That took this long at least.");
    let requests = find.iter().fold(requests, |requests, name| requests.query(name, "string", "Of this name only."));
    vec![
        requests.gives(200, "The newest first.", "Requests").refuses(400, "The query is not one."),
        Operation::new("now", "get", "/admin/requests/{id}", "One of the last requests")
            .path("id", "Its request id, or its trace id.")
            .query("number", "integer", "Which, where several have this id; the last if absent.")
            .gives(200, "All that is known of it.", "Request")
            .refuses(400, "The number is none.")
            .refuses(404, "It is not over yet, or not kept any more."),
        Operation::new("now", "get", "/admin/live", "What is going on now, as counts since the start").gives(
            200,
            "Look twice for rates.",
            "Live",
        ),
        playground("get"),
        playground("post").takes(false, json!({})),
    ]
}

fn backends() -> Vec<Operation> {
    let turn = |path, about| {
        Operation::new("backends", "post", path, about)
            .path("pool", "The pool.")
            .path("backend", "The backend's name; it may have slashes.")
            .gives(200, "How it is now.", "Backend")
            .refuses(404, "There is no such backend.")
    };
    vec![
        Operation::new("backends", "get", "/admin/backends", "Pools and backends, and how they are")
            .gives(200, "By pool.", "{Pool}"),
        turn("/admin/backends/{pool}/{backend}/drain", "Send no more requests to a backend"),
        turn("/admin/backends/{pool}/{backend}/undrain", "Send requests to a backend again"),
    ]
}

fn limits() -> Vec<Operation> {
    let new = |path, about| Operation::new("limits", "get", path, about);
    vec![
        new("/admin/limits", "The limits there are, and what they have decided").gives(200, "All of them.", "Limits"),
        new("/admin/limits/{subject}", "How somebody's buckets stand")
            .path("subject", "Such as key:app, org:acme/user:ann, ip:10.0.0.1, user:ann+model:gpt-4o, global.")
            .gives(200, "One for each limit that is per just that.", "Subject")
            .refuses(400, "The subject is not one, or of several organisations.")
            .refuses(404, "No limit is for such subjects."),
        new("/admin/spenders", "Who spends most")
            .query("by", "org|user|key|model!", "Who.")
            .query("window", "5m|1h|24h", "Since when; 1h if absent.")
            .query("of", "tokens|requests|cost|limited", "What they are ranked by; tokens if absent.")
            .query("limit", "integer", "How many at most; 20 if absent.")
            .gives(200, "The largest first.", "Spenders")
            .refuses(400, "The query is not one."),
        usage(),
    ]
}

fn usage() -> Operation {
    let of = "Only this; empty for requests that have none.";
    let names = ["org", "team", "user", "service", "key", "model", "cause"];
    let asked = Operation::new("limits", "get", "/admin/usage", "What was used by whom, added up over days")
        .query(
            "by",
            "string",
            "Some of org, team, user, service, key, model, cause, day, with commas between; org,model if absent.",
        )
        .query("since", "string", "The first day (UTC), 2027-01-31 or how long ago; 7d if absent.")
        .query("until", "string", "The last day, the same way; today if absent.")
        .query("after", "string", "The `next` of the page before.")
        .query("limit", "integer", "From 1 to 1000; 100 if absent.");
    let asked = names.iter().fold(asked, |asked, name| asked.query(name, "string", of));
    asked
        .gives(200, "A page.", "Usage")
        .refuses(400, "The query is not one.")
        .refuses(404, "There is no `storage`.")
        .refuses(503, "The store cannot be read.")
}

fn cache() -> Vec<Operation> {
    let purge = json!({
        "type": "object",
        "description": "All that everything said here holds for.",
        "additionalProperties": false,
        "minProperties": 1,
        "properties": {
            "tenant": { "type": "string", "description": "org/acme, key/k1, user/u1, everybody." },
            "model": { "type": "string", "description": "The entry of `models`." },
            "older_than": { "type": "string", "description": "Such as 10m." },
            "key": { "type": "string", "description": "64 hexadecimal digits, as `explain` and the log have them; several with blanks between." },
        },
    });
    vec![
        Operation::new("cache", "get", "/admin/cache", "What is kept of answers").gives(200, "As of now.", "Cache"),
        Operation::new("cache", "delete", "/admin/cache", "Forget all of it")
            .gives(200, "Forgotten.", "Forgotten")
            .refuses(503, "A file cannot be written; nothing was forgotten in memory."),
        Operation::new("cache", "post", "/admin/cache/purge", "Forget some of it")
            .takes(true, purge)
            .gives(200, "Forgotten.", "Forgotten")
            .refuses(400, "The body is not what to forget.")
            .refuses(503, "A file cannot be written; nothing was forgotten in memory."),
    ]
}

fn keys() -> Vec<Operation> {
    let new = |method, path, about| {
        Operation::new("keys", method, path, about)
            .path("id", "The key's id.")
            .refuses(403, "There is no `admin.token`.")
            .refuses(404, "There is no such key, or no `storage`.")
            .refuses(503, "The store cannot be reached; nothing was changed.")
    };
    let rotation = json!({ "type": "object", "additionalProperties": false, "properties": {
        "overlap": { "type": "string", "description": "How long the secret before still works, such as 1h." },
    } });
    vec![
        new("get", "/admin/keys", "List the managed keys")
            .query("after", "string", "Those after this id.")
            .query("limit", "integer", "From 1 to 1000; 100 if absent.")
            .gives(200, "A page.", "Keys")
            .refuses(400, "The query is not one."),
        new("post", "/admin/keys", "Make a key")
            .takes(true, kind("WantedKey"))
            .gives(201, "Made; the secret is in this answer only.", "ManagedKey")
            .refuses(400, "The body is not JSON.")
            .refuses(409, "There is a key of this id.")
            .refuses(422, "All that is wrong with it."),
        new("get", "/admin/keys/{id}", "Look at a key").gives(200, "All but its secret.", "ManagedKey"),
        new("delete", "/admin/keys/{id}", "End a key for good").gives(200, "It lets nobody in.", "ManagedKey"),
        new("post", "/admin/keys/{id}/revoke", "End a key for good").gives(200, "It lets nobody in.", "ManagedKey"),
        new("post", "/admin/keys/{id}/rotate", "Give a key another secret")
            .takes(false, rotation)
            .gives(200, "The new secret is in this answer only.", "ManagedKey")
            .refuses(400, "The body is not JSON.")
            .refuses(409, "The key was revoked."),
    ]
}

fn configuration() -> Vec<Operation> {
    let new = |method, path, about| Operation::new("configuration", method, path, about);
    let level = json!({ "type": "object", "additionalProperties": false, "properties": {
        "level": { "type": ["string", "null"], "description": "A level, or targets with levels; null: as the file says." },
    } });
    let json_text =
        |about| new("get", about, "This document").content(200, "OpenAPI 3.1.", json!({ "application/json": {} }));
    vec![
        new("get", "/admin/config", "The configuration in use").gives(200, "Secrets as ***.", "Version"),
        new("get", "/admin/config/history", "The last twenty configurations").gives(
            200,
            "The oldest first.",
            "History",
        ),
        new("post", "/admin/config/rollback/{version}", "Go back to a configuration")
            .path("version", "Its number.")
            .gives(200, "In use.", "Version")
            .refuses(403, "There is no `admin.token`.")
            .refuses(404, "There is no such version any more.")
            .refuses(422, "It has faults now; nothing has changed."),
        new("post", "/admin/reload", "Read the file again")
            .gives(200, "In use, with the difference.", "Version")
            .refuses(409, "The gateway was started without a file.")
            .refuses(422, "It has faults; nothing has changed."),
        new("post", "/admin/upgrade", "Leave the service to the program that is installed now")
            .gives(200, "The other process serves.", "Successor")
            .refuses(409, "It cannot; this process goes on."),
        new("get", "/admin/log", "How loud the log is").gives(200, "As of now.", "Log"),
        new("put", "/admin/log", "Make the log louder or quieter")
            .takes(true, level)
            .gives(200, "As of now.", "Log")
            .refuses(400, "This is no level."),
        json_text("/admin/openapi.json").open(),
        new("get", "/openapi.json", "The document of what clients call")
            .content(200, "OpenAPI 3.1.", json!({ "application/json": {} }))
            .open(),
        Operation::new("pages", "get", "/", "The page that shows what is going on")
            .says(200, "HTML.", "text/html")
            .open(),
        Operation::new("pages", "get", "/docs", "The page that shows these documents")
            .says(200, "HTML.", "text/html")
            .open(),
    ]
}
