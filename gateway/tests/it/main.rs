//! The gateway from outside: the built binary between a scripted backend and plain clients, one module a theme.
//!
//! `backend`, `client` and `gateway` are the rig; `rig` proves the rig itself, client against backend.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod backend;
mod certs;
mod client;
mod gateway;
mod rig;
mod wire;
