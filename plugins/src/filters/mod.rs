//! The built-in filters, one file each.

mod api_key;
pub mod jwt;
pub mod limits;
mod trusted_headers;

pub use api_key::ApiKey;
pub use jwt::Jwt;
pub use limits::Limits;
pub use trusted_headers::TrustedHeaders;
