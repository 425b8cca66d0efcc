//! The end of a stream, joined to its beginning.

use super::Given;
use super::chunk::{Chunk, IDENTITY};
use crate::call::Endpoint;
use crate::events::Events;
use crate::json;
use crate::splice::Edits;
use crate::usage::Usage;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Makes of a second stream the end of a first one.
#[derive(Debug)]
pub struct Seam {
    endpoint: Endpoint,
    /// Of the text that was given, how much the second stream has repeated, as long as it may be repeating it.
    repeated: Option<usize>,
    /// Events that are held until that is known.
    held: Vec<Bytes>,
    /// Bytes of the given text that the backend was told of.
    sent: usize,
    /// Blanks that were given and that the backend was not told of: they do not come a second time.
    blanks: Box<str>,
    /// Tokens that were given before.
    before: Usage,
    /// The answer may not get longer: only its end is wanted.
    is_full: bool,
}

/// The second stream repeats what was given, or seems to: nothing shows where it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats;

/// A shorter text is no sign of anything when it comes again.
const TELLING: usize = 16;

/// When so much of a text has come again, the rest of it need not be waited for.
const CERTAIN: usize = 1 << 10;

/// More events than are held until that is known.
const MOST_HELD: usize = 128;

impl Seam {
    /// For what comes after `given`. `before` is what that took, as far as the backend has said so; `most` is the longest
    /// answer in tokens.
    #[must_use]
    pub fn new(given: &Given, before: Usage, most: Option<u64>) -> Self {
        let sent = given.sent().len();
        let told = before.completion.filter(|_| !before.estimated);
        let tokens = told.unwrap_or(given.tokens());
        let is_telling = sent >= TELLING && given.tokens() > 1;
        Self {
            endpoint: given.endpoint(),
            repeated: is_telling.then_some(0),
            held: Vec::new(),
            sent,
            blanks: given.text()[sent..].into(),
            before: Usage { completion: Some(tokens), estimated: told.is_none() && sent > 0, ..before },
            is_full: sent > 0 && most.is_some_and(|most| tokens >= most),
        }
    }

    /// A block of whole events of the second stream, as its part of the one stream that the client reads. It may be empty:
    /// what is not needed is left out, and what may be a repetition is held.
    ///
    /// # Errors
    /// That it repeats what was given.
    pub fn join(&mut self, given: &Given, block: &Bytes) -> Result<Bytes, Repeats> {
        let mut out = BytesMut::with_capacity(block.len() + ROOM);
        for event in Events::new(block) {
            self.event(given, block.slice(event.start..event.end), &mut out)?;
        }
        Ok(out.freeze())
    }

    /// Whether the tokens that were given before are as many as pieces were counted, because nobody has said how many.
    #[must_use]
    pub fn has_counted(&self) -> bool {
        self.before.estimated
    }

    fn event(&mut self, given: &Given, block: Bytes, out: &mut BytesMut) -> Result<(), Repeats> {
        let Some(event) = Events::new(&block).next() else { return Ok(()) };
        let Some(chunk) = Chunk::read(&block, &event, self.endpoint) else {
            if event.is_done() {
                self.release(given, out);
            }
            out.extend_from_slice(&block);
            return Ok(());
        };
        let text = chunk.said(&block).unwrap_or_default();
        let skip = match self.repeats(given, &text, chunk.finish.is_some())? {
            Repeated::Perhaps => {
                self.held.push(block);
                return Ok(());
            }
            Repeated::Not => 0,
            Repeated::All(length) => length,
        };
        self.release(given, out);
        self.rewrite(given, &block, &chunk, skip, out);
        Ok(())
    }

    /// Whether `text` goes on with a repetition of what was given.
    fn repeats(&mut self, given: &Given, text: &str, ends: bool) -> Result<Repeated, Repeats> {
        let Some(at) = self.repeated else { return Ok(Repeated::Not) };
        if text.is_empty() && !ends {
            return Ok(if self.held.is_empty() { Repeated::Not } else { Repeated::Perhaps });
        }
        let sent = given.text().get(..self.sent).unwrap_or_default();
        let rest = &sent[at.min(sent.len())..];
        let goes_on = !ends && text.len() < rest.len() && rest.starts_with(text);
        if goes_on && at + text.len() < CERTAIN && self.held.len() < MOST_HELD {
            self.repeated = Some(at + text.len());
            return Ok(Repeated::Perhaps);
        }
        self.repeated = None;
        if rest.is_empty() || !(goes_on || text.starts_with(rest)) || repeats_itself(sent.as_bytes()) {
            return Ok(Repeated::Not);
        }
        if goes_on {
            return Err(Repeats);
        }
        // In one piece, where it had come in several, it is none of the backend's own tokens.
        if at == 0 { Ok(Repeated::All(rest.len())) } else { Err(Repeats) }
    }

