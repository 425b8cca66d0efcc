//! YAML text to the tree, from the parser's events.
//!
//! One parser gives both values and positions, so the two cannot disagree. What is legal YAML but a trap in a
//! configuration is refused here: duplicate keys, several documents, merge keys, aliases that multiply.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

use crate::fault::Fault;
use crate::key_path::KeyPath;
use crate::tree::{Content, Key, Node, Origin, Scalar, Span};

/// More nodes than any file has that a person or a generator means: aliases can multiply a few lines without end.
const MOST_NODES: usize = 200_000;
/// Deeper than any setting.
const DEEPEST: usize = 64;

/// A fault of the text and where it is, before there are paths.
pub(crate) struct Misread {
    pub(crate) fault: Fault,
    pub(crate) span: Option<Span>,
}

/// The tree of `text`; `None` if there is nothing in it. Duplicate keys are left out and reported, so that the rest
/// can still be judged; any other fault ends the reading.
pub(crate) fn compose(text: &str) -> (Option<Node>, Vec<Misread>) {
    let mut composer = Composer::default();
    let root = composer.document(text);
    match root {
        Ok(root) => (root, composer.misread),
        Err(misread) => {
            composer.misread.push(*misread);
            (None, composer.misread)
        }
    }
}

type Read<T> = Result<T, Box<Misread>>;

/// A collection that is being read.
enum Open {
    List { start: Span, anchor: usize, items: Vec<Node> },
    Table { start: Span, anchor: usize, entries: Vec<(Key, Node)>, seen: HashMap<String, usize>, key: Option<Key> },
}

#[derive(Default)]
struct Composer {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    misread: Vec<Misread>,
}

impl Composer {
    fn document(&mut self, text: &str) -> Read<Option<Node>> {
        let mut root = None;
        let mut documents = 0;
        let mut parser = Parser::<StrInput<'_>>::new_from_str(text);
        loop {
            let (event, span) = match parser.next_event() {
                None => return Ok(root),
                Some(Ok((event, span))) => (event, convert(span)),
                Some(Err(error)) => return Err(not_yaml(text, &error)),
            };
            if let Event::DocumentStart(_) = event {
                documents += 1;
                if documents > 1 {
                    return Err(misread(Some(span), "a second document begins here; a configuration is one document"));
                }
            }
            let done = self.event(event, span)?;
            root = root.or(done);
        }
    }

    /// Takes one step; what comes back is the whole document.
    fn event(&mut self, event: Event<'_>, span: Span) -> Read<Option<Node>> {
        match event {
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag))
                if !tag.is_yaml_core_schema() =>
            {
                Err(misread(Some(span), format!("tags (`{}{}`) mean nothing here", tag.handle, tag.suffix)))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(&text, style, tag.as_deref(), span);
                self.finish(node, anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::SequenceStart(anchor, _) => {
                self.open(Open::List { start: span, anchor, items: Vec::new() }, span)?;
                Ok(None)
            }
            Event::MappingStart(anchor, _) => {
                let table = Open::Table { start: span, anchor, entries: Vec::new(), seen: HashMap::new(), key: None };
                self.open(table, span)?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(None)
            }
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Read<Option<Node>> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(misread(Some(span), "this alias refers to something that is not finished"));
        };
        let (nodes, depth) = size(&node);
        if self.open.len() + depth > DEEPEST {
            return Err(too_deep(span));
        }
        self.nodes += nodes;
        self.finish(node, 0)
    }

