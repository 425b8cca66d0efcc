//! The Tidegate gateway: an LLM reverse proxy on Pingora's listeners and connectors.
//!
//! This crate is the root: it knows the two leaves (`tidegate_config`, what a file says; `tidegate_plugins`, what a
//! filter is) and Pingora, and is the only one that does. Someone with filters of their own writes a `main` like
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use tidegate_plugins::filters::ApiKey as TheirFilter;
//! rustls::crypto::ring::default_provider().install_default().ok();
//! tidegate::Gateway::from_file("gateway.yaml")?.with::<TheirFilter>().run()?;
//! # Ok(())
//! # }
//! ```
//!
//! A request's life is in [`exchange`], in the order it happens.

pub mod admin;
pub mod assemble;
mod cache_file;
mod catalogue;
mod core;
mod downstream;
mod exchange;
pub mod explain;
mod gateway;
mod house;
pub mod in_memory;
mod life;
mod listeners;
pub mod models;
pub mod networks;
pub mod openapi;
pub mod outbound;
mod patience;
pub mod records;
pub mod reference;
mod reload;
mod server;
mod service_manager;
pub mod simulator;
pub mod snapshot;
pub mod storage;
pub mod telemetry;
pub mod upgrade;
pub mod upstream;
pub mod usage;

pub use gateway::{Gateway, RunError};

/// The guide's programs, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide-filter.md")]
pub struct GuideToFilters;
