//! Classes of requests, as small models give them: `class("task") == "synthesis"` in a condition.
//!
//! A classifier of the file says which model is asked, what of a request that sees, and which classes there are. It is asked
//! when a condition cannot be decided without it, and at most once a request; what it said of the same text before is kept
//! for a while. Where it fails or is late, the file says which class that is.

mod known;
mod metrics;
mod seen;
mod settings;
#[cfg(test)]
mod tests;

use crate::ask::{Ask, Errand, Question};
use crate::cache_key::Scope;
use crate::exchange::Exchange;
use bytes::Bytes;
use known::Known;
use metrics::{ClassSeries, Outcome};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use known::Classes;
pub use metrics::{ASKED, CLASSES, DURATION, DURATIONS, TOKENS};
pub use seen::Sees;
pub use settings::{Classifiers, Labels, Settings};

/// Gives requests a class.
pub struct Classifier {
    /// Its name in the file.
    pub name: Arc<str>,
    /// The model that is asked.
    pub model: Arc<str>,
    /// The classes there are.
    pub labels: Vec<Arc<str>>,
    /// The class of a request that could not be given one.
    pub otherwise: Arc<str>,
    instruction: String,
    parameters: Map<String, Value>,
    sees: Sees,
    bytes: usize,
    timeout: Duration,
    scope: Option<Scope>,
    /// Tells what was asked by other settings apart.
    version: [u8; 32],
    known: Option<Arc<Known>>,
    series: Arc<ClassSeries>,
    asks: Arc<dyn Ask>,
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier").field("name", &self.name).field("model", &self.model).finish_non_exhaustive()
    }
}

/// Those of one file have different names.
impl PartialEq for Classifier {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Classifier {}

impl Classifier {
    /// The class of a request: as it was given to the same text before, or as the model says now.
    pub async fn classify(&self, exchange: &Exchange) -> Arc<str> {
        let (class, outcome) = match seen::text(exchange, self.sees, self.bytes) {
            Some(text) => self.of(exchange, &text).await,
            None => (self.otherwise.clone(), Outcome::Nothing),
        };
        self.series.gave(outcome, self.labels.iter().position(|label| *label == class));
        class
    }

    async fn of(&self, exchange: &Exchange, text: &str) -> (Arc<str>, Outcome) {
        let key = self.key(exchange, text);
        let kept = self.known.as_ref().and_then(|known| known.get(&key));
        if let Some(class) = kept.and_then(|class| self.labels.get(class)) {
            return (class.clone(), Outcome::Cached);
        }
        let question = Question {
            model: self.model.clone(),
            body: self.body(text),
            time: self.timeout,
            caller: exchange.caller().cloned(),
            id: exchange.id().clone(),
            errand: Errand::Classification,
            asker: self.name.clone(),
        };
        let began = Instant::now();
        let answer = self.asks.ask(question).await;
        self.series.took(began.elapsed());
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::debug!(request_id = %exchange.id(), classifier = %self.name, reason, "not classified");
                return (self.otherwise.clone(), Outcome::Failed);
            }
        };
        self.series.spent(answer.usage);
        match self.read(&answer.body) {
            Some(class) => {
                if let Some(known) = &self.known {
                    known.keep(key, class);
                }
                (self.labels[class].clone(), Outcome::Asked)
            }
            None => {
                tracing::debug!(request_id = %exchange.id(), classifier = %self.name, reason = "no class in the answer", "not classified");
                (self.otherwise.clone(), Outcome::Unreadable)
            }
        }
    }

    /// What was said is kept by what was asked, by which settings, and for whom.
    fn key(&self, exchange: &Exchange, text: &str) -> [u8; 32] {
        let tenant = self.scope.and_then(|scope| scope.tenant(exchange.caller().map(|caller| &**caller)));
        let (kind, name) = tenant.map_or(("", ""), |tenant| tenant.parts());
        let mut hash = blake3::Hasher::new_keyed(&self.version);
        for part in [kind, name, text] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hash.finalize().into()
    }

    fn body(&self, text: &str) -> Bytes {
        let mut body = json!({
            "model": &*self.model,
            "messages": [{ "role": "system", "content": self.instruction }, { "role": "user", "content": text }],
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
        });
        for (name, value) in &self.parameters {
            body[name] = value.clone();
        }
        body.to_string().into()
    }

    /// Which class an answer names: by itself, or as the first word of its text that is one.
    fn read(&self, answer: &[u8]) -> Option<usize> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let said = answer["choices"][0]["message"]["content"].as_str()?.to_lowercase();
        let is_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
        let found = self.labels.iter().enumerate().filter_map(|(index, label)| {
            let label = label.to_lowercase();
            let alone = |at: usize| {
                let (before, after) = (said[..at].chars().next_back(), said[at + label.len()..].chars().next());
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            };
            let at = said.match_indices(&label).map(|(at, _)| at).find(|at| alone(*at))?;
            Some((at, index))
        });
        found.min().map(|(_, index)| index)
    }
}

/// Tokens of an answer that is one word.
const MOST_TOKENS: u32 = 16;
