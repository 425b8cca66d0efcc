//! The form of a token: three parts in base 64, of which the first says how it is signed (RFC 7515, the compact form).

use super::key::{Algorithm, LONGEST_ID};
use super::reason::Reason;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The longest token that is looked at, in bytes.
pub(super) const LONGEST: usize = 16 << 10;

/// A token taken apart; nothing about it has been verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// How it says it is signed.
    pub(super) algorithm: Algorithm,
    /// With which key.
    pub(super) key: Option<String>,
    /// What is signed.
    signed: &'a [u8],
    payload: &'a str,
    signature: &'a str,
}

/// What is read of the first part. Keys and certificates in it, and URLs of them, are what the bearer brings along: they
/// are not looked at. A field that is there twice is an error.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    crit: Option<&'a RawValue>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn read(text: &'a str) -> Result<Self, Reason> {
        if text.len() > LONGEST {
            return Err(Reason::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (head, payload) = signed.split_once('.').ok_or(Reason::Malformed)?;
        let head = decoded(head)?;
        let head: Head<'_> = serde_json::from_slice(&head).map_err(|_| Reason::Malformed)?;
        if head.crit.is_some() {
            return Err(Reason::Critical);
        }
        let algorithm = Algorithm::named(&head.alg).ok_or(Reason::Algorithm)?;
        if head.kid.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
            return Err(Reason::UnknownKey);
        }
        let key = head.kid.map(Cow::into_owned);
        Ok(Self { algorithm, key, signed: signed.as_bytes(), payload, signature })
    }

    /// What is signed, and the signature.
    pub(super) fn signature(&self) -> Result<(&'a [u8], Vec<u8>), Reason> {
        Ok((self.signed, decoded(self.signature)?))
    }

    /// What it claims.
    pub(super) fn claims(&self) -> Result<Value, Reason> {
        let payload = decoded(self.payload)?;
        let claims: Value = serde_json::from_slice(&payload).map_err(|_| Reason::Malformed)?;
        if claims.is_object() { Ok(claims) } else { Err(Reason::Malformed) }
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed)
}
