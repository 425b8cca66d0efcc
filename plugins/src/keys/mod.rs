//! Keys that Tidegate gives out, and how any key is kept.
//!
//! A key of ours is `tg-`, 160 random bits and a checksum, in the digits of Crockford's base 32 (no `i`, `l`, `o`,
//! `u` to confuse, and all of it selected by a double click but the prefix). The checksum tells a typo from a key that
//! was revoked, and lets scanners recognise a leaked one. Files hold no key, only its hash: BLAKE3, keyed with what is
//! derived from the operator's pepper, so that a stolen file alone does not even confirm a guess.

mod managed;
mod mask;
mod metrics;
mod plain;
mod settings;

pub use managed::{Follow, ManagedKeys, Record, Secret, State};
pub use mask::{key_in, mask};
pub use metrics::{KEYS, KEYS_HELP, KeyMetrics};
pub(crate) use plain::{HELP as PLAIN_KEY_HELP, holds_key, plain_keys, without_value};
pub use settings::Key;
use std::fmt;

/// What every key of ours begins with.
pub const PREFIX: &str = "tg-";

const RANDOM_BYTES: usize = 20;
const RANDOM_DIGITS: usize = 32;
const CHECKSUM_DIGITS: usize = 7;
const KEY_LENGTH: usize = PREFIX.len() + RANDOM_DIGITS + CHECKSUM_DIGITS;
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const CONTEXT: &str = "tidegate 2025-11 api key hash v1";
const PEPPER_CONTEXT: &str = "tidegate 2026-11 which pepper v1";

/// A key just made. Its secret is shown once, to whoever is to use it; there is no `Debug` that could show it again.
pub struct NewKey {
    secret: String,
    sealed: Sealed,
}

/// What is kept of a key.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    /// Its hash.
    pub hash: KeyHash,
    /// With which pepper: tells whether it is the same, and nothing else.
    pub pepper: [u8; 8],
}

/// Hashes keys, ours and those brought from elsewhere (`sk-...`) alike.
#[derive(Clone)]
pub struct KeyHasher {
    key: [u8; 32],
    pepper: [u8; 8],
}

/// The hash of a key: 64 hexadecimal digits in a file. Compared in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(blake3::Hash);

impl KeyHasher {
    /// A hasher with the operator's pepper. Another pepper, another hash: whoever changes it has to hash anew.
    #[must_use]
    pub fn new(pepper: Option<&str>) -> Self {
        let pepper = pepper.unwrap_or_default().as_bytes();
        let [a, b, c, d, e, f, g, h, ..] = blake3::derive_key(PEPPER_CONTEXT, pepper);
        Self { key: blake3::derive_key(CONTEXT, pepper), pepper: [a, b, c, d, e, f, g, h] }
    }

    /// What tells this pepper from another.
    #[must_use]
    pub fn pepper(&self) -> [u8; 8] {
        self.pepper
    }

    /// What is kept of `secret`.
    #[must_use]
    pub fn seal(&self, secret: &str) -> Sealed {
        Sealed { hash: self.hash(secret), pepper: self.pepper }
    }

    /// The hash of `secret`, as it is.
    #[must_use]
    pub fn hash(&self, secret: &str) -> KeyHash {
        KeyHash(blake3::keyed_hash(&self.key, secret.as_bytes()))
    }

    /// A new key from the system's randomness.
    pub fn generate(&self) -> Result<NewKey, getrandom::Error> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random)?;
        let secret = key_of(&random);
        Ok(NewKey { sealed: self.seal(&secret), secret })
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

impl NewKey {
    /// The key itself, for its user.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Its hash, for the file.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        self.sealed.hash
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn sealed(&self) -> Sealed {
        self.sealed
    }
}

impl KeyHash {
    /// Reads 64 hexadecimal digits of either case.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(Self)
    }

    /// As a store keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// From what [`KeyHash::as_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// A name for `bytes` that is theirs alone, 64 hexadecimal digits. No way to hide a secret: it is not keyed.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// A name for a key that nobody has named: `key-` and 50 random bits.
