//! The lines of a file as they may be shown: with every secret in them as `***`.
//!
//! What stands under a secret's name in the tree is masked where it stands, whatever its form; besides, each line is
//! read on its own for `key: value`, because a file that is not YAML has no tree and gets shown all the same.

use crate::secret::{MASK, is_secret, is_secret_name, keys_in};
use crate::tree::{Content, Node, Origin, Resolved, Span};

/// Longer runs of letters and digits than this are masked where there is no tree to tell what they are.
const LONGEST_WORD: usize = 24;

#[derive(Clone, Debug)]
pub(crate) struct MaskedLines(Vec<Line>);

#[derive(Clone, Debug)]
struct Line {
    text: Vec<char>,
    /// Character ranges to mask, in order, not overlapping.
    masked: Vec<(usize, usize)>,
}

impl MaskedLines {
    pub(crate) fn new(text: &str, root: Option<&Node>) -> Self {
        let mut lines: Vec<Line> = text
            .lines()
            .map(|line| {
                let text: Vec<char> = line.chars().collect();
                let masked = secrets_of_line(&text, root.is_none());
                Line { text, masked }
            })
            .collect();
        if let Some(root) = root {
            each_scalar(root, &mut |span, secret| {
                if !secret {
                    unmask_span(span, &mut lines);
                }
            });
            // Afterwards, because an alias may use the same text as a secret and as something else.
            each_scalar(root, &mut |span, secret| {
                if secret {
                    mask_span(span, &mut lines);
                }
            });
        }
        for line in &mut lines {
            // Wherever they stand, and under whatever name.
            line.masked.extend(keys_in(&line.text));
            merge(&mut line.masked);
        }
        Self(lines)
    }

    /// The line of `span` masked, the column of its start in that, and how many characters of it are meant.
    pub(crate) fn show(&self, span: Span) -> (String, usize, usize) {
        let (line, column) = span.start;
        let Some(shown @ Line { text, masked }) = self.0.get(line - 1) else { return (String::new(), 1, 1) };
        let end = if span.end.0 == line { shown.end_of(span.end.1 - 1) } else { text.len() };
        let mut shown = String::new();
        let mut caret = None;
        let mut until = None;
        let mut at = 0;
        while at <= text.len() {
            if at >= column - 1 {
                caret.get_or_insert(shown.chars().count());
            }
            if at >= end {
                until.get_or_insert(shown.chars().count());
            }
            match masked.iter().find(|(start, _)| *start == at) {
                Some((_, end)) => {
                    shown.push_str(MASK);
                    at = *end;
                }
                None => {
                    // A tab or a control character would move the caret, or the terminal.
                    shown.extend(text.get(at).map(|c| if c.is_control() { ' ' } else { *c }));
                    at += 1;
                }
            }
        }
        let length = shown.chars().count();
        let caret = caret.unwrap_or(length);
        (shown, caret + 1, until.unwrap_or(length).saturating_sub(caret).max(1))
    }
}

impl Line {
    /// The end of what ends before `end`: the parser counts the space behind a scalar in a flow as a part of it.
    fn end_of(&self, end: usize) -> usize {
        let end = end.min(self.text.len());
        end - self.text[..end].iter().rev().take_while(|c| c.is_whitespace()).count()
    }
}

/// Calls `with` for every scalar of the file and whether it is a secret: one that only refers to it, `${env:KEY}`, is
/// not.
fn each_scalar(node: &Node, with: &mut dyn FnMut(Span, bool)) {
    match (&node.content, &node.origin) {
        (Content::Table(entries), _) => entries.iter().for_each(|(_, value)| each_scalar(value, with)),
        (Content::List(items), _) => items.iter().for_each(|item| each_scalar(item, with)),
        (Content::Scalar(scalar), Origin::File(span)) => {
            let says_nothing = scalar.resolve() == Resolved::Nothing;
            let refers = refers(scalar.written.as_ref().unwrap_or(&scalar.text));
            with(*span, is_secret(&node.path) && !refers && !says_nothing);
        }
        (Content::Scalar(_) | Content::Gone, _) => {}
    }
}

/// What a line read on its own takes for a secret, and the tree knows better.
fn unmask_span(span: Span, lines: &mut [Line]) {
    let Some(line) = lines.get_mut(span.start.0 - 1) else { return };
    // They are in order still: a file may be one long line.
    if let Ok(at) = line.masked.binary_search_by_key(&(span.start.1 - 1), |(start, _)| *start) {
        line.masked.remove(at);
    }
}

fn mask_span(span: Span, lines: &mut [Line]) {
    for number in span.start.0..=span.end.0 {
        let Some(line) = lines.get_mut(number - 1) else { continue };
        let start = if number == span.start.0 { span.start.1 - 1 } else { 0 };
        let end = if number == span.end.0 { line.end_of(span.end.1 - 1) } else { line.text.len() };
        if start < end {
            line.masked.push((start, end));
        }
    }
}

/// What may be a secret in a line read on its own.
fn secrets_of_line(line: &[char], no_tree: bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut at = 0;
    while at < line.len() {
        if !is_word(line[at]) {
            at += 1;
            continue;
        }
        let start = at;
        at += line[at..].iter().take_while(|c| is_word(**c)).count();
        let word: String = line[start..at].iter().collect();
        if no_tree && at - start > LONGEST_WORD {
            found.push((start, at));
        }
        let after = line[at..].iter().find(|c| !matches!(c, '"' | '\'' | ' '));
        if after == Some(&':') && is_secret_name(&word) {
            let (start, end) = value_after(line, at);
            let value: String = line[start..end].iter().collect();
            if start < end && !refers(&value) && !value.starts_with(['{', '[']) {
                found.push((start, end));
            }
            at = end.max(at);
        }
    }
    found
}

/// The value behind the colon that follows `at`.
fn value_after(line: &[char], at: usize) -> (usize, usize) {
    let colon = at + line[at..].iter().take_while(|c| **c != ':').count() + 1;
    let start = (colon + line[colon.min(line.len())..].iter().take_while(|c| **c == ' ').count()).min(line.len());
    let end = match line.get(start) {
        Some(quote @ ('"' | '\'')) => start + 2 + line[start + 1..].iter().take_while(|c| *c != quote).count(),
        _ => start + line[start..].iter().take_while(|c| !matches!(c, ',' | '}' | ']')).count(),
    };
    (start, end.min(line.len()))
}

/// Whether a text is nothing but a reference to where the secret really is.
fn refers(text: &str) -> bool {
    let text = text.trim_matches(['"', '\'', ' ']);
    text.starts_with("${") && text.ends_with('}') && !text.contains(":-") && text.matches("${").count() == 1
}

fn merge(ranges: &mut Vec<(usize, usize)>) {
    ranges.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    *ranges = merged;
}
