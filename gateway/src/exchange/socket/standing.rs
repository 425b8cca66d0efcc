//! Whether who opened a connection is still let in: a key that is revoked, replaced or expired ends its conversations too.
//!
//! The filters that tell who sends a request are asked again, as the file, the keys and the clock are by now: for every
//! turn, and for what the client says between turns about once a second.

use super::super::own::Own;
use async_trait::async_trait;
use http::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_plugins::filter::Result;
use tidegate_plugins::turns::{Turn, Turns};
use tidegate_plugins::usage::Usage;
use tidegate_plugins::{Exchange, Refusal, Verdict};

/// How long what was found out holds for messages that ask for no response.
const HOLDS: Duration = Duration::from_millis(500);

/// Judges the one who talks on a connection.
pub(super) struct Standing {
    own: Arc<Own>,
    judged: Instant,
}

impl Standing {
    pub(super) fn new(own: Arc<Own>) -> Self {
        Self { own, judged: Instant::now() }
    }

    async fn judge(&mut self, exchange: &Exchange) -> Result<Option<Refusal>> {
        self.judged = Instant::now();
        let Some(core) = self.own.core() else { return Ok(None) };
        let snapshot = core.snapshot.load_full();
        let mut anew = exchange.unidentified();
        for named in snapshot.early.iter().chain(&snapshot.late).filter(|named| named.filter.identifies().is_some()) {
            if let Verdict::Answer(reply) = named.filter.request(&mut anew).await? {
                let closes = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                // That nobody can tell for now is no reason to send away who was let in.
                return Ok(closes.then(|| Refusal::new(reply.status, "invalid_api_key", reply.message())));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Turns for Standing {
    fn must_read(&self) -> bool {
        false
    }

    async fn stands(&mut self, exchange: &Exchange) -> Result<Option<Refusal>> {
        if self.judged.elapsed() < HOLDS { Ok(None) } else { self.judge(exchange).await }
    }

    async fn begin(&mut self, exchange: &Exchange, _: &Turn) -> Result<Option<Refusal>> {
        self.judge(exchange).await
    }

    fn withdraw(&mut self) {}

    async fn end(&mut self, _: &Exchange, usage: Usage) -> Usage {
        usage
    }
}
