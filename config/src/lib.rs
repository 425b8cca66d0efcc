//! What a Tidegate file says: its types, units, secrets, and every fault in it at once.
//!
//! [`load`] takes a [`Source`] and an [`Environment`] to a [`Config`], or to all [`Faults`] with their lines. The road
//! is one module a step: `compose` (YAML to a tree that knows its lines), `overrides` and `interpolate` (what the
//! environment has to say), `de` (tree to the types in `written`), `resolve` (to the types in [`Config`]), `warnings`.
//!
//! This crate knows neither filters nor Pingora: a filter is a name, its settings as JSON, and where they stand, so
//! that whoever knows filters can report their faults through [`Positions`] as if they were ours.

mod address;
mod backend_url;
mod changes;
mod compose;
mod de;
mod environment;
mod fault;
mod interpolate;
mod key_path;
mod load;
mod masking;
mod meant;
mod near;
mod network;
mod overrides;
mod plain;
mod positions;
mod resolve;
mod schema;
mod secret;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod trouble;
mod units;
mod warnings;
mod written;

pub use address::Address;
pub use changes::{Change, changes};
pub use environment::{Environment, ProcessEnvironment};
pub use fault::{Fault, Faults, Place, Severity};
pub use key_path::{KeyPath, Step};
pub use load::{Loaded, Source, load, load_backends, load_judged};
pub use meant::{
    Admin, AdminTls, AllowedHeaders, Backend, BackendTls, BackendUrl, Balance, Config, Cors, Discover, Discovered,
    Fallback, FallbackTo, FilterEntry, Listen, ListenTls, Model, Origins, Pattern, Pool, Target,
};
pub use network::{Clients, Network};
pub use plain::parse_value;
pub use positions::Positions;
pub use schema::{adopt_section, schema, schema_with};
pub use secret::{MASK, Secret, is_secret_name};
pub use settings::{
    After, AskUsage, Auth, Breaker, CompressedBodies, Drain, FallbackOn, Health, Hedge, Hold, Keys, Limits, Log,
    LogFormat, LogLevel, MaxInFlight, Money, OtherPaths, Price, Prices, ProbeBy, Queue, Recent, RefuseWith, Reload,
    Resume, ResumeStyle, Retries, RetryOn, Sample, Share, Shed, Signals, Storage, TimeoutOverrides, Timeouts, Traces,
    Upgrade, Urgency, Usage,
};
pub use units::{parse_duration, parse_size, write_duration, write_size};
