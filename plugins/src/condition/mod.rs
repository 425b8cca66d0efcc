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
//!            | "class" "(" string ")" ( ( "==" | "!=" ) string | [ "not" ] "in" list )
//!            | number ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) digits
//! list       = "[" string { "," string } "]" | the name of a list in the file
//! ```

mod features;
mod lex;
mod read;
#[cfg(test)]
mod tests;

use crate::classify::{Classifier, Classifiers};
use crate::exchange::Exchange;
use crate::tenants::Tenants;
use features::Features;
pub use features::{Flag, Number, Text};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

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
    /// What gives requests a class.
    pub classifiers: &'a Classifiers,
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
    /// The class that a classifier gives it is one of these.
    Class(Arc<Classifier>, Vec<String>),
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

    /// Whether `exchange` is meant. Looks at the body only as far as the condition asks about it, and asks a classifier
    /// only if nothing else decides.
    pub async fn holds(&self, exchange: &mut Exchange) -> bool {
        loop {
            let classifier = match self.judge(exchange) {
                Ok(holds) => return holds,
                Err(classifier) => classifier,
            };
            let class = classifier.classify(exchange).await;
            exchange.classify(classifier.name.clone(), class);
        }
    }

    /// Whether `exchange` is meant, as far as that can be said now.
    ///
    /// # Errors
    /// The classifier that has to be asked before.
    pub fn judge(&self, exchange: &Exchange) -> Result<bool, &Arc<Classifier>> {
        self.0.judge(&Features::of(exchange))
    }
}

impl Node {
    fn judge(&self, of: &Features<'_>) -> Result<bool, &Arc<Classifier>> {
        match self {
            Self::Any(nodes) => decided(nodes, of, true),
            Self::All(nodes) => decided(nodes, of, false),
            Self::Not(node) => node.judge(of).map(|holds| !holds),
            Self::Flag(flag) => Ok(of.flag(*flag)),
            Self::Switch(name) => Ok(of.switch(name)),
            Self::Compare(number, order, limit) => Ok(order.holds(of.number(*number), *limit)),
            Self::Is(text, any) => Ok(of.text(text).is_some_and(|text| any.iter().any(|one| *one == text))),
            Self::Like(text, pattern) => Ok(of.text(text).is_some_and(|text| like(&text, pattern))),
            Self::Class(classifier, any) => {
                let class = of.class(&classifier.name).ok_or(classifier)?;
                Ok(any.iter().any(|one| **one == **class))
            }
        }
    }
}

/// Whether one of them is `what`, which decides over all, or none is. A classifier is asked only where the others leave it
/// open, wherever it stands among them.
fn decided<'a>(nodes: &'a [Node], of: &Features<'_>, what: bool) -> Result<bool, &'a Arc<Classifier>> {
    let mut open = None;
    for node in nodes {
        match node.judge(of) {
            Ok(holds) if holds == what => return Ok(what),
            Ok(_) => {}
            Err(classifier) => open = open.or(Some(classifier)),
        }
    }
    open.map_or(Ok(!what), Err)
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
