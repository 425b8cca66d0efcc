//! Who is refused first when the gateway's own limits are near.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Share};

/// Up to which share of `bodies_in_flight` and of `requests` each class of callers is served: what is left above it is for
/// those who are more urgent. `100%` for all of them keeps nothing for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shed {
    /// Priorities 0 to 3.
    pub batch: Share,
    /// Priorities 4 to 6: whoever says nothing has 5.
    pub normal: Share,
    /// Priorities 7 to 9.
    pub interactive: Share,
}

impl Default for Shed {
    fn default() -> Self {
        Self { batch: Share::percent(80), normal: Share::percent(100), interactive: Share::percent(100) }
    }
}

/// How urgent a request is, as far as who is refused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Priorities 0 to 3.
    Batch,
    /// Priorities 4 to 6.
    Normal,
    /// Priorities 7 to 9.
    Interactive,
}

impl Urgency {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Batch, Self::Normal, Self::Interactive];

    /// Of a priority.
    pub fn of(priority: u8) -> Self {
        match priority {
            0..=3 => Self::Batch,
            4..=6 => Self::Normal,
            _ => Self::Interactive,
        }
    }

    /// As the file spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Normal => "normal",
            Self::Interactive => "interactive",
        }
    }
}

impl Shed {
    /// The share for these.
    pub fn share(&self, urgency: Urgency) -> Share {
        match urgency {
            Urgency::Batch => self.batch,
            Urgency::Normal => self.normal,
            Urgency::Interactive => self.interactive,
        }
    }
}

impl Limits {
    /// The most requests at once of which one may be this urgent and no more.
    pub fn requests_for(&self, urgency: Urgency) -> usize {
        self.shed.share(urgency).part_of(self.requests).max(1)
    }

    /// The memory for bodies that requests no more urgent than this may fill: always enough for the largest body, so that
    /// a gateway with nothing to do takes it from anybody.
    pub fn bodies_for(&self, urgency: Urgency) -> usize {
        self.shed.share(urgency).part_of(self.bodies_in_flight).max(self.body).min(self.bodies_in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_urgent_may_fill_less_and_an_idle_gateway_takes_the_largest_body_from_anybody() {
        let limits = Limits { requests: 10, bodies_in_flight: 100, body: 10, ..Limits::default() };
        assert_eq!(Urgency::ALL.map(|urgency| limits.requests_for(urgency)), [8, 10, 10]);
        assert_eq!(Urgency::ALL.map(|urgency| limits.bodies_for(urgency)), [80, 100, 100]);
        let tight = Limits { requests: 1, bodies_in_flight: 100, body: 100, ..Limits::default() };
        assert_eq!(Urgency::ALL.map(|urgency| tight.requests_for(urgency)), [1, 1, 1]);
        assert_eq!(Urgency::ALL.map(|urgency| tight.bodies_for(urgency)), [100, 100, 100]);
    }

    #[test]
    fn every_priority_has_its_class() {
        let classes: Vec<_> = (0..=9).map(|priority| Urgency::of(priority).as_str()).collect();
        let expected = [["batch"; 4].as_slice(), &["normal"; 3], &["interactive"; 3]].concat();
        assert_eq!(classes, expected);
    }
}
