//! The part of zlib-ng's interface that flate2 calls, answered by zlib-rs.
//!
//! Pingora asks flate2 for zlib-ng; building zlib-ng asks for cmake. This shim takes its place (see
//! `[patch.crates-io]` in the workspace's manifest). The two `z_stream`s have the same layout; they differ
//! only in how Rust spells a function pointer that may be null.
#![allow(non_camel_case_types, non_snake_case, missing_docs, clippy::missing_safety_doc)]

use libz_rs_sys as z;
use std::ffi::{c_char, c_int, c_ulong, c_void};

pub use z::{
    zlibVersion, Z_BLOCK, Z_BUF_ERROR, Z_DATA_ERROR, Z_DEFAULT_STRATEGY, Z_DEFLATED, Z_FINISH, Z_FULL_FLUSH,
    Z_MEM_ERROR, Z_NEED_DICT, Z_NO_FLUSH, Z_OK, Z_PARTIAL_FLUSH, Z_STREAM_END, Z_STREAM_ERROR, Z_SYNC_FLUSH,
};

pub type uInt = u32;
pub enum internal_state {}

#[repr(C)]
pub struct z_stream {
    pub next_in: *mut u8,
    pub avail_in: uInt,
    pub total_in: c_ulong,
    pub next_out: *mut u8,
    pub avail_out: uInt,
    pub total_out: c_ulong,
    pub msg: *mut c_char,
    pub state: *mut internal_state,
    pub zalloc: unsafe extern "C" fn(*mut c_void, uInt, uInt) -> *mut c_void,
    pub zfree: unsafe extern "C" fn(*mut c_void, *mut c_void),
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: c_ulong,
    pub reserved: c_ulong,
}

const _: () = assert!(size_of::<z_stream>() == size_of::<z::z_stream>());
const _: () = assert!(align_of::<z_stream>() == align_of::<z::z_stream>());

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        pub unsafe fn $name(stream: *mut z_stream $(, $arg: $type)*) -> c_int {
            unsafe { z::$name(stream.cast::<z::z_stream>() $(, $arg)*) }
        }
    )*};
}

forward! {
    deflate(flush: c_int);
    deflateEnd();
    deflateReset();
    deflateParams(level: c_int, strategy: c_int);
    deflateSetDictionary(dictionary: *const u8, length: uInt);
    deflateInit2_(level: c_int, method: c_int, window_bits: c_int, memory: c_int, strategy: c_int, version: *const c_char, size: c_int);
    inflate(flush: c_int);
    inflateEnd();
    inflateReset();
    inflateReset2(window_bits: c_int);
    inflateSetDictionary(dictionary: *const u8, length: uInt);
    inflateInit2_(window_bits: c_int, version: *const c_char, size: c_int);
}
