//! The words of a condition.

use super::ConditionError;

/// One word, and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A word: of the language, of a feature, or a list's name.
    Word(String),
    Text(String),
    Number(u64),
    /// A sign: `(`, `)`, `[`, `]`, `,`, or how to compare.
    Sign(&'static str),
    End,
}

/// Longer signs first, so that `<=` is not read as `<`.
const SIGNS: [&str; 11] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ","];

/// Longest condition, in bytes: what nobody could read anyway.
const LONGEST: usize = 4096;

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ConditionError> {
    let fault = |at, message: String| Err(ConditionError { at, message });
    if text.len() > LONGEST {
        return fault(0, format!("it has more than {LONGEST} bytes"));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, kind) = match first {
            _ if first.is_whitespace() => {
                at += first.len_utf8();
                continue;
            }
            '"' | '\'' => match rest[1..].find(first) {
                Some(end) => (end + 2, Kind::Text(rest[1..=end].to_owned())),
                None => return fault(at, "this text has no end".to_owned()),
            },
            '0'..='9' => number(rest)
                .ok_or_else(|| ConditionError { at, message: "this is no number; write 500, 8k or 1M".to_owned() })?,
            _ if first.is_alphabetic() => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && !"_-.".contains(c)).unwrap_or(rest.len());
                (length, Kind::Word(rest[..length].to_owned()))
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (sign.len(), Kind::Sign(sign)),
                None if first == '=' => return fault(at, "compare with ==".to_owned()),
                None if "&|!".contains(first) => return fault(at, "write and, or, not".to_owned()),
                None => return fault(at, format!("{first:?} means nothing here")),
            },
        };
        tokens.push(Token { at, kind });
        at += length;
    }
    tokens.push(Token { at, kind: Kind::End });
    Ok(tokens)
}

/// `500`, `8k`, `1M`.
fn number(rest: &str) -> Option<(usize, Kind)> {
    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let written = &rest[..length];
    let (digits, factor) = match written.as_bytes().last()? {
        b'k' => (&written[..length - 1], 1_000),
        b'M' => (&written[..length - 1], 1_000_000),
        _ => (written, 1),
    };
    let number = digits.replace('_', "").parse::<u64>().ok()?.checked_mul(factor)?;
    Some((length, Kind::Number(number)))
}
