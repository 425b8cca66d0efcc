//! Reading a request's body: whole where it must be understood, streamed where it need not be, always bounded in
//! size, memory and time.

use super::fail::{Fault, Result};
use super::shed;
use super::{Session, Trip, arrive, headers};
use crate::downstream::Error;
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::StatusCode;
use http::header::{self, HeaderMap};
use std::collections::VecDeque;
use std::io::Read;
use std::time::{Duration, Instant};
use tidegate_config::{CompressedBodies, Limits};
use tidegate_plugins::Refusal;
use tidegate_plugins::multipart::{ModelFinder, MultipartFault};

/// What there is of a request's body.
pub(crate) enum Body {
    /// It has none.
    None,
    /// It has one that nobody has looked at.
    Unread,
    /// It has been read, and is in the exchange.
    Whole,
    /// These pieces have been read; `more` says whether others follow.
    Streamed {
        /// What was read while looking for the model.
        held: VecDeque<Bytes>,
        /// Whether the client has more to send.
        more: bool,
    },
}

/// From this on, parsing and unpacking make room for other requests on this thread: they would wait for a millisecond or two.
/// Not from less: another thread goes on then, and what each of many threads keeps of the memory of large bodies adds up (32
/// clients with bodies of 1 MiB had the gateway hold 280 MiB, not 60).
const LARGE: usize = 2 << 20;

/// The declared length, if it is a number.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers::text(headers, http::header::CONTENT_LENGTH)?.trim().parse().ok()
}

/// 413.
pub(crate) fn too_large(limit: usize) -> Fault {
    let message = format!("The request body is larger than the {limit} bytes this gateway accepts.");
    Fault::refused(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message))
}

/// Refuses encodings that we do not read: filters and router must see what the backend sees.
///
/// # Errors
/// 415.
pub(crate) fn check_encoding(headers: &HeaderMap, limits: &Limits) -> Result<()> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    let gzip = encoding.as_bytes().eq_ignore_ascii_case(b"gzip");
    match limits.compressed_bodies {
        _ if encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        CompressedBodies::Unpacked(_) if gzip => Ok(()),
        CompressedBodies::Unpacked(_) => Err(unsupported("Request bodies may be sent plain or with gzip.")),
        CompressedBodies::Refuse => Err(unsupported("Compressed request bodies are not accepted; send it plain.")),
    }
}

fn unsupported(message: &str) -> Fault {
    Fault::refused(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message))
}

/// Reads the next piece, within the limits on size, rate and time.
pub(crate) struct Reader {
    began: Instant,
    received: usize,
}

impl Reader {
    /// Begins to read: tells a client that waits for it to go on.
    ///
    /// # Errors
    /// If the client has left.
    pub(crate) async fn begin(session: &mut Session, trip: &Trip<'_>) -> Result<Self> {
        if arrive::expects_continue(trip) {
            session.write_continue().await.map_err(|_| Fault::ClientGone)?;
        }
        Ok(Self { began: Instant::now(), received: 0 })
    }

