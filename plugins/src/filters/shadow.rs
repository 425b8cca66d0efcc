//! `shadow`: a copy of some requests goes to another model too, and its answer is for nobody.
//!
//! The filter only marks them. What is marked is copied once a backend is asked: what is refused behind this filter, or
//! answered from a cache, is not. Nobody waits for a copy; where there is no room for one, it is left out and counted.

use super::model_route::{Sticky, unknown_model};
use crate::condition::{Condition, Lists, Terms};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::services::Services;
use crate::shadow;
use crate::units::{Percent, Size, Time};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A copy of some requests goes to another model too, and its answer is for nobody: to try that model on real requests.
/// Several such filters send several copies. See [guide-routing.md](guide-routing.md).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The model that gets the copies: one of `models`.
    pub model: String,
    /// What it is called in metrics and log. Absent: as its model.
    #[serde(default)]
    pub name: Option<String>,
    /// Lists of names that the condition can refer to.
    #[serde(default)]
    pub lists: Lists,
    /// Which requests are meant, such as `model == "auto" and not has_tools`. Absent: all.
    #[serde(default)]
    pub when: Option<String>,
    /// How many of those are copied.
    #[serde(default = "all")]
    #[schemars(extend("default" = "100%"))]
    pub share: Percent,
    /// Whose requests are copied all, or not at all. Absent: each is drawn for itself.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// The most copies at one time; beyond it they are left out.
    #[serde(default = "some")]
    pub in_flight: usize,
    /// The most bytes of requests that copies hold; beyond it they are left out.
    #[serde(default = "room")]
    #[schemars(extend("default" = "32MiB"))]
    pub bytes: Size,
    /// How long a copy may take.
    #[serde(default = "while_it_lasts")]
    #[schemars(extend("default" = "5m"))]
    pub time: Time,
}

fn all() -> Percent {
    Percent::ALL
}

fn some() -> usize {
    16
}

fn room() -> Size {
    Size(32 << 20)
}

fn while_it_lasts() -> Time {
    Time(Duration::from_secs(300))
}

/// See the module.
pub struct Shadow {
    to: Arc<shadow::Shadow>,
    when: Option<Condition>,
    share: Percent,
    sticky: Option<Sticky>,
    turn: AtomicU64,
}

