//! What a client has been given of a stream.

use super::chunk::{Chunk, IDENTITY};
use crate::call::Endpoint;
use crate::events::Events;

/// What a client has been given of a stream of text, as the backend said it.
#[derive(Debug)]
pub struct Given {
    endpoint: Endpoint,
    most: usize,
    text: String,
    tokens: u64,
    pub(super) identity: [Option<Box<[u8]>>; IDENTITY.len()],
    has_role: bool,
    is_finished: bool,
    loss: Option<Loss>,
}

/// Why a stream cannot be continued any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There was more in it than text.
    NotText,
    /// The text is longer than may be kept.
    TooLong,
}

impl Given {
    /// Nothing yet, of a stream of `endpoint`; a text of more than `most` bytes is not kept.
    #[must_use]
    pub fn new(endpoint: Endpoint, most: usize) -> Self {
        Self {
            endpoint,
            most,
            text: String::new(),
            tokens: 0,
            identity: [const { None }; IDENTITY.len()],
            has_role: false,
            is_finished: false,
            loss: None,
        }
    }

    /// A block of whole events goes to the client.
    pub fn take(&mut self, block: &[u8]) {
        for event in Events::new(block) {
            if self.loss.is_some() {
                return;
            }
            if let Some(chunk) = Chunk::read(block, &event, self.endpoint) {
                self.chunk(block, &chunk);
            } else if !event.is_comment_only() && !event.is_done() {
                self.loss = Some(Loss::NotText);
            }
        }
    }

    fn chunk(&mut self, block: &[u8], chunk: &Chunk) {
        if chunk.is_odd {
            return self.lose(Loss::NotText);
        }
        for (kept, value) in self.identity.iter_mut().zip(&chunk.identity) {
            if let (None, Some(value)) = (&kept, value) {
                *kept = Some(block[value.clone()].into());
            }
        }
        self.has_role |= chunk.role.is_some();
        self.is_finished |= chunk.finish.is_some();
        let Some(text) = chunk.said(block).filter(|text| !text.is_empty()) else { return };
        self.tokens += 1;
        if self.text.len() + text.len() > self.most {
            return self.lose(Loss::TooLong);
        }
        self.text.push_str(&text);
    }

    fn lose(&mut self, loss: Loss) {
        self.loss = Some(loss);
        self.text = String::new();
    }

    /// There is no room to keep it in.
    pub fn let_go(&mut self) {
        self.lose(Loss::TooLong);
    }

    /// Why it cannot be continued, if it cannot.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        self.loss
    }

    /// Bytes of memory it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.text.capacity()
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many pieces of text it came in: about its tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Whether the stream has said whose words it is. A stream that has said nothing yet needs no continuation, but to be
    /// asked for once more.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_role || self.identity.iter().any(Option::is_some)
    }

    /// Whether the text is whole: the reason why it ended is given.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// What a backend is told was given. Templates of chats trim messages, so that a blank at the end would come a second
    /// time: it is left out here, and [`super::Seam`] takes it out of what comes.
    #[must_use]
    pub fn sent(&self) -> &str {
        match self.endpoint {
            Endpoint::Chat => self.text.trim_end(),
            _ => &self.text,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    pub(super) fn has_role(&self) -> bool {
        self.has_role
    }
}
