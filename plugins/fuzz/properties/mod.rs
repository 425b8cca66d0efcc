//! What must hold for any bytes whatever, told against plain and slow readings of the same thing.
//!
//! The fuzz targets call these with what libFuzzer makes up, `plugins/tests/corpus.rs` with the committed corpora and
//! with what proptest makes up.

mod call;
mod events;
mod multipart;
mod reference;
mod splice;
mod token;

pub(crate) use call::call;
pub(crate) use events::events;
pub(crate) use multipart::multipart;
pub(crate) use splice::splice;
pub(crate) use token::token;
