//! The built-in filters, one file each.

mod api_key;
pub mod jwt;
pub mod limits;
pub mod model_route;
pub mod prompt_cache;
pub mod record;
mod shadow;
mod trusted_headers;

pub use api_key::ApiKey;
pub use jwt::Jwt;
pub use limits::Limits;
pub use model_route::ModelRoute;
pub use prompt_cache::PromptCache;
pub use record::Record;
pub use shadow::Shadow;
pub use trusted_headers::TrustedHeaders;
pub mod idempotency;
pub mod shared_flight;
pub use idempotency::Idempotency;
pub use shared_flight::SharedFlight;
