//! The built-in filters, one file each.

mod api_key;

pub use api_key::ApiKey;
