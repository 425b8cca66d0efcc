//! From a setting's path to the line it stands on, so that whoever finds a fault can point at it.

use std::collections::HashMap;

use crate::compose::Misread;
use crate::fault::{Fault, Place};
use crate::key_path::KeyPath;
use crate::masking::MaskedLines;
use crate::tree::{Content, Node, Origin, Span};

/// Where every setting of a file stands.
#[derive(Clone, Debug)]
pub struct Positions {
    file: String,
    lines: MaskedLines,
    marks: HashMap<KeyPath, Mark>,
}

#[derive(Clone, Debug)]
struct Mark {
    key: Option<Origin>,
    value: Origin,
}

impl Positions {
    pub(crate) fn new(file: &str, text: &str, root: Option<&Node>) -> Self {
        let mut marks = HashMap::new();
        if let Some(root) = root {
            collect(root, None, &mut marks);
        }
        Self { file: file.to_owned(), lines: MaskedLines::new(text, root), marks }
    }

    /// An error at `path`, with its place. If nothing stands there, that of the nearest setting around it.
    pub fn fault(&self, path: &KeyPath, message: impl Into<String>) -> Fault {
        self.locate(Fault::error(path.clone(), message))
    }

    /// The same fault with the place of its path; one that has a place already keeps it.
    pub fn locate(&self, fault: Fault) -> Fault {
        if fault.place.is_some() || fault.variable.is_some() {
            return fault;
        }
        let mark = self.nearest(&fault.path);
        self.placed(fault, mark.map(|mark| &mark.value))
    }

    /// The same, pointing at the setting's key instead of its value: for keys that should not be there.
    pub fn fault_at_key(&self, path: &KeyPath, message: impl Into<String>) -> Fault {
        let mark = self.nearest(path);
        self.placed(Fault::error(path.clone(), message), mark.map(|mark| mark.key.as_ref().unwrap_or(&mark.value)))
    }

    /// The line and column of the value at `path`, counted from 1; `None` if the file does not set it.
    pub fn line_column(&self, path: &KeyPath) -> Option<(usize, usize)> {
        match &self.marks.get(path)?.value {
            Origin::File(span) => Some(span.start),
            Origin::Variable(_) => None,
        }
    }

    pub(crate) fn misread(&self, misread: Misread) -> Fault {
        match misread.span {
            Some(span) => self.at_span(misread.fault, span),
            None => misread.fault,
        }
    }

    pub(crate) fn at_span(&self, fault: Fault, span: Span) -> Fault {
        Fault { place: Some(self.place(span)), ..fault }
    }

    fn nearest(&self, path: &KeyPath) -> Option<&Mark> {
        std::iter::successors(Some(path.clone()), KeyPath::parent).find_map(|path| self.marks.get(&path))
    }

    fn placed(&self, mut fault: Fault, origin: Option<&Origin>) -> Fault {
        match origin {
            Some(Origin::File(span)) => fault.place = Some(self.place(*span)),
            Some(Origin::Variable(name)) => fault.variable = Some(name.clone()),
            None => {}
        }
        fault
    }

    fn place(&self, span: Span) -> Place {
        let (line, column) = span.start;
        let (snippet, caret, width) = self.lines.show(span);
        Place { line, column, width, file: self.file.clone(), snippet, caret }
    }
}

fn collect(node: &Node, key: Option<&Origin>, marks: &mut HashMap<KeyPath, Mark>) {
    marks.insert(node.path.clone(), Mark { key: key.cloned(), value: node.origin.clone() });
    match &node.content {
        Content::List(items) => items.iter().for_each(|item| collect(item, None, marks)),
        Content::Table(entries) => {
            entries.iter().for_each(|(key, value)| collect(value, Some(&key.origin), marks));
        }
        Content::Scalar(_) | Content::Gone => {}
    }
}
