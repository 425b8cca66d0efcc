//! Turns of a conversation that goes on over one connection: a WebSocket of the realtime API, on which a client asks for
//! one response after the other.

use crate::exchange::Exchange;
use crate::filter::Result;
use crate::reply::Refusal;
use crate::usage::Usage;
use async_trait::async_trait;

/// What a client asks for in one turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// Bytes of text that the client has said since the turn before, this one included.
    pub text: u64,
    /// The most tokens the response may have, if the client says so.
    pub max_tokens: Option<u64>,
}

/// Judges the turns of one connection. What is granted and not ended is given back when it is dropped.
#[async_trait]
pub trait Turns: Send + Sync {
    /// Whether it must understand all that the client says, so that what nobody can read does not pass.
    fn must_read(&self) -> bool {
        true
    }

    /// Whether the client may go on at all: asked about what it says besides asking for turns. With a refusal the connection
    /// ends.
    ///
    /// # Errors
    /// A fault of ours.
    async fn stands(&mut self, exchange: &Exchange) -> Result<Option<Refusal>> {
        let _ = exchange;
        Ok(None)
    }

    /// Judges a turn before the backend hears of it. With a refusal, which the client is told, it never does;
    /// with one that says who it is (401, 403) the connection ends.
    ///
    /// # Errors
    /// A fault of ours.
    async fn begin(&mut self, exchange: &Exchange, turn: &Turn) -> Result<Option<Refusal>>;

    /// The turn that was granted last does not take place: somebody else has refused it.
    fn withdraw(&mut self);

    /// The oldest turn is over and has cost this. Without any that was granted, it is one that the backend has begun by
    /// itself. What it is counted as comes back: the same, with what the backend has not said.
    async fn end(&mut self, exchange: &Exchange, usage: Usage) -> Usage;
}
