//! The Tidegate gateway.

pub mod simulator;
