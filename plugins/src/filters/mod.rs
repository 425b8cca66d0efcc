//! The built-in filters, one file each.

mod api_key;
pub mod limits;
pub mod prompt_cache;

pub use api_key::ApiKey;
pub use limits::Limits;
pub use prompt_cache::PromptCache;
