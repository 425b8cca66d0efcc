//! The reference pages of settings and filters, written from the schemas that also check the file.

use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;
use tidegate_plugins::Registry;

/// docs/CONFIG.md, as it should be.
pub fn settings() -> String {
    let schema = crate::assemble::schema();
    let mut page = Page::new(SETTINGS, &schema);
    page.table("", &schema);
    page.text
}

/// docs/FILTERS.md, as it should be.
pub fn filters() -> String {
    let mut text = FILTERS.to_owned();
    for entry in Registry::built_in().filters() {
        let schema = entry.schema().to_value();
        let mut page = Page::new("", &schema);
        page.filter(entry.name, &schema);
        text += &page.text;
    }
    text
}

/// docs/BALANCERS.md, as it should be.
pub fn balancers() -> String {
    let mut text = BALANCERS.to_owned();
    for entry in Registry::built_in().balancers() {
        let schema = entry.schema().to_value();
        let mut page = Page::new("", &schema);
        page.table(entry.name, &schema);
        text += &page.text;
    }
    text
}

const BALANCERS: &str = "\
# Balancers

What may stand under `pools.NAME.balance`, with its settings: the name alone, or `{ NAME: { setting: value } }`. This page
is generated from the balancers themselves; `UPDATE=1 cargo test -p tidegate documentation` writes it anew.
[guide-balancing.md](guide-balancing.md) says which one to take.
";

const SETTINGS: &str = "\
# Every setting

What each setting of the configuration file means, and its default. This page is generated from the types that read the
file; `UPDATE=1 cargo test -p tidegate documentation` writes it anew. [The guide](guide-config.md) says how they work
together; [config/gateway.yaml](../config/gateway.yaml) is the same as a file.

`NAME` stands for a name of your choice, `[]` for each entry of a list. A duration is `250ms`, `30s`, `5m`, `1h` or `1d`;
a size is a number of bytes, or `64KiB`, `1MiB`, `2GB`. Any text may hold `${env:NAME}` and `${file:PATH}`.
";

const FILTERS: &str = "\
# Filters

What may stand under `filters`, with its settings. This page is generated from the filters themselves;
`UPDATE=1 cargo test -p tidegate documentation` writes it anew. Every request runs through them from the first to the
last, its answer from the last to the first. [guide-filter.md](guide-filter.md) shows how to write one.
";

/// A page in the making: one section a table of settings.
struct Page<'a> {
    text: String,
    definitions: Option<&'a Value>,
    /// Where each definition has its section.
    written: HashMap<&'a str, String>,
}

impl<'a> Page<'a> {
    fn new(text: &str, schema: &'a Value) -> Self {
        Self { text: text.to_owned(), definitions: schema.get("$defs"), written: HashMap::new() }
    }

    /// Writes the section of a filter: of its settings, or of one entry of the list that they are.
    fn filter(&mut self, name: &str, schema: &'a Value) {
        let Some((_, entry)) = self.referred(&schema["items"]) else { return self.table(name, schema) };
        let _ = write!(self.text, "\n## `{name}`\n\n{}\n", description(schema));
        self.table(&format!("{name}[]"), entry);
    }

    /// Writes the section of the table at `path`, and those of the tables in it.
    fn table(&mut self, path: &str, table: &'a Value) {
        let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
        let about = description(table);
        let _ = write!(self.text, "\n## {title}\n\n{about}\n\n");
        let mut inner = Vec::new();
        let properties = table.get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty());
        match properties {
            Some(_) => self.text.push_str("| setting | type | default | |\n|---|---|---|---|\n"),
            None => self.text.push_str("It has no settings.\n"),
        }
        for (name, setting) in properties.into_iter().flatten() {
            let required = table["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name));
            let default = if required { "(must be set)".to_owned() } else { default(setting) };
            let kind = self.kind(setting).replace('|', "\\|");
            let about = description(setting).replace('|', "\\|");
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let mut about = about.replace("\n\n", " ");
            // Filters and balancers have pages of their own.
            if path == "filters" {
                about += " See [FILTERS.md](FILTERS.md).";
            } else if path == "pools.NAME.balance" {
                about += " See [BALANCERS.md](BALANCERS.md).";
            } else {
                let before = inner.len();
                self.tables(path, setting, &mut inner);
                for (_, name, _) in &inner[before..] {
                    if let Some(elsewhere) = self.written.get(name) {
                        let _ = write!(about, " The same as `{elsewhere}`.");
                    }
                }
            }
            let _ = writeln!(self.text, "| `{name}` | {kind} | {default} | {about} |");
        }
        for (path, name, table) in inner {
            if !self.written.contains_key(name) {
                self.written.insert(name, path.clone());
                self.table(&path, table);
            }
        }
    }

    /// The named tables that a setting may hold, with their paths.
    fn tables(&self, path: String, value: &'a Value, found: &mut Vec<(String, &'a str, &'a Value)>) {
        if let Some((name, definition)) = self.referred(value) {
            match definition.get("properties") {
                Some(_) => found.push((path, name, definition)),
                None => self.tables(path, definition, found),
            }
            return;
        }
        for key in ["anyOf", "oneOf"] {
            for one in value[key].as_array().into_iter().flatten() {
                // A list of them is the same table again.
                if one["type"] == "array" && !found.is_empty() {
                    continue;
                }
                self.tables(path.clone(), one, found);
            }
        }
        if value["items"].is_object() {
            self.tables(format!("{path}[]"), &value["items"], found);
        }
        if value["additionalProperties"].is_object() {
            self.tables(format!("{path}.NAME"), &value["additionalProperties"], found);
        }
    }

