//! When two requests are the same: a keyed hash over everything that can change the answer.
//!
//! That is who asks, as far as answers may be shared; where the answer comes from, down to the revision of the model; the
//! path, its query, and the headers that change what is answered; and every field of the body, known or not, but for
//! those in [`fields`]. The hash is BLAKE3 under a secret of the gateway's own, 256 bits of it: nobody can aim at another's
//! entry, nor tell from a key what was asked.

mod canonical;
mod fields;
#[cfg(test)]
mod tests;

use crate::exchange::{Answerer, Caller, Exchange};
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

use canonical::write_outlined;
pub use canonical::{Sink, write as write_canonical};
pub use fields::{is_moot, telling_headers};

/// A request, as what it asks for. Equal for equal requests, and for no others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub [u8; 32]);

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: every request that is looked up has its key in the log.
        const PAIRS: [[u8; 2]; 256] = {
            let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
            while byte < 256 {
                pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
                byte += 1;
            }
            pairs
        };
        let text = self.0.map(|byte| PAIRS[usize::from(byte)]);
        let text = text.as_flattened();
        f.pad(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Among whom answers are shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// An organisation; where a caller has none, its key, and where it has none either, its user.
    #[default]
    Org,
    /// A key.
    Key,
    /// A user; where a caller has none, its key.
    User,
    /// Everybody, strangers included.
    Global,
}

/// Whose a stored answer is: never wider than what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tenant<'a> {
    /// An organisation.
    Org(&'a str),
    /// A key.
    Key(&'a str),
    /// A user.
    User(&'a str),
    /// Everybody.
    Everybody,
}

impl Scope {
    /// Whose the answer to `caller` would be. None for somebody who cannot be told from others: two strangers may be two
    /// tenants, so nothing is kept for either.
    pub fn tenant(self, caller: Option<&Caller>) -> Option<Tenant<'_>> {
        if self == Self::Global {
            return Some(Tenant::Everybody);
        }
        let caller = caller?;
        let key = || caller.key.as_deref().map(Tenant::Key);
        let user = || caller.user.as_deref().map(Tenant::User);
        match self {
            Self::Org => caller.org.as_deref().map(Tenant::Org).or_else(key).or_else(user),
            Self::Key => key(),
            Self::User => user().or_else(key),
            Self::Global => None,
        }
    }
}

impl<'a> Tenant<'a> {
    /// The kind of tenant it is, and its name.
    pub fn parts(self) -> (&'static str, &'a str) {
        match self {
            Self::Org(name) => ("org", name),
            Self::Key(name) => ("key", name),
            Self::User(name) => ("user", name),
            Self::Everybody => ("everybody", ""),
        }
    }
}

/// Makes keys.
#[derive(Clone)]
pub struct KeyMaker {
    secret: [u8; 32],
    headers: Vec<HeaderName>,
}

/// Changes when what is hashed does, so that keys of another version of the gateway are no keys here.
const VERSION: &str = "tidegate 2026-11-22 cache key";

impl KeyMaker {
    /// With a secret: the same secret makes the same keys, in another process too. `vary` names headers that change the
    /// answer, beside those that always do.
    pub fn new(secret: &[u8], vary: &[HeaderName]) -> Self {
        let mut headers: Vec<HeaderName> = telling_headers().into_iter().chain(vary.iter().cloned()).collect();
        headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        Self { secret: blake3::derive_key(VERSION, secret), headers }
    }

    /// With a secret that nobody else has, for as long as this lives.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random(vary: &[HeaderName]) -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self::new(&secret, vary))
    }

    /// The key of a request whose answer comes from `answerer` and is `tenant`'s. None if its body is no call.
    pub fn key(&self, exchange: &Exchange, answerer: &Answerer, tenant: Tenant<'_>) -> Option<CacheKey> {
        let mut hash = self.request(exchange, answerer, tenant);
        let endpoint = exchange.endpoint();
        exchange.call()?;
        write_body(exchange, &|name| is_moot(endpoint, name), &mut hash).then(|| hash.finish())
    }

    /// The key of one input of a request that has several: of everything but `input`, and of the input that begins at
    /// `start` of the body. `moot` says which other members do not matter for it.
    pub fn item_key(&self, shared: &CacheKey, body: &[u8], start: usize) -> Option<CacheKey> {
        let mut hash = Hash::new(&self.secret, body.len());
        hash.field(b"item");
        hash.field(&shared.0);
        write_canonical(body, start, &|_| false, &mut hash).then(|| hash.finish())
    }

    /// The key of what several inputs of a request share: of everything but the topmost members that `apart` names.
    pub fn shared_key(
        &self,
        exchange: &Exchange,
        answerer: &Answerer,
        tenant: Tenant<'_>,
        apart: &[&str],
    ) -> Option<CacheKey> {
        let mut hash = self.request(exchange, answerer, tenant);
        hash.field(b"shared");
        let endpoint = exchange.endpoint();
        let leave_out = |name: &str| is_moot(endpoint, name) || apart.contains(&name);
        write_body(exchange, &leave_out, &mut hash).then(|| hash.finish())
    }

    /// Everything but the body.
    fn request(&self, exchange: &Exchange, answerer: &Answerer, tenant: Tenant<'_>) -> Hash {
        let mut hash = Hash::new(&self.secret, exchange.body().len());
        let (kind, name) = tenant.parts();
        let head = exchange.head();
        hash.field(kind.as_bytes());
        hash.field(name.as_bytes());
        hash.field(head.path.as_bytes());
        hash.field(head.query.as_deref().unwrap_or_default().as_bytes());
        hash.field(exchange.model().map(|model| model.as_bytes()).unwrap_or_default());
        hash.field(answerer.pool.as_bytes());
        hash.field(answerer.model.as_bytes());
        hash.field(&answerer.revision.to_le_bytes());
        for name in &self.headers {
            for value in head.headers.get_all(name) {
                hash.field(name.as_str().as_bytes());
                hash.field(value.as_bytes());
            }
        }
        hash.field(b"body");
        hash
    }
}

