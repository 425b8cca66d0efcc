//! The `model` field of a form, found while the form streams by.
//!
//! Audio and image uploads are `multipart/form-data` (RFC 7578, framed by RFC 2046) and may be large; routing needs one
//! short field of them. [`ModelFinder`] is shown the body chunk by chunk and keeps nothing but that field, the head of
//! the part at hand and its place in the boundary. As with JSON, a form that two readers could read differently
//! is refused: a second `model`, bare line feeds, folded or escaped names.

mod head;

use std::ops::Range;

use memchr::memchr;
use thiserror::Error;

pub use head::boundary_of;

use crate::call::MAX_MODEL;

/// The longest head of a part.
const MAX_HEAD: usize = 4096;

/// Looks for the form field `model`.
#[derive(Clone, Debug)]
pub struct ModelFinder {
    /// `\n--boundary`. No boundary contains a line feed, so that a mismatch can only begin anew with one.
    delimiter: Vec<u8>,
    state: State,
    /// How much of the delimiter the last bytes of the content match.
    matched: usize,
    /// The byte before the match.
    last: u8,
    /// Whether nothing but the match has come of the content.
    is_fresh: bool,
    /// Of the part at hand.
    head: Vec<u8>,
    model: Option<String>,
    /// Where in the body the model stands.
    place: Range<usize>,
    /// How much of the body has been taken.
    taken: usize,
}

/// What is wrong with a form. Always the client's fault.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MultipartFault {
    /// The form has the field more than once.
    #[error("the form has more than one `model` field")]
    Duplicate,
    /// The form is not one, or can be read in two ways.
    #[error("the form is malformed: {0}")]
    Malformed(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Behind a delimiter: on its line still.
    Delimiter(Line),
    /// In the head of a part.
    Head,
    /// In the content of a part that is not the model.
    Content,
    /// In the model, with what has come of it (and of the delimiter behind it).
    Model(Vec<u8>),
    /// Behind the last delimiter, where everything is ignored.
    Closed,
    Broken(MultipartFault),
}

/// How far the rest of a delimiter's line has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Boundary,
    Dash,
    Padding,
    CarriageReturn,
}

impl ModelFinder {
    /// A finder for a body whose parts are separated by `boundary` (see [`boundary_of`]).
    #[must_use]
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: [b"\n--", boundary.as_bytes()].concat(),
            state: State::Preamble,
            // The body begins a line, as if a line end came before it.
            matched: 1,
            last: b'\r',
            is_fresh: true,
            head: Vec::new(),
            model: None,
            place: 0..0,
            taken: 0,
        }
    }

    /// Takes the next chunk of the body. A fault is final, and may come when [`ModelFinder::model`] has an answer
    /// already: so the whole body is to be shown, and an upload that turns out to be at fault not to be completed.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Result<(), MultipartFault> {
        while !chunk.is_empty() {
            let taken = match &self.state {
                State::Preamble | State::Content | State::Model(_) => self.content(chunk),
                State::Delimiter(line) => self.line(*line, chunk[0]).map(|()| 1),
                State::Head => self.head(chunk[0]).map(|()| 1),
                State::Closed => return Ok(()),
                State::Broken(fault) => return Err(*fault),
            };
            let taken = taken.inspect_err(|fault| self.state = State::Broken(*fault))?;
            chunk = &chunk[taken..];
            self.taken += taken;
        }
        Ok(())
    }

    /// The model, once its field has come.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Where the model's name stands in the body, once its field has come: another may be put in its place.
    #[must_use]
    pub fn model_range(&self) -> Option<Range<usize>> {
        self.model.is_some().then(|| self.place.clone())
    }

    /// The model, now that the body is over; `None` if the form has no such field.
    pub fn finish(self) -> Result<Option<String>, MultipartFault> {
        match self.state {
            State::Closed => Ok(self.model),
            State::Broken(fault) => Err(fault),
            _ => Err(MultipartFault::Malformed("it ends before its last boundary")),
        }
    }

    /// Takes as much as is content for sure, or one byte of what may be a delimiter.
    fn content(&mut self, chunk: &[u8]) -> Result<usize, MultipartFault> {
        let taken = if self.matched > 0 && chunk[0] == self.delimiter[self.matched] {
            self.matched += 1;
            1
        } else if chunk[0] == b'\n' {
            if self.matched > 0 {
                self.last = self.delimiter[self.matched - 1];
            }
            (self.matched, self.is_fresh) = (1, false);
            1
        } else {
            (self.matched, self.is_fresh) = (0, false);
            let length = memchr(b'\n', chunk).unwrap_or(chunk.len());
            self.last = chunk[length - 1];
            length
        };
        if let State::Model(value) = &mut self.state {
            // The delimiter and the CR before it are no part of the value.
            if value.len() + taken > MAX_MODEL + 1 + self.delimiter.len() {
                return Err(MultipartFault::Malformed("the model's name is too long"));
            }
            value.extend_from_slice(&chunk[..taken]);
        }
        if self.matched == self.delimiter.len() {
            self.delimited(self.taken + taken)?;
        }
        Ok(taken)
    }

    /// Ends a part with the delimiter that ends at `end` of the body.
    fn delimited(&mut self, end: usize) -> Result<(), MultipartFault> {
        if self.last != b'\r' {
            return Err(MultipartFault::Malformed("a boundary stands behind a bare line feed"));
        }
        match std::mem::replace(&mut self.state, State::Delimiter(Line::Boundary)) {
            State::Preamble => {}
            _ if self.is_fresh => {
                return Err(MultipartFault::Malformed("a part has no content, not even an empty one"));
            }
            State::Model(mut value) => {
                let delimiter = self.delimiter.len() + 1;
                value.truncate(value.len() - delimiter);
                self.place = end - delimiter - value.len()..end - delimiter;
                let model = String::from_utf8(value).ok().filter(|model| !model.is_empty());
                let fault = MultipartFault::Malformed("the model's name is empty or not UTF-8");
                self.model = Some(model.ok_or(fault)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn line(&mut self, line: Line, byte: u8) -> Result<(), MultipartFault> {
        self.state = match (line, byte) {
            (Line::Boundary, b'-') => State::Delimiter(Line::Dash),
            (Line::Dash, b'-') => State::Closed,
            (Line::Boundary | Line::Padding, b' ' | b'\t') => State::Delimiter(Line::Padding),
            (Line::Boundary | Line::Padding, b'\r') => State::Delimiter(Line::CarriageReturn),
            (Line::CarriageReturn, b'\n') => State::Head,
            _ => return Err(MultipartFault::Malformed("something stands behind a boundary")),
        };
        Ok(())
    }

    fn head(&mut self, byte: u8) -> Result<(), MultipartFault> {
        let after_return = self.head.last() == Some(&b'\r');
        if (byte == b'\n') != after_return || byte == 0 {
            return Err(MultipartFault::Malformed("a part's head has a bare CR, LF or NUL"));
        }
        self.head.push(byte);
        if self.head.len() > MAX_HEAD {
            return Err(MultipartFault::Malformed("a part's head is too long"));
        }
        if self.head == b"\r\n" || self.head.ends_with(b"\r\n\r\n") {
            let is_model = head::is_model(&String::from_utf8_lossy(&self.head))?;
            if is_model && self.model.is_some() {
                return Err(MultipartFault::Duplicate);
            }
            self.state = if is_model { State::Model(Vec::new()) } else { State::Content };
            self.head.clear();
            // Some readers take a delimiter right here for an empty part's end.
            (self.matched, self.last, self.is_fresh) = (1, b'\r', true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
