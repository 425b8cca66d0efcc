//! Keys that tokens are signed with. Each is bound to one algorithm by what it is, not by what a token says: a public
//! RSA key can never be taken for the secret of an HMAC.

use super::reason::Reason;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use ring::{hmac, signature};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The most keys that are taken from one set.
const MOST_KEYS: usize = 64;

/// The longest name of a key, in bytes.
pub(super) const LONGEST_ID: usize = 256;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSA with SHA-256, keys of 2048 bits or more.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// HMAC with SHA-256, by a secret that both sides know.
    HS256,
}

impl Algorithm {
    /// As `alg` names it. Nothing else exists here, `none` least of all.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::RS256,
            "ES256" => Self::ES256,
            "EdDSA" | "Ed25519" => Self::EdDSA,
            "HS256" => Self::HS256,
            _ => return None,
        })
    }
}

/// A key and what it is for.
pub(super) struct Key {
    id: Option<Box<str>>,
    material: Material,
}

enum Material {
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
    P256(Box<[u8]>),
    Ed25519(Box<[u8]>),
    Secret(hmac::Key),
}

impl Key {
    /// The secret that is shared with an issuer.
    pub(super) fn secret(secret: &str) -> Self {
        Self { id: None, material: Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())) }
    }

    /// The one algorithm it is for.
    pub(super) fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::RS256,
            Material::P256(_) => Algorithm::ES256,
            Material::Ed25519(_) => Algorithm::EdDSA,
            Material::Secret(_) => Algorithm::HS256,
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Reason> {
        let plain = |algorithm, key| signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature);
        let verified = match &self.material {
            Material::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: &**modulus, e: &**exponent }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            Material::P256(point) => plain(&ECDSA_P256_SHA256_FIXED, point),
            Material::Ed25519(key) => plain(&ED25519, key),
            Material::Secret(secret) => hmac::verify(secret, message, signature),
        };
        verified.map_err(|_| Reason::Signature)
    }
}

/// The public keys of an issuer.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Reads a JWK set (RFC 7517). Keys that are not for signatures of ours are left out, secrets among them: those
    /// come from the configuration alone.
    ///
    /// # Errors
    /// If it is no such set, or no key is left.
    pub(super) fn read(set: &Value) -> Result<Self, String> {
        let keys = set["keys"].as_array().ok_or("this is not a JWK set: there is no list `keys`")?;
        if keys.len() > MOST_KEYS {
            return Err(format!("{} keys are more than the {MOST_KEYS} that are taken", keys.len()));
        }
        let keys: Vec<Key> = keys.iter().filter_map(public_key).collect();
        if keys.is_empty() { Err("there is no key for RS256, ES256 or EdDSA in it".to_owned()) } else { Ok(Self(keys)) }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that a token says it is signed with. One that names none is taken if there is only one for its algorithm.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&Key> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm() == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }
}

/// The points of small order on Ed25519's curve, in every encoding, the sign left out. A key that is one of them is
/// nobody's: signatures by it can be made without any secret, and verifiers take them.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    first_and_rest(1, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    first_and_rest(0xec, 0xff, 0x7f),
    first_and_rest(0xed, 0xff, 0x7f),
    first_and_rest(0xee, 0xff, 0x7f),
];

const fn first_and_rest(first: u8, rest: u8, last: u8) -> [u8; 32] {
    let mut bytes = [rest; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

fn is_weak(point: &[u8]) -> bool {
    SMALL_ORDER.iter().any(|weak| weak[..31] == point[..31] && weak[31] == point[31] & 0x7f)
}

fn public_key(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk[name].as_str();
    let id = match text("kid") {
        Some(id) if id.len() > LONGEST_ID => return None,
        id => id.map(Into::into),
    };
    let for_signatures = text("use").is_none_or(|usage| usage == "sig");
    let verifies = jwk["key_ops"].as_array().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !for_signatures || !verifies {
        return None;
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let material = match (text("kty")?, text("crv")) {
        ("RSA", None) => {
            let whole = |name: &str| {
                let bytes = bytes(name)?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                Some(Box::<[u8]>::from(&bytes[zeros..]))
            };
            let (modulus, exponent) = (whole("n")?, whole("e")?);
            // 2048 to 8192 bits, and an exponent that ring takes.
            if !(256..=1024).contains(&modulus.len()) || exponent.is_empty() || exponent.len() > 4 {
                return None;
            }
            Material::Rsa { modulus, exponent }
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            Material::P256([&[4][..], &x, &y].concat().into())
        }
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32 && !is_weak(x))?.into()),
        _ => return None,
    };
    let key = Key { id, material };
    // A key that is for another algorithm of its kind (RS512, PS256) is not for ours.
    let meant = jwk.get("alg").is_none_or(|alg| alg.as_str().and_then(Algorithm::named) == Some(key.algorithm()));
    meant.then_some(key)
}
