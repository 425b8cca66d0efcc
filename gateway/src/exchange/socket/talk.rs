//! A conversation in which limits see every turn: the client's `response.create` is judged before the backend hears of it,
//! and `response.done` says what it has cost.
//!
//! Between those two stand the frames of [`super::frames`]: nothing is changed, and what is left out is left out whole.

use super::super::Trip;
use super::super::fail::Fault;
use super::super::tally;
use super::frames::{self, Frames, Unreadable};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::VecDeque;
use tidegate_plugins::Refusal;
use tidegate_plugins::json;
use tidegate_plugins::turns::{Turn, Turns};
use tidegate_plugins::usage::Usage;

/// Responses that may be under way on one connection; the API itself has one, and those beside the conversation.
const MAX_OPEN: usize = 32;

/// What the tunnel is to do with what came.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// For the other side.
    pub(super) on: Vec<Bytes>,
    /// For the side it came from.
    pub(super) back: Vec<Bytes>,
    /// Whether the connection ends with that.
    pub(super) ends: bool,
}

/// Both sides of one connection, and the turns between them.
pub(super) struct Talk {
    turns: Vec<Box<dyn Turns>>,
    client: Frames,
    server: Frames,
    /// Text that the client has said since the last turn, in bytes.
    said: u64,
    /// The most tokens a response may have, as the session has it.
    most: Option<u64>,
    open: VecDeque<Open>,
    /// Refusals that wait for the end of the backend's message.
    waiting: Vec<Bytes>,
    refusals: u64,
    /// Whether the client is let in no more.
    dismissed: bool,
}

/// A turn that was granted.
#[derive(Debug)]
struct Open {
    /// The client's name for the event that asked for it.
    asked: Option<String>,
    /// Whether the backend has begun it.
    begun: bool,
    /// Events that brought a piece of the response.
    pieces: u64,
}

/// What is read of an event, either side's.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// How long a response may be: a number, or "inf".
#[derive(Deserialize)]
struct Bounds<'a> {
    #[serde(borrow)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_response_output_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Error<'a> {
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
}

fn bound(object: Option<&RawValue>) -> Option<u64> {
    let bounds: Bounds<'_> = serde_json::from_str(object?.get()).ok()?;
    let number = bounds.max_output_tokens.or(bounds.max_response_output_tokens)?;
    json::count(number.get().as_bytes())
}

impl Talk {
    /// Neither side's text messages are longer than `most`, as far as they are read.
    pub(super) fn new(turns: Vec<Box<dyn Turns>>, most: usize) -> Self {
        let (client, server) = (Frames::new(most, true), Frames::new(most, false));
        let (open, waiting) = (VecDeque::new(), Vec::new());
        Self { turns, client, server, said: 0, most: None, open, waiting, refusals: 0, dismissed: false }
    }

    /// What the client has sent.
    ///
    /// # Errors
    /// A filter's own fault, or why the client cannot be understood.
    pub(super) async fn client_says(&mut self, trip: &Trip<'_>, data: Bytes) -> Result<Passed, Stop> {
        let mut passed = Passed::default();
        for part in self.client.read(data)? {
            let refusal = match &part.text {
                Some(text) => self.judge(trip, text).await?,
                None => None,
            };
            match refusal {
                None => passed.on.push(part.bytes),
                Some(event) => self.waiting.push(event),
            }
            if self.dismissed {
                break;
            }
        }
        passed.ends = self.dismissed;
        if self.server.is_between() {
            passed.back.append(&mut self.waiting);
        }
        Ok(passed)
    }

