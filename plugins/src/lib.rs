//! What a Tidegate filter is, and the built-in ones.

pub mod call;
pub mod events;
pub mod json;
pub mod keys;
pub mod multipart;
pub mod splice;
pub mod usage;
