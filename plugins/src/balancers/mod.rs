//! The built-in balancers, one file each.

mod choices;
mod least_busy;
mod peak_ewma;
mod per_member;
pub mod prefix_affinity;
mod round_robin;
mod session;

pub use least_busy::LeastBusy;
pub use peak_ewma::PeakEwma;
pub use prefix_affinity::PrefixAffinity;
pub use round_robin::RoundRobin;
pub use session::Session;