impl Shadow {
    fn is_drawn(&self, exchange: &Exchange) -> bool {
        let point = match self.sticky.as_ref().and_then(|sticky| sticky.of(exchange)) {
            Some(subject) => {
                let mut hash = blake3::Hasher::new();
                for part in [self.to.name.as_bytes(), subject] {
                    hash.update(&(part.len() as u64).to_le_bytes()).update(part);
                }
                hash.finalize().as_bytes().iter().take(8).fold(0_u64, |point, byte| point << 8 | u64::from(*byte))
            }
            // A golden-ratio walk spreads a small share evenly instead of sending it in a burst.
            None => self.turn.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        self.share.has(point)
    }
}

#[async_trait]
impl Filter for Shadow {
    fn explain(&self, exchange: &Exchange) -> Option<String> {
        let (name, model) = (&self.to.name, &self.to.model);
        match self.when.as_ref().map_or(Ok(true), |when| when.judge(exchange)) {
            Ok(true) => Some(format!("{name}: a copy may go to {model}")),
            Ok(false) => None,
            Err(classifier) => {
                let (class, asked) = (&classifier.name, &classifier.model);
                Some(format!("{name}: a copy may go to {model}, by what {asked} says of the class by {class}"))
            }
        }
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        // What is not held as a whole cannot be sent twice.
        if exchange.call().is_none() || exchange.model().is_none() {
            return Ok(Verdict::Continue);
        }
        let meant = match &self.when {
            Some(when) => when.holds(exchange).await,
            None => true,
        };
        if meant && self.is_drawn(exchange) {
            exchange.copy_to(self.to.clone());
        }
        Ok(Verdict::Continue)
    }
}

impl Plugin for Shadow {
    const NAME: &'static str = "shadow";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults: Vec<_> = unknown_model(&services.models, &settings.model, "model").into_iter().collect();
        let terms =
            Terms { lists: &settings.lists, tenants: services.tenants.as_deref(), classifiers: &services.classifiers };
        let when = settings.when.as_deref().map(|when| Condition::read(when, terms)).transpose();
        let when = when.unwrap_or_else(|error| {
            faults.push(SettingsError::at("when", error.to_string()));
            None
        });
        let nothing = [
            ("share", settings.share.is_nothing()),
            ("in_flight", settings.in_flight == 0),
            ("bytes", settings.bytes.0 == 0),
            ("time", settings.time.0.is_zero()),
        ];
        for (name, _) in nothing.into_iter().filter(|(_, nothing)| *nothing) {
            let fault = SettingsError::at(name, "nothing would ever be copied");
            faults.push(fault.help("leave the filter out if you want none"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let name: Arc<str> = settings.name.as_deref().unwrap_or(&settings.model).into();
        let held = services.shared.shadows.held(&name);
        let (in_flight, bytes, time) = (settings.in_flight, settings.bytes.0, settings.time.0);
        let to = shadow::Shadow { name, model: settings.model.as_str().into(), in_flight, bytes, time, held };
        let (share, sticky) = (settings.share, settings.sticky);
        Ok(Self { to: Arc::new(to), when, share, sticky, turn: AtomicU64::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Caller;
    use crate::testing;
    use serde_json::{Value, json};

    fn build(settings: Value) -> std::result::Result<Shadow, Vec<SettingsError>> {
        let services = Services { models: ["next".into()].into(), ..Services::none() };
        Shadow::new(serde_json::from_value(settings).unwrap(), &services)
    }

    async fn copies(filter: &Shadow, user: Option<&str>) -> usize {
        let mut exchange = testing::exchange(r#"{"model":"auto","messages":[]}"#);
        exchange.identify(Arc::new(Caller { user: user.map(Into::into), ..Caller::default() }));
        assert!(matches!(filter.request(&mut exchange).await, Ok(Verdict::Continue)));
        assert_eq!(&**exchange.model().unwrap(), "auto");
        exchange.take_copies().len()
    }

    #[tokio::test]
    async fn a_share_is_copied_evenly_or_by_who_sends_it() {
        let filter = build(json!({ "model": "next", "share": "10%" })).ok().unwrap();
        let mut drawn = 0;
        for _ in 0..1000 {
            drawn += copies(&filter, None).await;
        }
        assert!((95..=105).contains(&drawn), "{drawn}");

        let filter = build(json!({ "model": "next", "share": "10%", "sticky": "user" })).ok().unwrap();
        let mut drawn = 0;
        for user in 0..2000 {
            let user = format!("user-{user}");
            let first = copies(&filter, Some(&user)).await;
            assert_eq!(copies(&filter, Some(&user)).await, first);
            drawn += first;
        }
        assert!((140..=260).contains(&drawn), "{drawn}");
    }

    #[tokio::test]
    async fn only_what_the_condition_means_is_copied() {
        let filter = build(json!({ "model": "next", "when": "stream" })).ok().unwrap();
        assert_eq!(copies(&filter, None).await, 0);
        let filter = build(json!({ "model": "next", "when": "not stream" })).ok().unwrap();
        assert_eq!(copies(&filter, None).await, 1);
    }

    #[test]
    fn what_could_copy_nothing_is_a_fault() {
        let faults = build(json!({ "model": "nxt", "when": "streem", "share": "0%", "in_flight": 0, "time": "0" }));
        let faults = faults.err().unwrap();
        let paths: Vec<_> = faults.iter().map(|fault| &*fault.path).collect();
        assert_eq!(paths, ["model", "when", "share", "in_flight", "time"]);
    }
}
