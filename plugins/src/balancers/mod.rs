//! The built-in balancers, one file each.

mod least_busy;
mod round_robin;

pub use least_busy::LeastBusy;
pub use round_robin::RoundRobin;
