//! Where in the file a setting stands: `pools.llama.backends[0].url`.
//!
//! Every node of the file, every fault and every setting that someone else judges later (a filter's settings, a
//! certificate that will not load) carries one, so that whoever finds the fault can point at the line.

use std::fmt;

/// One step down into the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Into the value of this key.
    Key(String),
    /// Into this item of a list, counted from 0.
    Item(usize),
}

/// The path of a setting from the top of the file; empty for the file as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The file as a whole.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of the value under `key`.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// The path of item `index`, counted from 0.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    /// The path one step further down.
    #[must_use]
    pub fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The path of what holds this setting; `None` for the file as a whole.
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// The path of what `inner` names inside this setting, as `serde_path_to_error` and [`fmt::Display`] spell it:
    /// `keys[0].hash`, `users."ann@example.com".models`; `.` is the setting itself.
    #[must_use]
    pub fn inside(&self, inner: &str) -> Self {
        let (mut path, mut rest) = (self.clone(), inner);
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '.' => &rest[1..],
                '[' => {
                    let (item, rest) = rest[1..].split_once(']').unwrap_or((&rest[1..], ""));
                    path.0.extend(item.parse().ok().map(Step::Item));
                    rest
                }
                '"' => {
                    let mut names = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                    path.0.extend(names.next().and_then(Result::ok).map(Step::Key));
                    rest.get(names.byte_offset().max(1)..).unwrap_or_default()
                }
                _ => {
                    let (key, rest) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
                    path.0.push(Step::Key(key.to_owned()));
                    rest
                }
            };
        }
        path
    }

    /// The steps from the top.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this setting is `other` or stands inside it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// `pools.llama.backends[0].url`; a key with a dot or a bracket in it is quoted: `models."llama-3.1-8b".pool`.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Key(key) => {
                    if index > 0 {
                        f.write_str(".")?;
                    }
                    let plain = !key.is_empty()
                        && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '*' | '/' | '$'));
                    if plain { f.write_str(key)? } else { write!(f, "{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_people_write_it() {
        let path = KeyPath::root().key("models").key("llama-3.1-8b").key("split").item(1).key("pool");
        assert_eq!(path.to_string(), "models.\"llama-3.1-8b\".split[1].pool");
        assert_eq!(KeyPath::root().to_string(), "");
    }

    #[test]
    fn a_path_inside_a_setting_is_read_from_its_text() {
        let filter = KeyPath::root().key("filters").item(0).key("api_key");
        assert_eq!(filter.inside("keys[2].hash"), filter.key("keys").item(2).key("hash"));
        assert_eq!(filter.inside("."), filter);
        assert_eq!(filter.inside("a.\"b.c[1] \\\"\"[0].d"), filter.key("a").key("b.c[1] \"").item(0).key("d"));
        for odd in ["[", "[x]", "\"", "\"a", "..", "a[", "]"] {
            assert!(filter.inside(odd).is_within(&filter), "{odd}");
        }
    }

    #[test]
    fn a_path_knows_what_it_is_inside_of() {
        let pool = KeyPath::root().key("pools").key("a");
        assert!(pool.key("backends").item(0).is_within(&pool));
        assert!(!KeyPath::root().key("pools").key("ab").is_within(&pool));
    }
}
