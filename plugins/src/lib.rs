//! What a filter is, in one page.
//!
//! A **filter** ([`filter::Filter`]) is built once from its settings and shared by all requests. It sees an
//! [`exchange::Exchange`] (one request and what is known about it) and answers with a [`filter::Verdict`]: go on,
//! *follow* this request with an object that sees the answer, or answer it yourself. The objects left behind,
//! last first, are the answer side. A **balancer** ([`balancer::Balancer`]) picks one of the backends that could
//! take a request.
//!
//! This crate is a leaf: it knows neither Pingora nor the file format nor the environment. A filter of your own
//! depends on it alone and is handed to the gateway in your own `main`; docs/guide-filter.md walks through one.
//!
//! What limits count lives in a [`store`]: buckets that are decided over together.
//!
//! The bytes of a request and its answer are read by [`call`], [`events`], [`usage`] and [`multipart`], and changed
//! only by [`splice`], which leaves every other byte alone, and by [`resume`], which joins the end of one stream to the
//! beginning of another.

pub mod ask;
pub mod balancer;
pub mod balancers;
pub mod cache_key;
pub mod call;
pub mod caller;
pub mod classify;
pub mod condition;

pub mod credential;
pub mod duration;
pub mod events;
pub mod exchange;
pub mod filter;
pub mod filters;
pub mod flight;
pub mod forms;
mod hashed;
pub mod json;
pub mod keys;
mod misfits;
pub mod multipart;
pub mod outbound;
pub mod prices;
pub mod recording;
pub mod records;

pub mod registry;
pub mod reply;
pub mod resume;
pub mod services;
pub mod shadow;
pub mod spenders;
pub mod splice;
pub mod store;
pub mod tenants;
pub mod testing;
pub mod turns;
pub mod units;
pub mod usage;
pub mod when;

pub use balancer::{Balancer, BalancerPlugin, Candidate, Field};
pub use caller::{Caller, Priority};
pub use exchange::{Answerer, Exchange, Source};
pub use filter::{Filter, Head, Plugin, ResponseFilter, Verdict};
pub use registry::Registry;
pub use reply::{Body, Pieces, Refusal, Reply};
pub use services::Services;
