//! Who is in a pool, arranged so that a pick finds what it needs without walking over all of them.

use std::collections::HashMap;
use std::sync::Arc;

/// One backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is, for as long as its pool and its name stay: the same on every gateway with the same file. 40 bits, so
    /// that it can be kept together with something else.
    pub id: u64,
    /// Its name within its pool.
    pub name: Arc<str>,
    /// Its share relative to others, at least 1.
    pub weight: u32,
}

impl Member {
    /// The backend `name` of `pool`.
    pub fn new(pool: &str, name: &Arc<str>, weight: u32) -> Self {
        let hash = blake3::Hasher::new().update(pool.as_bytes()).update(&[0]).update(name.as_bytes()).finalize();
        let id = hash.as_bytes()[..5].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
        Self { id, name: name.clone(), weight: weight.max(1) }
    }
}

/// The members of a pool, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Members {
    list: Vec<Member>,
    positions: HashMap<u64, usize>,
    /// Where each member's share of the total weight ends; empty if all weigh the same.
    ends: Vec<u64>,
    total: u64,
}

impl Members {
    /// These members. Made when a pool changes, not for a request.
    pub fn new(list: Vec<Member>) -> Self {
        let positions = list.iter().enumerate().map(|(position, member)| (member.id, position)).collect();
        let mut total = 0;
        let mut ends: Vec<u64> = Vec::with_capacity(list.len());
        for member in &list {
            total += u64::from(member.weight);
            ends.push(total);
        }
        let alike = list.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        if alike {
            ends = Vec::new();
            total = list.len() as u64;
        }
        Self { list, positions, ends, total }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, by position.
    pub fn as_slice(&self) -> &[Member] {
        &self.list
    }

    /// Where the member with this id stands now.
    pub fn position(&self, id: u64) -> Option<usize> {
        self.positions.get(&id).copied()
    }

    /// Whether all have the same weight.
    pub fn are_alike(&self) -> bool {
        self.ends.is_empty()
    }

    /// The sum of the weights, as [`Members::at_weight`] counts them.
    pub fn total_weight(&self) -> u64 {
        self.total
    }

    /// The position of the member whose share of the total weight has `slot` in it.
    pub fn at_weight(&self, slot: u64) -> usize {
        match self.are_alike() {
            true => (slot % self.total.max(1)) as usize,
            false => self.ends.partition_point(|end| *end <= slot % self.total),
        }
    }

    /// What the member at `position` should have of all there is, of 1.
    pub fn share(&self, position: usize) -> f64 {
        match self.are_alike() {
            true => 1.0 / self.list.len().max(1) as f64,
            false => f64::from(self.list[position].weight) / self.total as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Members {
        let named = |(n, weight): (usize, &u32)| Member::new("pool", &format!("b{n}").into(), *weight);
        Members::new(weights.iter().enumerate().map(named).collect())
    }

    #[test]
    fn each_has_its_share_of_the_slots() {
        let members = members(&[3, 1, 2]);
        let slots: Vec<_> = (0..7).map(|slot| members.at_weight(slot)).collect();
        assert_eq!(slots, [0, 0, 0, 1, 2, 2, 0]);
        assert_eq!(members.share(2), 2.0 / 6.0);
    }

    #[test]
    fn the_same_weights_are_no_weights() {
        let members = members(&[7, 7]);
        assert_eq!((members.total_weight(), members.are_alike()), (2, true));
        assert_eq!([0, 1, 2].map(|slot| members.at_weight(slot)), [0, 1, 0]);
    }

    #[test]
    fn an_id_is_found_again_whatever_the_order() {
        let (one, other) = (Member::new("p", &"a".into(), 1), Member::new("p", &"b".into(), 1));
        let swapped = Members::new(vec![other.clone(), one.clone()]);
        assert_eq!((swapped.position(one.id), swapped.position(other.id)), (Some(1), Some(0)));
        assert_ne!(one.id, Member::new("q", &"a".into(), 1).id);
    }
}
