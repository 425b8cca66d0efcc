//! Keys of maps that are hashes already, of what nobody can choose: to hash them again would be for nothing.

use std::hash::{BuildHasherDefault, Hasher};

/// Takes a key's first eight bytes, or the number it gives, for its hash.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

/// For a map of such keys.
pub(crate) type BuildHashed = BuildHasherDefault<Hashed>;

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    // How long an array is comes before it: what is written last counts.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(beginning) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*beginning);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hash;

    fn hash(key: impl Hash) -> u64 {
        let mut hasher = Hashed::default();
        key.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn a_key_is_its_own_hash() {
        assert_eq!(hash(7_u64), 7);
        assert_eq!(hash([1_u8; 32]), u64::from_le_bytes([1; 8]));
        assert_ne!(hash([1_u8; 32]), hash([2_u8; 32]));
    }
}
