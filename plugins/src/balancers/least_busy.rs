//! `least_busy`: the less loaded of two random candidates.

use super::choices::{Random, choose};
use crate::balancer::{Balancer, BalancerPlugin, Field};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use schemars::JsonSchema;
use serde::Deserialize;

/// Two backends are drawn, and the one with fewer requests for its `max_in_flight` (or its weight) gets the request; in
/// pools of up to eight the least busy of all. Requests that a backend has from elsewhere count if its metrics tell.
#[derive(Debug, Default)]
pub struct LeastBusy {
    random: Random,
}

/// The one of two random backends (in pools of up to eight: of all) that has fewer requests for its `max_in_flight`, or
/// its weight. What a backend has from elsewhere counts if its metrics tell.
#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

impl Balancer for LeastBusy {
    fn pick(&self, _: &Exchange, field: &dyn Field) -> Option<usize> {
        choose(&self.random, field, |_, one, _, other| one.compare(other).is_lt())
    }
}

impl BalancerPlugin for LeastBusy {
    const NAME: &'static str = "least_busy";
    type Settings = Settings;

    fn new(_: Settings) -> Result<Self, Vec<SettingsError>> {
        Ok(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Backends};

    #[test]
    fn the_emptiest_of_a_few_is_picked() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let field = Backends::busy(&[3, 1, 2]);
        assert!((0..50).all(|_| balancer.pick(&exchange, &field) == Some(1)));
    }

    #[test]
    fn equals_are_picked_alike() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let (field, mut picked) = (Backends::busy(&[0; 4]), [0; 4]);
        (0..4000).for_each(|_| picked[balancer.pick(&exchange, &field).unwrap()] += 1);
        assert!(picked.iter().all(|&n| (800..1200).contains(&n)), "{picked:?}");
    }

    #[test]
    fn the_busiest_of_many_is_avoided() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut load = vec![1; 100];
        load[7] = 50;
        let field = Backends::busy(&load);
        assert!((0..1000).all(|_| balancer.pick(&exchange, &field) != Some(7)));
    }

    #[test]
    fn the_only_one_of_many_that_is_free_is_found() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut field = Backends::busy(&[0; 1000]);
        field.closed.extend((0..1000).filter(|n| *n != 613));
        assert!((0..100).all(|_| balancer.pick(&exchange, &field) == Some(613)));
        field.closed.insert(613);
        assert_eq!(balancer.pick(&exchange, &field), None);
    }

    #[test]
    fn what_a_backend_does_for_others_counts() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut field = Backends::busy(&[1, 0]);
        field.list[1].elsewhere = 6.0;
        assert_eq!(balancer.pick(&exchange, &field), Some(0));
        field.list[1].elsewhere = 0.0;
        field.list[1].cache_used = 1.0;
        field.list[0].in_flight = 0;
        assert_eq!(balancer.pick(&exchange, &field), Some(0), "a full KV cache is no place for one more");
    }

    #[test]
    fn fullness_is_measured_against_what_one_takes() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut field = Backends::busy(&[4, 2]);
        field.list[0].capacity = Some(100);
        field.list[1].capacity = Some(4);
        assert_eq!(balancer.pick(&exchange, &field), Some(0));
    }
}
