//! x
pub mod admin;
pub mod simulator;
pub mod telemetry;
