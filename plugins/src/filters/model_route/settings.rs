//! Rules as they are written.

use super::Meant;
use super::choice::Choice;
use crate::condition::{Condition, Lists, Terms};
use crate::filter::SettingsError;
use crate::services::Services;
use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Which model answers, by what a request is and who sends it. See [guide-routing.md](guide-routing.md).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Lists of names that conditions can refer to, as in `org in beta`.
    #[serde(default)]
    pub lists: Lists,
    /// Tried from the top; the first whose condition holds decides.
    pub rules: Vec<Rule>,
}

/// One rule: a condition, and the model or models for the requests it means.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called in the log. Absent: its place in the list, from 1.
    #[serde(default)]
    pub name: Option<String>,
    /// Which requests it is for, such as `has_tools or prompt_tokens > 8k and org in ["acme"]`. Absent: all.
    #[serde(default)]
    pub when: Option<String>,
    /// The model that answers.
    #[serde(default)]
    pub model: Option<String>,
    /// Models and their weights: each answers its share.
    #[serde(default)]
    pub split: Option<BTreeMap<String, u32>>,
    /// Whose requests go to the same model of a `split` each time. Absent: nobody's.
    #[serde(default)]
    pub sticky: Option<Sticky>,
}

/// Who a choice sticks to. A request that does not have it goes where the weights say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The key.
    Key,
    /// The user.
    User,
    /// The team.
    Team,
    /// The organisation.
    Org,
    /// The value of this header, such as a session's id.
    #[serde(deserialize_with = "header")]
    #[schemars(with = "String")]
    Header(HeaderName),
}

fn header<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(|_| serde::de::Error::custom(format!("{name:?} is no name of a header")))
}

impl Settings {
    pub(super) fn meant(self, services: &Services, faults: &mut Vec<SettingsError>) -> Vec<Meant> {
        let terms =
            Terms { lists: &self.lists, tenants: services.tenants.as_deref(), classifiers: &services.classifiers };
        if self.rules.is_empty() {
            faults.push(SettingsError::at("rules", "there is no rule").help("leave the filter out if you want none"));
        }
        let mut names = HashSet::new();
        let mut rules = Vec::new();
        let mut catch_all = None;
        for (index, rule) in self.rules.into_iter().enumerate() {
            let path = format!("rules[{index}]");
            let name: Arc<str> = rule.name.as_deref().map_or_else(|| (index + 1).to_string().into(), Into::into);
            if !names.insert(name.clone()) {
                faults.push(SettingsError::at(format!("{path}.name"), format!("another rule is called '{name}'")));
            }
            if let Some(first) = catch_all {
                let message = format!("it is never reached: rule {first} is for all requests");
                faults.push(SettingsError::at(&*path, message).help("move it up, or give that one a condition"));
            }
            let when = rule.when.as_deref().map(|when| Condition::read(when, terms)).transpose();
            let when = when.unwrap_or_else(|error| {
                faults.push(SettingsError::at(format!("{path}.when"), error.to_string()));
                None
            });
            if rule.when.is_none() && catch_all.is_none() {
                catch_all = Some(index + 1);
            }
            if let Some(choice) = rule.choice(&path, &services.models, faults) {
                rules.push(Meant { name, when, choice });
            }
        }
        rules
    }
}

/// What is wrong with a model's name that is not among those of the file.
pub(crate) fn unknown_model(models: &[Arc<str>], model: &str, path: &str) -> Option<SettingsError> {
    let found = models.iter().any(|name| crate::caller::matches(name, model));
    let message = format!("the file has no model '{model}'");
    (!found).then(|| SettingsError::at(path, message).help("name one of `models`"))
}

impl Rule {
    fn choice(self, path: &str, models: &[Arc<str>], faults: &mut Vec<SettingsError>) -> Option<Choice> {
        let mut known = |model: &str, path: String| faults.extend(unknown_model(models, model, &path));
        match (self.model, self.split) {
            (Some(model), None) if self.sticky.is_none() => {
                known(&model, format!("{path}.model"));
                Some(Choice::one(&model))
            }
            (None, Some(split)) if split.values().any(|weight| *weight > 0) => {
                for model in split.keys() {
                    known(model, format!("{path}.split.{model}"));
                }
                Some(Choice::split(split, self.sticky))
            }
            (Some(_), None) => {
                faults.push(SettingsError::at(format!("{path}.sticky"), "there is nothing to choose from"));
                None
            }
            (None, Some(_)) => {
                faults.push(SettingsError::at(format!("{path}.split"), "at least one model must have a weight"));
                None
            }
            _ => {
                let fault = SettingsError::at(path, "say where to: either `model` or `split`");
                faults.push(fault.help("model: NAME, or split: { NAME: WEIGHT, ... }"));
                None
            }
        }
    }
}
