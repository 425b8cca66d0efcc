//! Questions that a filter has for a model of the file.

use crate::caller::Caller;
use crate::usage::Usage;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Asks the models of the file, as requests of the gateway's own: by the pool that answers for the model, with its
/// credentials, its breaker and its metrics. No filter sees them, and nobody is charged.
#[async_trait]
pub trait Ask: Send + Sync {
    /// The answer to a chat, whole.
    ///
    /// # Errors
    /// Why there is none, for the log.
    async fn ask(&self, question: Question) -> Result<Answer, String>;
}

/// A chat for a model of the file.
#[derive(Debug, Clone)]
pub struct Question {
    /// The model, as the file names it.
    pub model: Arc<str>,
    /// The body: a chat, not streamed.
    pub body: Bytes,
    /// How long the answer may take, waiting for a place included.
    pub time: Duration,
    /// On whose behalf: it waits in line, and is kept apart in the backends' caches, as they are.
    pub caller: Option<Arc<Caller>>,
    /// The request that it is about.
    pub id: Arc<str>,
    /// What for: for the log.
    pub errand: Errand,
    /// What asks: for the log.
    pub asker: Arc<str>,
}

/// What a model of the file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// A class of a request.
    Classification,
    /// What a conversation comes to.
    Summary,
}

impl Errand {
    /// What the line of such a request is called in the log, and under which name it has who asked.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Classification => ("classification", "classifier"),
            Self::Summary => ("summary", "sink"),
        }
    }
}

/// What was answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The body of the answer.
    pub body: Bytes,
    /// The tokens that it took.
    pub usage: Option<Usage>,
}

/// Nobody answers. For `check`, `explain` and tests.
pub struct Nobody;

#[async_trait]
impl Ask for Nobody {
    async fn ask(&self, _: Question) -> Result<Answer, String> {
        Err("no model can be asked here".to_owned())
    }
}