    /// What the backend has sent.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub(super) async fn server_says(&mut self, trip: &mut Trip<'_>, data: Bytes) -> Result<Passed, Stop> {
        let mut passed = Passed::default();
        for part in self.server.read(data)? {
            passed.on.push(part.bytes);
            if let Some(text) = &part.text {
                self.hear(trip, text).await;
            }
            if part.between {
                passed.on.append(&mut self.waiting);
            }
        }
        Ok(passed)
    }

    /// The connection is over: what is under way has cost what has come of it.
    pub(super) async fn end(mut self, trip: &mut Trip<'_>) {
        while let Some(open) = self.open.pop_front() {
            let usage = Usage { completion: Some(open.pieces), estimated: true, ..Usage::default() };
            self.settle(trip, usage).await;
        }
    }

    /// Judges a message of the client: the event that tells it if it may not pass.
    async fn judge(&mut self, trip: &Trip<'_>, text: &[u8]) -> Result<Option<Bytes>, Stop> {
        // What could be read in two ways (a name twice) is not read at all, and so does not pass.
        let Ok(event) = serde_json::from_slice::<Event<'_>>(text) else {
            if !self.turns.iter().any(|turns| turns.must_read()) {
                let refusal = self.stands(trip).await?;
                return Ok(refusal.map(|refusal| self.tell(trip, &refusal, None)));
            }
            let message = "This event could not be read: an object of JSON is expected, with each name once.";
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, "invalid_event", message);
            return Ok(Some(self.tell(trip, &refusal, None)));
        };
        let kind = event.kind.as_deref().unwrap_or_default();
        if kind != "input_audio_buffer.append" {
            self.said = self.said.saturating_add(text.len() as u64);
        }
        if kind == "session.update" {
            self.most = bound(event.session).or(self.most);
        }
        if kind != "response.create" {
            let refusal = self.stands(trip).await?;
            return Ok(refusal.map(|refusal| self.tell(trip, &refusal, event.event_id.as_deref())));
        }
        let turn = Turn { text: self.said, max_tokens: bound(event.response).or(self.most) };
        let refusal = match self.open.len() < MAX_OPEN {
            true => self.begin(trip, &turn).await?,
            false => {
                let message = "Too many responses are under way on this connection.";
                Some(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message))
            }
        };
        if let Some(refusal) = refusal {
            return Ok(Some(self.tell(trip, &refusal, event.event_id.as_deref())));
        }
        self.said = 0;
        self.open.push_back(Open { asked: event.event_id.map(Cow::into_owned), begun: false, pieces: 0 });
        Ok(None)
    }

    /// Whether the client may go on, who says something else than that it wants a turn.
    async fn stands(&mut self, trip: &Trip<'_>) -> Result<Option<Refusal>, Stop> {
        for turns in &mut self.turns {
            let judged = turns.stands(&trip.exchange).await;
            let refusal = judged.map_err(|error| Stop::Fault(Fault::ours(format!("filter: {error}"))))?;
            if refusal.is_some() {
                return Ok(refusal);
            }
        }
        Ok(None)
    }

    /// Asks all that judge turns: all of them grant it, or none has.
    async fn begin(&mut self, trip: &Trip<'_>, turn: &Turn) -> Result<Option<Refusal>, Stop> {
        for at in 0..self.turns.len() {
            let judged = self.turns[at].begin(&trip.exchange, turn).await;
            let refusal = judged.map_err(|error| Stop::Fault(Fault::ours(format!("filter: {error}"))))?;
            if refusal.is_some() {
                self.turns[..at].iter_mut().for_each(|turns| turns.withdraw());
                return Ok(refusal);
            }
        }
        Ok(None)
    }

    fn tell(&mut self, trip: &Trip<'_>, refusal: &Refusal, asked: Option<&str>) -> Bytes {
        self.refusals += 1;
        self.dismissed |= matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let id = format!("event_{}_{}", trip.record.request_id, self.refusals);
        frames::text(&refusal.realtime(&id, asked))
    }

    /// Reads a message of the backend.
    async fn hear(&mut self, trip: &mut Trip<'_>, text: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(text) else { return };
        match event.kind.as_deref().unwrap_or_default() {
            "response.created" => {
                if let Some(open) = self.open.iter_mut().find(|open| !open.begun) {
                    open.begun = true;
                }
            }
            "response.done" | "response.completed" | "response.incomplete" | "response.failed" => {
                let open = self.open.pop_front();
                let counted = Usage { completion: open.map(|open| open.pieces), estimated: true, ..Usage::default() };
                if Usage::is_unbelievable(text) {
                    tally::disbelieve(trip);
                }
                self.settle(trip, Usage::from_answer(text).unwrap_or(counted)).await;
            }
            "error" => self.withdraw(event.error),
            kind if kind.ends_with(".delta") => {
                if let Some(open) = self.open.front_mut() {
                    open.pieces += 1;
                }
            }
            _ => {}
        }
    }

    /// The backend does not take the turn that was asked for last.
    fn withdraw(&mut self, error: Option<&RawValue>) {
        let error = error.and_then(|error| serde_json::from_str::<Error<'_>>(error.get()).ok());
        let about = error.and_then(|error| error.event_id);
        let Some(last) = self.open.back().filter(|open| !open.begun) else { return };
        if about.is_none() || about.as_deref() == last.asked.as_deref() {
            self.open.pop_back();
            self.turns.iter_mut().for_each(|turns| turns.withdraw());
        }
    }

    async fn settle(&mut self, trip: &mut Trip<'_>, mut usage: Usage) {
        for turns in &mut self.turns {
            usage = turns.end(&trip.exchange, usage).await;
        }
        let sum =
            |one: Option<u64>, other: Option<u64>| one.map(|one| one.saturating_add(other.unwrap_or(0))).or(other);
        let all = trip.record.usage.get_or_insert_default();
        all.prompt = sum(all.prompt, usage.prompt);
        all.completion = sum(all.completion, usage.completion);
        all.cached_prompt = sum(all.cached_prompt, usage.cached_prompt);
        all.estimated |= usage.estimated;
    }
}

/// Why a conversation cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The client is let in no more, and has been told.
    Dismissed,
    /// A side cannot be understood.
    Unreadable(Unreadable),
    /// A fault of ours.
    Fault(Fault),
}

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}
