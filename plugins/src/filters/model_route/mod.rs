//! `model_route`: which model answers, by what a request is and who sends it.
//!
//! Rules are tried from the top, and the first whose condition holds decides: one model, or one of several by weight,
//! the same one for the same caller if it is to stick. A request that no rule means keeps the model it asks for.

mod choice;
mod settings;
#[cfg(test)]
mod tests;

use crate::condition::Condition;
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::services::Services;
use async_trait::async_trait;
use choice::Choice;
use std::sync::Arc;

pub(crate) use settings::unknown_model;
pub use settings::{Rule, Settings, Sticky};

/// See the module.
pub struct ModelRoute {
    rules: Vec<Meant>,
}

/// A rule as meant.
struct Meant {
    name: Arc<str>,
    when: Option<Condition>,
    choice: Choice,
}

#[async_trait]
impl Filter for ModelRoute {
    fn explain(&self, exchange: &Exchange) -> Option<String> {
        exchange.model()?;
        for Meant { name, when, choice } in &self.rules {
            match when.as_ref().map_or(Ok(true), |when| when.judge(exchange)) {
                Ok(true) => return Some(format!("rule {name}: {choice}")),
                Ok(false) => {}
                // Asking costs tokens, and what it says is not for certain.
                Err(classifier) => {
                    let (class, model) = (&classifier.name, &classifier.model);
                    let text = format!(
                        "rule {name} asks {model} for the class by {class}, which is not asked here: {choice}, or the next rule"
                    );
                    return Some(text);
                }
            }
        }
        Some("no rule is for this request".to_owned())
    }

    fn sends_to(&self, exchange: &Exchange) -> Vec<(Arc<str>, f64)> {
        let mut models = Vec::new();
        for Meant { name, when, choice } in self.rules.iter().filter(|_| exchange.model().is_some()) {
            let judged = when.as_ref().map_or(Ok(true), |when| when.judge(exchange));
            if !matches!(judged, Ok(false)) {
                models.extend(choice.shares(name, exchange));
            }
            if matches!(judged, Ok(true)) {
                break;
            }
        }
        models
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        // What names no model is not a matter of models.
        if exchange.model().is_none() {
            return Ok(Verdict::Continue);
        }
        for rule in &self.rules {
            let meant = match &rule.when {
                Some(when) => when.holds(exchange).await,
                None => true,
            };
            if meant {
                let model = rule.choice.model(&rule.name, exchange);
                if exchange.model().is_none_or(|asked| **asked != **model) {
                    exchange.send_to(model.clone());
                }
                exchange.note("routed_by", &*rule.name);
                break;
            }
        }
        Ok(Verdict::Continue)
    }
}

impl Plugin for ModelRoute {
    const NAME: &'static str = "model_route";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let rules = settings.meant(services, &mut faults);
        if faults.is_empty() { Ok(Self { rules }) } else { Err(faults) }
    }
}