    fn open(&mut self, open: Open, span: Span) -> Read<()> {
        if self.open.len() >= DEEPEST {
            return Err(too_deep(span));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, end: Span) -> Read<Option<Node>> {
        let (start, anchor, content) = match self.open.pop() {
            Some(Open::List { start, anchor, items }) => (start, anchor, Content::List(items)),
            Some(Open::Table { start, anchor, entries, .. }) => (start, anchor, Content::Table(entries)),
            None => return Err(misread(Some(end), "not YAML: this closes what was never opened")),
        };
        let span = Span { start: start.start, end: end.end.max(start.end) };
        self.finish(Node::new(Origin::File(span), content), anchor)
    }

    /// Puts a finished node where it belongs; it comes back if it is the whole document.
    fn finish(&mut self, node: Node, anchor: usize) -> Read<Option<Node>> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            let message = format!("more than {MOST_NODES} settings, counting what aliases repeat");
            return Err(misread(span_of(&node.origin), message));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => return Ok(Some(node)),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Table { key: key @ None, .. }) => *key = Some(as_key(node)?),
            Some(Open::Table { entries, seen, key, .. }) => {
                let Some(key) = key.take() else { return Ok(None) };
                let line = span_of(&key.origin).map_or(0, |span| span.start.0);
                match seen.get(&key.text) {
                    None => {
                        seen.insert(key.text.clone(), line);
                        entries.push((key, node));
                    }
                    Some(first) => {
                        let message = format!("`{}` is already set on line {first}", key.text);
                        self.misread.push(*misread(span_of(&key.origin), message));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The parser's own fault; if a line before it is indented with a tab, that.
fn not_yaml(text: &str, error: &saphyr_parser::ScanError) -> Box<Misread> {
    let at = (error.marker().line().max(1), error.marker().col() + 1);
    let indented = |line: &str| line.chars().take_while(|c| c.is_whitespace()).position(|c| c == '\t');
    let tab = text.lines().take(at.0 + 1).enumerate().find_map(|(index, line)| Some((index + 1, indented(line)? + 1)));
    match tab {
        Some(at) => misread(Some(Span { start: at, end: at }), "a tab in the indentation: YAML wants spaces"),
        None => misread(Some(Span { start: at, end: at }), format!("not YAML: {}", error.info())),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Node {
    let as_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    let plain = matches!(style, ScalarStyle::Plain) && !as_text;
    let scalar = Scalar { text: text.to_owned(), plain, loose: false, written: None };
    Node::new(Origin::File(span), Content::Scalar(scalar))
}

fn as_key(node: Node) -> Read<Key> {
    let span = span_of(&node.origin);
    match node.content {
        Content::Scalar(scalar) if scalar.plain && scalar.text == "<<" => {
            Err(misread(span, "merge keys (`<<`) are not supported: write the settings out"))
        }
        Content::Scalar(scalar) => Ok(Key { text: scalar.text, origin: node.origin }),
        _ => {
            Err(misread(span, "a key must be a text, not a list or a table; if this is `{{`, put the value in quotes"))
        }
    }
}

/// How many nodes, and how many levels of them.
fn size(node: &Node) -> (usize, usize) {
    let add = |(nodes, depth): (usize, usize), child: &Node| {
        let (more, deep) = size(child);
        (nodes + more, depth.max(deep + 1))
    };
    match &node.content {
        Content::Scalar(_) | Content::Gone => (1, 1),
        Content::List(items) => items.iter().fold((1, 1), add),
        Content::Table(entries) => entries.iter().map(|(_, value)| value).fold((1, 1), add),
    }
}

fn too_deep(span: Span) -> Box<Misread> {
    misread(Some(span), format!("nested deeper than {DEEPEST} levels"))
}

fn span_of(origin: &Origin) -> Option<Span> {
    match origin {
        Origin::File(span) => Some(*span),
        Origin::Variable(_) => None,
    }
}

fn convert(span: saphyr_parser::Span) -> Span {
    let place = |marker: saphyr_parser::Marker| (marker.line().max(1), marker.col() + 1);
    Span { start: place(span.start), end: place(span.end) }
}

fn misread(span: Option<Span>, message: impl Into<String>) -> Box<Misread> {
    Box::new(Misread { fault: Fault::error(KeyPath::root(), message), span })
}
