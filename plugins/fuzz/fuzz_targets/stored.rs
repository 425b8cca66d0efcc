//! Any bytes against `properties::stored`.
#![no_main]

#[path = "../properties/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target has its own property")]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::stored(data));
