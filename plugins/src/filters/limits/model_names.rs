//! The models of the file, as limits tell them apart.

use std::collections::HashMap;
use std::sync::Arc;

/// Their names, to find the one that a request asks for.
#[derive(Debug, Clone)]
pub(super) struct ModelNames {
    exact: HashMap<Arc<str>, usize>,
    /// Longest first, without the `*`.
    prefixes: Vec<(Box<str>, usize)>,
    names: Vec<Arc<str>>,
}

impl ModelNames {
    pub(super) fn new(names: &[Arc<str>]) -> Self {
        let exact = names.iter().enumerate().filter(|(_, name)| !name.ends_with('*'));
        let exact = exact.map(|(index, name)| (name.clone(), index)).collect();
        let mut prefixes: Vec<(Box<str>, usize)> = names
            .iter()
            .enumerate()
            .filter_map(|(index, name)| Some((name.strip_suffix('*')?.into(), index)))
            .collect();
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { exact, prefixes, names: names.to_vec() }
    }

    /// The entry that answers to `name`, as the gateway itself will choose it. Clients make up names; the file does
    /// not, so that nobody gets a fresh bucket by making up another.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        let by_prefix =
            || self.prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)).map(|(_, index)| *index);
        self.exact.get(name).copied().or_else(by_prefix)
    }

    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }
}

/// Whether one of `patterns` is for `model`.
pub(super) fn any_matches(patterns: &[String], model: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => model.starts_with(prefix),
        None => model == pattern,
    })
}
