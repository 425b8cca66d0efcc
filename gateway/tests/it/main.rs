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
mod budgets;
mod cache_file;
mod cancel;
mod certs;
mod chaos;
mod checks;
mod cli;
mod client;
mod client_address;
mod clock;
mod cost;
mod discovery;
mod drain_backend;
mod examples;
mod faithful;
mod fallback;
mod faults;
mod flights;
mod framing;
mod gateway;
mod hammer;
mod hedging;
mod idempotency;
mod input;
mod jwt;
mod life;
mod limits;
mod limits_admin;
mod limits_everywhere;
mod managed_keys;
mod measures;
mod models;
mod multipart;
mod name_server;
mod observe;
mod pools;
mod prompt_cache;
mod proxy_protocol;
mod queue;
mod retries;
mod rig;
mod routing;
mod same_names;
mod signals;
mod tenants;
mod timeouts;
mod transport;
mod turns;
mod websocket;
mod wire;
