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
    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        // What names no model is not a matter of models.
        let Some(asked) = exchange.model() else { return Ok(Verdict::Continue) };
        let rule = self.rules.iter().find(|rule| rule.when.as_ref().is_none_or(|when| when.holds(exchange)));
        if let Some(rule) = rule {
            let model = rule.choice.model(&rule.name, exchange);
            if **asked != **model {
                exchange.send_to(model.clone());
            }
            exchange.note("routed_by", &*rule.name);
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
