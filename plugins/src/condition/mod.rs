//! Conditions over a request, as files write them: `has_tools or prompt_tokens > 8k and org in ["acme", "globex"]`.
//!
//! Typed, so that a comparison that cannot be meant is found when the file is read and not when a request comes: a
//! [`Condition`] that was read can be asked, and says yes or no. What a request does not have (a user, a header) equals
//! nothing, is in no list, and is like no pattern.
//!
//! ```text
//! condition  = and { "or" and }
//! and        = not { "and" not }
//! not        = [ "not" ] ( "(" condition ")" | comparison )
//! comparison = flag | "flag" "(" string ")" | text ( "==" | "!=" ) string | text [ "not" ] "in" list | text [ "not" ] "like" string
//!            | number ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) digits
//! list       = "[" string { "," string } "]" | the name of a list in the file
//! ```

mod features;
mod lex;
mod read;
#[cfg(test)]
mod tests;

use crate::exchange::Exchange;
use crate::tenants::Tenants;
use features::Features;
pub use features::{Flag, Number, Text};
use std::collections::HashMap;
use std::fmt;

/// What a file says of which requests are meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(Node);

/// Named lists of names, that conditions can refer to.
pub type Lists = HashMap<String, Vec<String>>;

/// What conditions can refer to besides what they say themselves.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Named lists.
    pub lists: &'a Lists,
    /// Who there is, and so which flags anybody has.
    pub tenants: Option<&'a Tenants>,
}

/// Why a condition cannot be meant: where in it, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionError {
    /// The byte of the text.
    pub at: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at + 1, self.message)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Flag(Flag),
    /// A feature that is on or off for the caller.
    Switch(String),
    Compare(Number, Order, u64),
    Is(Text, Vec<String>),
    Like(Text, String),
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Condition {
    /// Reads a condition; `terms` are what it may name.
    ///
    /// # Errors
    /// The first thing that cannot be meant, with its place.
    pub fn read(text: &str, terms: Terms<'_>) -> Result<Self, ConditionError> {
        read::read(text, terms).map(Self)
    }

    /// Whether `exchange` is meant. Looks at the body only as far as the condition asks about it.
    pub fn holds(&self, exchange: &Exchange) -> bool {
        self.0.holds(&Features::of(exchange))
    }
}

impl Node {
    fn holds(&self, of: &Features<'_>) -> bool {
        match self {
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(of)),
            Self::All(nodes) => nodes.iter().all(|node| node.holds(of)),
            Self::Not(node) => !node.holds(of),
            Self::Flag(flag) => of.flag(*flag),
            Self::Switch(name) => of.switch(name),
            Self::Compare(number, order, limit) => order.holds(of.number(*number), *limit),
            Self::Is(text, any) => of.text(text).is_some_and(|text| any.iter().any(|one| *one == text)),
            Self::Like(text, pattern) => of.text(text).is_some_and(|text| like(&text, pattern)),
        }
    }
}

/// Whether `text` is like `pattern`, in which a `*` stands for any number of any characters.
fn like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}