///
/// # Errors
/// If the system has no randomness.
pub fn new_id() -> Result<String, getrandom::Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    Ok(digits::<10>(u64::from_le_bytes(random))
        .iter()
        .fold("key-".to_owned(), |id, digit| id + &char::from(*digit).to_string()))
}

/// Whether a key claims to be one of ours, so that [`checksum_ok`] applies to it.
#[must_use]
pub fn looks_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Whether a key of ours is spelt right. Costs the same for any key, right or wrong.
#[must_use]
pub fn checksum_ok(key: &str) -> bool {
    let Some((body, checksum)) = key.split_at_checked(PREFIX.len() + RANDOM_DIGITS) else { return false };
    key.len() == KEY_LENGTH && looks_ours(key) && checksum.as_bytes() == checksum_of(body)
}

fn key_of(random: &[u8; RANDOM_BYTES]) -> String {
    let mut key = String::with_capacity(KEY_LENGTH);
    key.push_str(PREFIX);
    // Five bytes make eight digits.
    for five in random.chunks_exact(5) {
        let bits = five.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        key.extend(digits::<8>(bits).map(char::from));
    }
    key.extend(checksum_of(&key).map(char::from));
    key
}

fn checksum_of(body: &str) -> [u8; CHECKSUM_DIGITS] {
    digits(u64::from(crc32fast::hash(body.as_bytes())))
}

/// The last `N` digits of a number, the highest first.
fn digits<const N: usize>(number: u64) -> [u8; N] {
    std::array::from_fn(|place| DIGITS[(number >> (5 * (N - 1 - place)) & 31) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_ours_and_its_hash_is_in_the_file() {
        let hasher = KeyHasher::new(Some("pepper"));
        let key = hasher.generate().unwrap();
        assert!(looks_ours(key.secret()) && checksum_ok(key.secret()), "{}", key.secret());
        assert_eq!(key.secret().len(), KEY_LENGTH);
        assert_eq!(KeyHash::from_hex(&key.hash().to_string()), Some(hasher.hash(key.secret())));
        assert_ne!(key.secret(), hasher.generate().unwrap().secret());
    }

    #[test]
    fn the_form_of_a_key_stays() {
        let key = key_of(&std::array::from_fn(|byte| byte as u8 * 13));
        assert_eq!(key, "tg-006hm9sm8575pt3nga7ssadprf8dvtqq1nbdgr1");
        let hash = KeyHasher::new(None).hash(&key).to_string();
        assert_eq!(hash, "233fe0fbbce05ed43eea86eb0f11d068b9dd84b61f99495e63a369b5c797ceb9");
    }

    #[test]
    fn every_typo_of_one_digit_is_seen() {
        let key = key_of(&[7; RANDOM_BYTES]);
        for place in 0..key.len() {
            for digit in DIGITS.iter().filter(|digit| **digit != key.as_bytes()[place]) {
                let mut typo = key.clone().into_bytes();
                typo[place] = *digit;
                assert!(!checksum_ok(std::str::from_utf8(&typo).unwrap()));
            }
        }
    }

    #[test]
    fn what_has_another_form_is_not_ours() {
        let key = key_of(&[7; RANDOM_BYTES]);
        let longer = format!("{key}0");
        for other in ["", "tg-", "sk-abc", &key[..key.len() - 1], &longer, &key.to_uppercase(), &"é".repeat(21)] {
            assert!(!checksum_ok(other), "{other}");
        }
    }

    #[test]
    fn the_pepper_changes_the_hash_and_is_not_printed() {
        assert_ne!(KeyHasher::new(None).hash("sk-1"), KeyHasher::new(Some("p")).hash("sk-1"));
        assert_ne!(KeyHasher::new(None).hash("sk-1"), KeyHasher::new(None).hash("sk-2"));
        assert_eq!(format!("{:?}", KeyHasher::new(Some("p"))), "KeyHasher");
    }
}
