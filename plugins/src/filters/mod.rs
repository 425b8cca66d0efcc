//! The built-in filters, one file each.

mod api_key;
pub mod idempotency;
pub mod limits;
pub mod prompt_cache;
mod shared_flight;

pub use api_key::ApiKey;
pub use idempotency::Idempotency;
pub use limits::Limits;
pub use prompt_cache::PromptCache;
pub use shared_flight::SharedFlight;
