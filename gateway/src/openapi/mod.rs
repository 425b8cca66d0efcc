//! The OpenAPI 3.1 documents: one of the admin listener, one of what clients call. `tidegate openapi` prints them, the
//! admin listener serves them, `docs/` has them, and `/docs` shows them. A test holds that of the admin listener to its
//! routes; clients' tests hold it to real answers.

mod admin;
mod proxied;
mod schemas;

pub use admin::document as admin;
pub use proxied::document as proxied;

use serde_json::{Map, Value, json};

/// One method of one path.
struct Operation {
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    open: bool,
}

impl Operation {
    fn new(tag: &'static str, method: &'static str, path: &'static str, summary: &'static str) -> Self {
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters = names.map(|name| parameter("path", name, "string", "")).collect();
        Self { method, path, tag, summary, parameters, body: None, answers: Map::new(), open: false }
    }

    /// Says what a parameter of the path is.
    fn path(mut self, name: &str, about: &str) -> Self {
        for known in self.parameters.iter_mut().filter(|known| known["name"] == name) {
            known["description"] = about.into();
        }
        self
    }

    /// Takes this in the query; `kind` as in [`schemas::kind`], with `!` where it must be there.
    fn query(mut self, name: &str, kind: &str, about: &str) -> Self {
        self.parameters.push(parameter("query", name, kind, about));
        self
    }

    fn header(mut self, name: &str, about: &str) -> Self {
        self.parameters.push(parameter("header", name, "string", about));
        self
    }

    /// Takes a JSON body.
    fn takes(mut self, required: bool, schema: Value) -> Self {
        self.body = Some(json!({ "required": required, "content": { "application/json": { "schema": schema } } }));
        self
    }

    /// Answers with JSON.
    fn gives(self, status: u16, about: &str, schema: &str) -> Self {
        self.content(status, about, json!({ "application/json": { "schema": schemas::kind(schema) } }))
    }

    /// Answers with text.
    fn says(self, status: u16, about: &str, kind: &str) -> Self {
        self.content(status, about, json!({ kind: { "schema": { "type": "string" } } }))
    }

    fn content(mut self, status: u16, about: &str, content: Value) -> Self {
        self.answers.insert(status.to_string(), json!({ "description": about, "content": content }));
        self
    }

    /// Says no, with a problem.
    fn refuses(mut self, status: u16, about: &str) -> Self {
        self.answers.insert(status.to_string(), refusal(about));
        self
    }

    /// Needs no token.
    fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Its name: the method and the words of the path.
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        std::iter::once(self.method).chain(words).collect::<Vec<_>>().join("_")
    }

    fn told(self) -> Value {
        let id = self.id();
        let mut told =
            json!({ "operationId": id, "summary": self.summary, "tags": [self.tag], "responses": self.answers });
        if !self.parameters.is_empty() {
            told["parameters"] = self.parameters.into();
        }
        if let Some(body) = self.body {
            told["requestBody"] = body;
        }
        if self.open {
            told["security"] = json!([]);
        }
        told
    }
}

/// An answer that says no.
fn refusal(about: &str) -> Value {
    json!({ "$ref": "#/components/responses/Problem", "description": about })
}

fn parameter(place: &str, name: &str, kind: &str, about: &str) -> Value {
    let required = place == "path" || kind.ends_with('!');
    let schema = schemas::kind(kind.trim_end_matches('!'));
    json!({ "name": name, "in": place, "required": required, "description": about, "schema": schema })
}

/// The operations by path and method.
fn paths(operations: Vec<Operation>) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let (path, method) = (operation.path.to_owned(), operation.method.to_owned());
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation.told();
    }
    paths.into()
}

fn info(title: &str, about: &str) -> Value {
    json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "description": about,
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    })
}

#[cfg(test)]
mod tests;
