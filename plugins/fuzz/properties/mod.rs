//! What must hold for any bytes whatever, told against plain and slow readings of the same thing.
//!
//! The fuzz targets call these with what libFuzzer makes up, `plugins/tests/corpus.rs` with the committed corpora and
//! with what proptest makes up.

mod call;
mod canonical;
mod events;
mod forms;
mod multipart;
mod reference;
mod splice;
mod stored;
mod token;

pub(crate) use call::call;
pub(crate) use canonical::canonical;
pub(crate) use events::events;
pub(crate) use forms::forms;
pub(crate) use multipart::multipart;
pub(crate) use splice::splice;
pub(crate) use stored::{stored, stored_whole};
pub(crate) use token::token;
