//! The built-in filters, one file each.

mod api_key;
pub mod limits;
pub mod model_route;

pub use api_key::ApiKey;
pub use limits::Limits;
pub use model_route::ModelRoute;
