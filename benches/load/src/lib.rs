//! Load for measurements, and what came of it: latency, time to first token and time between tokens as the client sees
//! them, and what the measured server spent of its processor, memory and system calls. `tidegate bench` is made of it, and
//! so is `tidegate-bench-load`, which the comparisons of this repository are made with.
//!
//! - Closed loop: each connection asks again as soon as it is answered. Tells how much a server can carry.
//! - Open loop ([`Plan::rate`]): requests are due at fixed times, and their latency counts from when they were due, whether
//!   or not a connection was free, and also if they have not been answered when it is over (no coordinated omission). Tells
//!   what a client waits at a load that is given.
//!
//! All of it is one thread, and HTTP/1.1 of its own that knows just what it takes to keep the time: whatever is spent here is
//! missing where it is measured. It knows nothing of the rest of this repository.

mod answer;
mod ask;
mod clock;
mod connection;
mod drive;
mod events;
mod fault;
mod files;
pub mod made_up;
pub mod picture;
mod plan;
mod process;
mod report;
mod samples;
mod target;
mod usage;

pub use ask::{Answered, ask};
pub use connection::{Trust, Way};
pub use drive::{Measured, Progress, measure};
pub use fault::Fault;
pub use files::open_files;
pub use plan::{DIGITS, End, Plan, Request};
pub use process::Spent;
pub use report::{Quantiles, Report, Server, Streams, Tokens};
pub use samples::Samples;
pub use target::Target;