    fn referred(&self, value: &'a Value) -> Option<(&'a str, &'a Value)> {
        let name = value.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        Some((name, self.definitions?.get(name)?))
    }

    /// What may be written there, in words.
    fn kind(&self, value: &'a Value) -> String {
        match self.referred(value) {
            Some(("Duration", _)) => return "duration".to_owned(),
            Some(("Size", _)) => return "size".to_owned(),
            Some((_, definition)) => return self.kind(definition),
            None => {}
        }
        if let Some(constant) = value.get("const") {
            return code(constant);
        }
        if let Some(values) = value["enum"].as_array() {
            return values.iter().map(code).collect::<Vec<_>>().join(", ");
        }
        let alternatives = value["anyOf"].as_array().or(value["oneOf"].as_array());
        if let Some(alternatives) = alternatives {
            let mut kinds: Vec<_> = alternatives.iter().map(|one| self.kind(one)).filter(|one| one != "none").collect();
            kinds.dedup();
            return kinds.join(", ");
        }
        let first = match &value["type"] {
            Value::Array(kinds) => kinds.first().and_then(Value::as_str),
            kind => kind.as_str(),
        };
        match first {
            Some("integer" | "number") => "number".to_owned(),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("array") => format!("list of: {}", self.kind(&value["items"])),
            Some("null") => "none".to_owned(),
            Some("object") => self.kind_of_table(value),
            _ => "text".to_owned(),
        }
    }

    fn kind_of_table(&self, value: &'a Value) -> String {
        if value["additionalProperties"].is_object() {
            return format!("by name: {}", self.kind(&value["additionalProperties"]));
        }
        // A table without a name of its own has no section either.
        let is_small = value["properties"].as_object().filter(|properties| properties.len() == 1);
        match is_small.and_then(|properties| properties.iter().next()) {
            Some((name, inner)) => format!("`{{ {name}: {} }}`", self.kind(inner).to_uppercase()),
            None => "table".to_owned(),
        }
    }
}

fn description(value: &Value) -> String {
    let text = value["description"].as_str().unwrap_or_default();
    text.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n")
}

/// A default as it would be written; those of tables stand with the tables.
fn default(setting: &Value) -> String {
    match setting.get("default") {
        None | Some(Value::Null | Value::Object(_)) => String::new(),
        Some(Value::Array(items)) if items.iter().any(Value::is_object) => String::new(),
        Some(value) => code(value),
    }
}

fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fresh(file: &str, page: &str) {
        let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == page, "docs/{file} is stale: run the tests with UPDATE=1");
    }

    #[test]
    fn the_committed_documentation_of_settings_is_fresh() {
        is_fresh("CONFIG.md", &settings());
    }

    #[test]
    fn the_committed_documentation_of_balancers_is_fresh() {
        is_fresh("BALANCERS.md", &balancers());
    }

    #[test]
    fn the_committed_documentation_of_filters_is_fresh() {
        is_fresh("FILTERS.md", &filters());
    }

    #[test]
    fn every_setting_says_what_it_is_for() {
        for page in [settings(), filters(), balancers()] {
            let silent: Vec<_> =
                page.lines().filter(|line| line.starts_with("| `") && line.ends_with("|  |")).collect();
            assert!(silent.is_empty(), "without a description: {silent:#?}");
        }
    }

    #[test]
    fn tables_within_tables_have_their_sections() {
        let page = settings();
        for title in ["The file", "`limits`", "`pools.NAME.backends[]`", "`models.NAME.split[]`", "`listen.tls`"] {
            assert!(page.contains(&format!("\n## {title}\n")), "{title}\n{page}");
        }
        assert!(filters().contains("\n## `api_key.keys[]`\n"));
    }

    /// The words with an underscore that stand in quotes in these sources, tests left out.
    fn quoted(sources: &[std::path::PathBuf]) -> std::collections::BTreeSet<String> {
        let texts = sources.iter().map(|path| std::fs::read_to_string(path).unwrap());
        let code: String =
            texts.map(|text| text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()).collect();
        let is_word = |word: &&str| word.contains('_') && word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
        code.split('"').filter(is_word).map(str::to_owned).collect()
    }

    #[test]
    fn every_code_of_an_error_is_explained() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = |folder| std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let exchange = ["src/exchange", "src/exchange/socket"].into_iter().flat_map(files);
        let mut sources: Vec<_> =
            exchange.filter(|path| path.is_file() && !path.ends_with("mod.rs") && !path.ends_with("salt.rs")).collect();
        sources.push(root.join("../plugins/src/call/fault.rs"));
        sources.push(root.join("../plugins/src/tenants/standing.rs"));
        sources.push(root.join("../plugins/src/filters/api_key/table.rs"));
        let page = std::fs::read_to_string(root.join("../docs/faults.md")).unwrap();
        for code in quoted(&sources) {
            assert!(page.contains(&format!("| `{code}` |")), "docs/faults.md does not explain {code}");
        }
        let mut folders = vec![root.join("../plugins/src")];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    sources.push(path);
                }
            }
        }
        let known = quoted(&sources);
        for row in page.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")) {
            let code = row.split('`').nth(1).unwrap();
            // The one code of a single word.
            assert!(code == "overloaded" || known.contains(code), "docs/faults.md explains {code}, which nobody gives");
        }
    }
}
