//! What a filter may ask of the network, and work that goes on beside the requests.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::time::Duration;

/// Asks other servers on a filter's behalf. Never on a request's own thread.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// The document at `url` (`http://` or `https://`), if it comes with status 200, in time, and is not too large.
    /// Redirects are not followed.
    ///
    /// # Errors
    /// Why not, for the log.
    async fn get(&self, url: &str, bounds: Bounds) -> Result<Bytes, String>;

    /// Does work beside the requests, from now on.
    fn spawn(&self, work: BoxFuture<'static, ()>);
}

/// How much a document may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Time, from the name's lookup to the last byte.
    pub time: Duration,
    /// Bytes.
    pub size: usize,
}

/// No network: nothing is asked and nothing goes on. For `check`, and for tests.
pub struct Nowhere;

#[async_trait]
impl Outbound for Nowhere {
    async fn get(&self, _: &str, _: Bounds) -> Result<Bytes, String> {
        Err("there is no network here".to_owned())
    }

    fn spawn(&self, _: BoxFuture<'static, ()>) {}
}
