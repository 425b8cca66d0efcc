//! A gateway without a network: its clients' connections and those to its backends are in memory, and all that lies between
//! is the real thing. It is for whoever counts what an exchange costs: nothing listens, is probed or reloaded, and there is
//! no store.

use crate::assemble::{self, Parts};
use crate::core::Core;
use crate::server::Server;
use crate::telemetry::{Log, LogGuard, Metrics};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tidegate_config::{Config, Faults};
use tidegate_plugins::Registry;
use tokio::io::{DuplexStream, duplex};

/// One that has been assembled.
pub struct InMemory {
    core: Arc<Core>,
    _log: LogGuard,
}

impl InMemory {
    /// A gateway with the built-in filters. Its log is written as any other, to nowhere.
    ///
    /// # Errors
    /// All faults that assembling finds.
    pub fn new(config: &Config) -> Result<Self, Faults> {
        let metrics = Arc::new(Metrics::new());
        let parts = Parts { registry: &Registry::built_in(), metrics: &metrics, previous: None };
        let snapshot = assemble::assemble(config, &parts).map_err(Faults)?;
        let (log, guard) =
            Log::nowhere(metrics.log_lines_dropped_total.clone(), metrics.log_requests_left_out_total.clone());
        let core = Arc::new(Core::new(Arc::new(snapshot), metrics, log));
        core.snapshot.load().own.serve(&core);
        core.follow_requests();
        Ok(Self { core, _log: guard })
    }

    /// The client's end of a new connection, with room for so many bytes on their way. To be called within a runtime, on
    /// which it is answered.
    pub fn client(&self, room: usize) -> DuplexStream {
        let (near, far) = duplex(room);
        tokio::spawn(Server::in_memory(self.core.clone(), far, Some(IpAddr::V4(Ipv4Addr::LOCALHOST))));
        near
    }

    /// The backend's end of a connection that lies ready for the next request to the first backend of the first pool; none
    /// if there is no such backend, or its address has to be asked for.
    pub async fn backend(&self, room: usize) -> Option<DuplexStream> {
        let snapshot = self.core.snapshot.load_full();
        let pool = snapshot.pools.first()?;
        let membership = pool.membership.load_full();
        let (near, far) = duplex(room);
        self.core.connector.lay_by(membership.backends.first()?, Box::new(far), pool.idle_connections).await?;
        Some(near)
    }
}
