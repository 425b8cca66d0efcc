//! Who can take a request, and holding it while they do: pools of backends, their health, leases and connections.

pub mod attempt;
pub mod backend;
pub mod breaker;
pub mod connect;
pub mod error;
pub mod health;
pub mod http1;
mod idle;
pub mod lease;
pub mod membership;
pub mod pool;
pub mod probe;
pub(crate) mod revision;

pub use attempt::Attempt;
pub use backend::Backend;
pub use connect::{Connector, Upstream};
pub use error::Error;
pub use http1::RequestHead;
pub use lease::Lease;
pub use membership::Membership;
pub use pool::{NoBackend, Pool};
