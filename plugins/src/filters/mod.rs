//! The built-in filters, one file each.

mod api_key;
pub mod limits;

pub use api_key::ApiKey;
pub use limits::Limits;
