//! Who can take a request, and holding it while they do: pools of backends, their health, leases and connections.

pub mod attempt;
pub mod backend;
pub mod breaker;
pub mod budget;
pub mod come_back;
pub mod connect;
pub mod discovery;
pub mod error;
pub mod fields;
pub mod health;
pub mod hedge;
pub mod holdoff;
pub mod http1;
mod idle;
pub mod lease;
pub mod limiter;
pub mod membership;
mod names;
pub mod pool;
pub mod probe;
pub mod queue;
pub(crate) mod revision;
pub mod signals;
mod stale;
pub(crate) mod too_long;

pub use attempt::Attempt;
pub use backend::Backend;
pub use connect::{Connector, Upstream};
pub use error::Error;
pub use fields::Fields;
pub use http1::RequestHead;
pub use lease::Lease;
pub use membership::Membership;
pub use pool::{NoBackend, Pool};
