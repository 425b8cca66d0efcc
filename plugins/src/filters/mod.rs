//! The built-in filters, one file each.

mod api_key;
pub mod idempotency;
pub mod limits;
mod shared_flight;

pub use api_key::ApiKey;
pub use idempotency::Idempotency;
pub use limits::Limits;
pub use shared_flight::SharedFlight;
