//! What is taken out of records: in every text of a body, and in numbers that look like it.

use crate::filter::SettingsError;
use regex::{Captures, Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// The most memory that a pattern may compile to.
const LARGEST: usize = 1 << 20;

/// What is taken out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Rule {
    /// Something that is known by name.
    Known(Known),
    /// A pattern of one's own.
    Pattern(Pattern),
}

/// What is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Keys of this gateway, of common providers, and what stands behind `Bearer`.
    Key,
    /// Addresses of mail.
    Email,
    /// Numbers of cards whose last digit is right.
    Card,
    /// International bank account numbers whose check digits are right.
    Iban,
}

/// A pattern of one's own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// A regular expression, as the Rust crate `regex` reads it: it takes time in proportion to the text.
    pub pattern: String,
    /// What stands there instead; `$1` for its first group.
    #[serde(default = "redacted")]
    pub with: String,
}

fn redacted() -> String {
    "[redacted]".to_owned()
}

/// All that is taken out.
#[derive(Debug, Default)]
pub(super) struct Redactor(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    pattern: Regex,
    with: String,
    holds: Option<Check>,
}

type Check = fn(&str) -> bool;

impl Redactor {
    /// Of these rules.
    ///
    /// # Errors
    /// Patterns that are none.
    pub(super) fn new(rules: &[Rule]) -> Result<Self, Vec<SettingsError>> {
        let (mut compiled, mut faults) = (Vec::new(), Vec::new());
        for (at, rule) in rules.iter().enumerate() {
            let (pattern, with, holds) = match rule {
                Rule::Known(known) => known.rule(),
                Rule::Pattern(own) => (own.pattern.as_str(), own.with.as_str(), None),
            };
            match RegexBuilder::new(pattern).size_limit(LARGEST).build() {
                Ok(pattern) => compiled.push(Compiled { pattern, with: with.to_owned(), holds }),
                Err(error) => faults.push(SettingsError::at(format!("redact[{at}].pattern"), error.to_string())),
            }
        }
        if faults.is_empty() { Ok(Self(compiled)) } else { Err(faults) }
    }

    /// The text without it.
    pub(super) fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, rule| match rule.apply(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(changed) => Cow::Owned(changed),
        })
    }

    /// Takes it out of every text, name and number in `value`.
    pub(super) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(changed) = self.text(text) {
                    *text = changed;
                }
            }
            Value::Number(number) => {
                let written = number.to_string();
                if let Cow::Owned(changed) = self.text(&written) {
                    *value = Value::String(changed);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.value(member));
                let named = |name: &&String| matches!(self.text(name), Cow::Owned(_));
                let renamed: Vec<String> = members.keys().filter(named).cloned().collect();
                for name in renamed {
                    if let Some(member) = members.remove(&name) {
                        members.insert(self.text(&name).into_owned(), member);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

impl Compiled {
    fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(holds) = self.holds else { return self.pattern.replace_all(text, self.with.as_str()) };
        let mut any = false;
        let changed = self.pattern.replace_all(text, |found: &Captures<'_>| {
            let hit = holds(&found[0]);
            any |= hit;
            if hit { self.with.clone() } else { found[0].to_owned() }
        });
        if any { changed } else { Cow::Borrowed(text) }
    }
}

impl Known {
    /// Its pattern, what stands in its place, and what tells it from what only looks like it.
    fn rule(self) -> (&'static str, &'static str, Option<Check>) {
        match self {
            Self::Key => (
                r"(?i)\b(?:tg-[a-z0-9]{20,}|sk-[a-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|gh[pousr]_[a-z0-9]{30,}|hf_[a-z0-9]{20,}|xox[abp]-[a-z0-9-]{10,}|AIza[a-z0-9_-]{30,}|(?-i:eyJ)[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}\.[a-z0-9_-]+)|\bbearer\s+[a-z0-9._~+/=-]{12,}",
                "[key]",
                None,
            ),
            Self::Email => (r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)+", "[email]", None),
            Self::Card => (r"\b[0-9](?:[ -]?[0-9]){12,18}\b", "[card]", Some(is_card)),
            Self::Iban => (
                r"(?i)\b[a-z]{2}[0-9]{2}(?:[a-z0-9]{11,30}|(?: [a-z0-9]{4}){2,7}(?: [a-z0-9]{1,3})?)\b",
                "[iban]",
                Some(is_iban),
            ),
        }
    }
}

/// ISO/IEC 7812: the last digit is right (Luhn).
fn is_card(text: &str) -> bool {
    let digits = text.bytes().rev().filter(u8::is_ascii_digit).map(|digit| u32::from(digit - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match at % 2 {
            0 => digit,
            _ => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO 13616: the remainder of 97 is 1.
fn is_iban(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let rotated = plain[4..].iter().chain(&plain[..4]);
    let remainder = rotated.fold(0_u32, |sum, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        letter => (sum * 100 + u32::from(letter.to_ascii_uppercase() - b'A') + 10) % 97,
    });
    remainder == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redactor(rules: Value) -> Redactor {
        Redactor::new(&serde_json::from_value::<Vec<Rule>>(rules).unwrap()).ok().unwrap()
    }

    #[test]
    fn what_is_known_by_name_goes_and_what_only_looks_like_it_stays() {
        let all = redactor(json!(["key", "email", "card", "iban"]));
        for (text, left) in [
            ("mail ann.b+c@example.co.uk now", "mail [email] now"),
            ("mail bob@b\u{fc}cher.de, \u{e9}va@\u{65e5}\u{672c}.example.", "mail [email], [email]."),
            ("card 4111 1111 1111 1111.", "card [card]."),
            ("card 4111-1111-1111-1112.", "card 4111-1111-1111-1112."),
            ("to DE89 3704 0044 0532 0130 00 and back", "to [iban] and back"),
            ("DE89370400440532013000", "[iban]"),
            ("to DE89370400440532013001", "to DE89370400440532013001"),
            ("Authorization: Bearer abcdefghijklmnop", "Authorization: [key]"),
            ("tg-abcdefghijklmnopqrstuvwx and sk-proj-0123456789abcdef", "[key] and [key]"),
            ("task-force desk-work 2026-11-21", "task-force desk-work 2026-11-21"),
        ] {
            assert_eq!(all.text(text), left);
        }
    }

    #[test]
    fn every_text_name_and_number_of_a_body_is_searched_however_it_is_escaped() {
        let all = redactor(json!(["email", "card", { "pattern": "project (\\w+)", "with": "project x$1" }]));
        let mut body: Value = serde_json::from_str(
            r#"{"a":["ann\u0040example.com",{"ann@example.com":4111111111111111}],"b":"project tide","c":[1.5,true,null]}"#,
        )
        .unwrap();
        all.value(&mut body);
        assert_eq!(
            body,
            json!({ "a": ["[email]", { "[email]": "[card]" }], "b": "project xtide", "c": [1.5, true, null] })
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_a_fault_at_its_place() {
        let rules: Vec<Rule> = serde_json::from_value(json!(["email", { "pattern": "(" }])).unwrap();
        assert_eq!(Redactor::new(&rules).err().unwrap()[0].path, "redact[1].pattern");
    }
}