fn write_body(exchange: &Exchange, leave_out: &dyn Fn(&str) -> bool, hash: &mut Hash) -> bool {
    match exchange.outline() {
        Some(outline) => write_outlined(exchange.body(), 0, outline, leave_out, hash),
        None => write_canonical(exchange.body(), 0, leave_out, hash),
    }
}

/// Gathers small pieces: the hash function takes many kibibytes at once at a fifth of what they cost one by one.
struct Hash {
    hasher: blake3::Hasher,
    held: Vec<u8>,
}

/// Bytes that are gathered at most.
const HELD: usize = 16 << 10;

/// What a request says beside its body, about.
const BESIDE: usize = 512;

impl Hash {
    /// Of a request whose body is about so long.
    fn new(secret: &[u8; 32], length: usize) -> Self {
        let held = Vec::with_capacity(HELD.min(length + BESIDE));
        Self { hasher: blake3::Hasher::new_keyed(secret), held }
    }

    /// A field, with its length, so that no two rows of fields read the same.
    fn field(&mut self, field: &[u8]) {
        self.put(&(field.len() as u64).to_le_bytes());
        self.put(field);
    }

    fn finish(mut self) -> CacheKey {
        self.hasher.update(&self.held);
        CacheKey(*self.hasher.finalize().as_bytes())
    }

    fn put_apart(&mut self, mut piece: &[u8]) {
        // Always so many at once: the hash function is quickest where its own pieces begin.
        while self.held.len() + piece.len() > HELD {
            let (fits, rest) = piece.split_at(HELD - self.held.len());
            self.held.extend_from_slice(fits);
            self.flush();
            piece = rest;
        }
        self.held.extend_from_slice(piece);
    }

    fn flush(&mut self) {
        self.hasher.update(&self.held);
        self.held.clear();
    }
}

impl Sink for Hash {
    #[inline]
    fn put(&mut self, piece: &[u8]) {
        if piece.len() <= HELD - self.held.len() {
            return self.held.extend_from_slice(piece);
        }
        self.put_apart(piece);
    }

    #[inline]
    fn put_byte(&mut self, byte: u8) {
        if self.held.len() == HELD {
            self.flush();
        }
        self.held.push(byte);
    }
}
