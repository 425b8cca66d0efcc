//! The admin listener: whether the process lives, is ready and how it is, on a port of its own.

use std::sync::Arc;

/// What the admin listener shows of the gateway.
pub trait House: Send + Sync + 'static {
    /// Whether requests should be sent here; the reason if not (draining, a pool without a backend).
    fn ready(&self) -> Result<(), String>;
    /// Pools and backends as they are.
    fn health(&self) -> serde_json::Value;
    /// All metrics, in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Answers on `listener` until `shutdown`. With a token, all but `/livez` and `/readyz` need it.
pub async fn serve(
    _listener: tokio::net::TcpListener,
    _house: Arc<dyn House>,
    _token: Option<Box<str>>,
    shutdown: impl Future<Output = ()>,
) {
    shutdown.await;
}
