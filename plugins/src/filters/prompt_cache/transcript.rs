//! A stream that is taken down as it comes, in the form in which it is kept: what is found out about it is found out
//! block by block, so that nothing of it has to be read again when it is over.

use super::recorded::{Pieces, Recorded};
use crate::call::Endpoint;
use crate::events::{Event, Events, StreamEnd, StreamWatch};
use crate::exchange::Piece;
use crate::forms::{self, Ids, LongId};
use crate::splice;
use bytes::Bytes;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// What is told of a stream, apart from who tells it.
pub(super) struct Transcript {
    endpoint: Endpoint,
    /// Whether an id that is too short gets a longer one.
    lengthen: bool,
    events: Recorded,
    usage_event: Bytes,
    end: Vec<u8>,
    /// Known once there is an event.
    ids: Option<Ids>,
    long: Option<LongId>,
    /// Whether all of it is as the gateway shows it, which has read it then.
    is_as_shown: bool,
    /// Bytes that came.
    length: usize,
}

/// The parts of a stream that is kept.
pub(super) struct Parts {
    pub events: Pieces,
    /// The event that tells the usage, if one does.
    pub usage_event: Bytes,
    /// The end mark.
    pub end: Bytes,
    pub ids: Ids,
}

impl Transcript {
    pub(super) fn new(endpoint: Endpoint, lengthen: bool) -> Self {
        let (events, usage_event, end) = (Recorded::default(), Bytes::new(), Vec::new());
        let (ids, long, is_as_shown, length) = (None, None, true, 0);
        Self { endpoint, lengthen, events, usage_event, end, ids, long, is_as_shown, length }
    }

    /// Bytes of it so far.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether no other filter has changed anything of it.
    pub(super) fn is_as_shown(&self) -> bool {
        self.is_as_shown
    }

    /// The next block of whole events, and what is known of it.
    pub(super) fn push(&mut self, block: &Bytes, known: Piece) {
        self.length += block.len();
        self.is_as_shown &= known != Piece::Changed;
        if known == Piece::Text && self.end.is_empty() && self.ids.is_some() && self.long.is_none() {
            self.add(block);
            return;
        }
        if self.ids.is_none() && Events::new(block).any(|event| !event.is_comment_only() && !event.is_done()) {
            self.identify(block);
        }
        let mut block = self.long.as_ref().map_or_else(|| block.clone(), |long| long.put_in(block));
        // The end of a line that a read has cut in two.
        if self.usage_event.ends_with(b"\r\n\r") && block.starts_with(b"\n") {
            self.usage_event = [&self.usage_event[..], &block.split_to(1)].concat().into();
        }
        if forms::asks_for_usage(self.endpoint)
            && let Some((left, taken)) = splice::take_usage(&block)
        {
            (block, self.usage_event) = (left, taken);
        }
        if !self.end.is_empty() {
            self.end.extend_from_slice(&block);
            return;
        }
        if let Some(done) = Events::new(&block).find(Event::is_done) {
            self.end = block.split_off(done.start).into();
        }
        self.add(&block);
    }

    /// Takes down events, each for itself: it is mostly as the one before.
    fn add(&mut self, block: &[u8]) {
        static ENDS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| [b"\n\n", &b"\r\n\r\n"[..]].map(Finder::new));
        let end = &ENDS[usize::from(block.ends_with(b"\r\n"))];
        let mut from = 0;
        for at in end.find_iter(block) {
            let over = at + end.needle().len();
            self.events.push(&block[from..over]);
            from = over;
        }
        self.events.push(&block[from..]);
    }

    /// Finds out what it is known by, of the block with its first event.
    fn identify(&mut self, block: &[u8]) {
        if self.lengthen {
            self.long = LongId::of(self.endpoint, block, true, forms::random);
        }
        let ids = match &self.long {
            Some(long) => Ids::of_events(self.endpoint, &long.put_in(block)),
            None => Ids::of_events(self.endpoint, block),
        };
        self.ids = Some(ids);
    }

    /// As it is kept, and what it says of its end, of `choices` choices: none if it is not proven to be whole. Reads all of it.
    pub(super) fn ending(self, choices: u64) -> (Parts, Option<StreamEnd>) {
        let endpoint = self.endpoint;
        let parts = self.parts();
        let mut watch = StreamWatch::new(endpoint).with_choices(choices);
        for part in [&parts.events.whole(), &parts.usage_event, &parts.end] {
            watch.see(part);
        }
        (parts, watch.end())
    }

    /// As it is kept.
    pub(super) fn parts(self) -> Parts {
        let ids = self.ids.unwrap_or_default();
        Parts { events: self.events.kept(), usage_event: self.usage_event, end: self.end.into(), ids }
    }
}