    fn release(&mut self, given: &Given, out: &mut BytesMut) {
        for block in std::mem::take(&mut self.held) {
            let chunk = Events::new(&block).next().and_then(|event| Chunk::read(&block, &event, self.endpoint));
            if let Some(chunk) = chunk {
                self.rewrite(given, &block, &chunk, 0, out);
            }
        }
    }

    /// One chunk as a part of the first stream, without the first `skip` bytes of its text; nothing if nothing is left.
    fn rewrite(&mut self, given: &Given, block: &Bytes, chunk: &Chunk, skip: usize, out: &mut BytesMut) {
        let mut edits = Edits::default();
        let mut put = |range: Range<usize>, text: Bytes| {
            // Ranges of one chunk lie apart.
            let _ = edits.replace(range, text);
        };
        for (at, value) in chunk.identity.iter().enumerate() {
            let Some(value) = value.clone() else { continue };
            match &given.identity[at] {
                Some(first) if block[value.clone()] != **first => put(value, Bytes::copy_from_slice(first)),
                None if IDENTITY[at] == "system_fingerprint" => put(value, Bytes::from_static(b"null")),
                _ => {}
            }
        }
        if let Some(role) = chunk.role.clone().filter(|_| given.has_role()) {
            put(role, Bytes::new());
        }
        let said = chunk.said(block).unwrap_or_default();
        let text = self.new_of(said.get(skip..).unwrap_or_default());
        if let Some(range) = chunk.text.clone().filter(|_| text.len() != said.len()) {
            put(range, json::quoted(text).into());
        }
        if let Some(finish) = chunk.finish.clone().filter(|_| self.is_full) {
            put(finish, Bytes::from_static(b"\"length\""));
        }
        if let Some(usage) = chunk.usage.clone() {
            self.add_up(block, usage, &mut put);
        }
        let says_something = !text.is_empty() || chunk.finish.is_some() || chunk.usage.is_some() || chunk.is_odd;
        if says_something && let Ok(edited) = edits.apply(block) {
            out.extend_from_slice(&edited);
        }
    }

    /// What of `text` the client does not have.
    fn new_of<'a>(&mut self, text: &'a str) -> &'a str {
        if self.is_full || text.is_empty() {
            return "";
        }
        let same = text.chars().zip(self.blanks.chars()).take_while(|(one, other)| one == other);
        let same = same.map(|(blank, _)| blank.len_utf8()).sum();
        self.blanks = if same == text.len() { self.blanks[same..].into() } else { Box::default() };
        &text[same..]
    }

    /// The tokens of both.
    fn add_up(&self, block: &[u8], usage: Range<usize>, put: &mut impl FnMut(Range<usize>, Bytes)) {
        let Some(told) = Usage::from_answer(&[b"{\"usage\":", &block[usage.clone()], b"}"].concat()) else { return };
        let before = if self.sent > 0 { self.before.completion.unwrap_or(0) } else { 0 };
        // One token was asked for beyond the end, and not passed on.
        let rest = if self.is_full { 0 } else { told.completion.unwrap_or(0) };
        let prompt = self.before.prompt.unwrap_or_else(|| told.prompt.unwrap_or(0).saturating_sub(before));
        for member in json::members_within(block, usage) {
            let number = match member.key {
                b"prompt_tokens" => prompt,
                b"completion_tokens" => before + rest,
                b"total_tokens" => prompt + before + rest,
                b"prompt_tokens_details" => {
                    let cached =
                        json::members_within(block, member.value).find(|member| member.key == b"cached_tokens");
                    if let Some(cached) = cached
                        && json::whole_number(&block[cached.value.clone()]).is_some_and(|cached| cached > prompt)
                    {
                        put(cached.value, prompt.to_string().into());
                    }
                    continue;
                }
                _ => continue,
            };
            put(member.value, number.to_string().into());
        }
    }
}

/// What is found out about the beginning of a second stream.
enum Repeated {
    /// It is not what was given.
    Not,
    /// So far it is what was given.
    Perhaps,
    /// It begins with all that was given, which is this long.
    All(usize),
}

/// What an event may grow by: ids are about as long as each other.
const ROOM: usize = 128;

/// Whether a text is some part of it, over and over: then more of the same is no sign of anything.
fn repeats_itself(text: &[u8]) -> bool {
    // How much of the text's beginning stands at each position's end, as in the search of Knuth, Morris and Pratt.
    let mut borders = vec![0_usize; text.len()];
    let mut border = 0;
    for at in 1..text.len() {
        while border > 0 && text[at] != text[border] {
            border = borders[border - 1];
        }
        border += usize::from(text[at] == text[border]);
        borders[at] = border;
    }
    border * 2 >= text.len()
}