    /// Goes on with a body of which a part has been read.
    pub(crate) fn resume(trip: &Trip<'_>) -> Self {
        Self { began: Instant::now(), received: usize::try_from(trip.record.request_bytes).unwrap_or(usize::MAX) }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// Too large, too slow, badly framed, or the client has left.
    pub(crate) async fn next(&mut self, session: &mut Session, trip: &mut Trip<'_>) -> Result<Option<Bytes>> {
        let read = crate::patience::timeout(self.patience(&trip.snapshot.limits), session.read_body()).await;
        let data = read.map_err(|_| too_slow().closing())?.map_err(unreadable)?;
        self.count(trip, data.as_ref().map(Bytes::len))?;
        Ok(data)
    }

    /// Adds the next piece to `body`; how long it was, none at the end.
    ///
    /// # Errors
    /// As [`Self::next`].
    async fn next_into(
        &mut self,
        session: &mut Session,
        trip: &mut Trip<'_>,
        body: &mut BytesMut,
    ) -> Result<Option<usize>> {
        let before = body.len();
        let read = crate::patience::timeout(self.patience(&trip.snapshot.limits), session.read_body_into(body)).await;
        let more = read.map_err(|_| too_slow().closing())?.map_err(unreadable)?;
        let piece = more.then(|| body.len() - before);
        self.count(trip, piece)?;
        Ok(piece)
    }

    fn count(&mut self, trip: &mut Trip<'_>, piece: Option<usize>) -> Result<()> {
        let Some(piece) = piece else {
            trip.receiving += self.began.elapsed();
            return Ok(());
        };
        self.received += piece;
        trip.record.request_bytes += piece as u64;
        let limit = trip.snapshot.limits.body;
        if self.received > limit { Err(too_large(limit).closing()) } else { Ok(()) }
    }

    /// How long the next piece may take: until the whole body is late, or slower than the slowest allowed.
    fn patience(&self, limits: &Limits) -> Duration {
        let elapsed = self.began.elapsed();
        let total = limits.body_timeout.saturating_sub(elapsed);
        if limits.body_rate == 0 {
            return total;
        }
        let earned = Duration::from_secs_f64((self.received + limits.body_rate) as f64 / limits.body_rate as f64);
        total.min(earned.max(limits.body_grace).saturating_sub(elapsed))
    }
}

fn too_slow() -> Fault {
    let message = "The request body came too slowly. Send it again over a better connection.";
    Fault::refused(Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
}

fn unreadable(error: Error) -> Fault {
    match error {
        Error::Gone => Fault::ClientGone,
        Error::Malformed => Fault::bad("bad_framing", "The request body is badly framed.").closing(),
    }
}

/// Reads the whole body into the exchange.
///
/// # Errors
/// As [`Reader::next`]; 503 when the memory for bodies is spent.
pub(crate) async fn read_whole(session: &mut Session, trip: &mut Trip<'_>) -> Result<Bytes> {
    if matches!(trip.body, Body::None) {
        return Ok(Bytes::new());
    }
    let mut reader = Reader::begin(session, trip).await?;
    let mut body = BytesMut::new();
    while let Some(piece) = reader.next_into(session, trip, &mut body).await? {
        hold(trip, piece)?;
    }
    trip.body = Body::Whole;
    unpack(trip, body.freeze())
}

/// Reads a multipart body until its `model` part is known, and holds what it has read.
///
/// # Errors
/// As [`Reader::next`]; 400 if the form is malformed or names two models.
pub(crate) async fn read_form(session: &mut Session, trip: &mut Trip<'_>, boundary: &str) -> Result<Option<String>> {
    let mut finder = ModelFinder::new(boundary);
    let mut held = VecDeque::new();
    let mut reader = Reader::begin(session, trip).await?;
    loop {
        let Some(data) = reader.next(session, trip).await? else {
            trip.body = Body::Streamed { held, more: false };
            return finder.finish().map_err(bad_form);
        };
        hold(trip, data.len())?;
        finder.feed(&data).map_err(bad_form)?;
        held.push_back(data);
        if let Some(model) = finder.model() {
            let model = model.to_owned();
            trip.model_in_form = finder.model_range();
            // A backend might take the last of two models where we took the first: the rest is read as it passes.
            trip.form = Some(finder);
            trip.body = Body::Streamed { held, more: true };
            return Ok(Some(model));
        }
    }
}

/// Puts another name into a form that is held up to its model.
pub(crate) fn rename_in_form(trip: &mut Trip<'_>, served: &str) {
    let (Some(place), Body::Streamed { held, .. }) = (trip.model_in_form.take(), &mut trip.body) else { return };
    let mut renamed = BytesMut::with_capacity(held.iter().map(Bytes::len).sum::<usize>() + served.len());
    for data in held.iter() {
        renamed.extend_from_slice(data);
    }
    let rest = renamed.split_off(place.end);
    renamed.truncate(place.start);
    renamed.extend_from_slice(served.as_bytes());
    renamed.extend_from_slice(&rest);
    trip.grown = served.len() as i64 - place.len() as i64;
    *held = VecDeque::from([renamed.freeze()]);
}

/// 400: the form can be read in more than one way, or in none.
pub(crate) fn bad_form(fault: MultipartFault) -> Fault {
    let code = if fault == MultipartFault::Duplicate { "duplicate_field" } else { "bad_multipart" };
    Fault::bad(code, format!("The request cannot be understood: {fault}.")).closing()
}

fn hold(trip: &mut Trip<'_>, bytes: usize) -> Result<()> {
    if trip.share.grow(bytes, trip.memory) {
        return Ok(());
    }
    let message = "The gateway holds as many request bodies as it has memory for. Try again shortly.";
    Err(shed::no_memory(trip, message).closing())
}

/// Unpacks a compressed body, within its own limit: a small body must not become a large one.
fn unpack(trip: &mut Trip<'_>, body: Bytes) -> Result<Bytes> {
    let limit = match trip.snapshot.limits.compressed_bodies {
        CompressedBodies::Unpacked(limit) if trip.exchange.headers().contains_key(header::CONTENT_ENCODING) => limit,
        _ => return Ok(body),
    };
    let budget = trip.memory;
    let mut unpacked = Vec::new();
    let mut decoder = MultiGzDecoder::new(&body[..]).take(limit as u64 + 1);
    large(LARGE, || decoder.read_to_end(&mut unpacked))
        .map_err(|_| Fault::bad("bad_encoding", "The body is not the gzip that its content-encoding says."))?;
    if unpacked.len() > limit {
        return Err(too_large(limit));
    }
    if !trip.share.grow(unpacked.len(), budget) {
        return Err(shed::no_memory(trip, "The gateway has no memory to unpack this body now. Try again shortly."));
    }
    Ok(unpacked.into())
}

/// Runs `work` on `bytes` of data; if that is much, other requests move to other threads meanwhile.
pub(crate) fn large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LARGE { work() } else { tokio::task::block_in_place(work) }
}
