//! Any bytes against `properties::forms`.
#![no_main]

#[path = "../properties/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target has its own property")]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::forms(data));
