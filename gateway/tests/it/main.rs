//! The gateway from outside: the built binary between a scripted backend and plain clients, one module a theme.
//!
//! `backend`, `client` and `gateway` are the rig; `rig` proves the rig itself, client against backend.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod admin;
mod answers;
mod auth;
mod backend;
mod balancers;
mod bodies;
mod borders;
mod breaker;
mod broken_streams;
mod cancel;
mod certs;
mod checks;
mod cli;
mod client;
mod client_address;
mod discovery;
mod drain_backend;
mod examples;
mod faithful;
mod fallback;
mod faults;
mod framing;
mod gateway;
mod hedging;
mod input;
mod life;
mod limits;
mod models;
mod multipart;
mod observe;
mod pools;
mod proxy_protocol;
mod queue;
mod retries;
mod rig;
mod signals;
mod timeouts;
mod transport;
mod websocket;
mod wire;
