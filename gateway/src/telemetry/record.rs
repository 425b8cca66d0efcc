//! What became of one request: filled by the engine on the way, read once at the end by the metrics and the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_plugins::Source;
use tidegate_plugins::keys::mask;
use tidegate_plugins::tenants::Metadata;
use tidegate_plugins::usage::Usage;

use super::course::Course;
use super::ids::{RequestId, TraceContext};
use super::metrics::{HedgeOutcome, ResumeOutcome, RetryCause};

/// Longest path that is kept for the log, in bytes.
const PATH_LIMIT: usize = 256;

/// Everything that metrics and log say about one request. Nothing here is a label unless it comes from the configuration.
#[derive(Debug, Clone)]
pub struct Record {
    /// What its line is called: a request, or a copy of one.
    pub event: &'static str,
    /// The caller's `x-request-id`, or one of ours.
    pub request_id: RequestId,
    /// The caller's `x-correlation-id`, under the same rules.
    pub correlation_id: Option<RequestId>,
    /// The trace this request belongs to.
    pub trace: TraceContext,
    /// The client's address, as far as it is known (a Unix socket has none).
    pub client: Option<IpAddr>,
    /// The request's method.
    pub method: http::Method,
    /// The path without its query (keys travel in URLs), bounded: [`path_for_log`].
    pub path: Box<str>,
    /// The protocol the client spoke.
    pub http: http::Version,
    /// The endpoint's name, such as `chat_completions`.
    pub endpoint: &'static str,
    /// The GenAI operation: one of [`super::metrics`]'s operations, anything else counts as `other`.
    pub operation: &'static str,
    /// Who it is for, from the key.
    pub user: Option<Arc<str>>,
    /// The service that called, where no user did.
    pub service: Option<Arc<str>>,
    /// The caller's team.
    pub team: Option<Arc<str>>,
    /// The caller's organisation.
    pub org: Option<Arc<str>>,
    /// The id of the key (never the key).
    pub key_id: Option<Arc<str>>,
    /// What the caller is known by elsewhere; of this the log writes what its settings name.
    pub metadata: Option<Arc<Metadata>>,
    /// The model the client named, bounded, and without keys.
    pub model_asked: Option<Box<str>>,
    /// The model the backend was asked for.
    pub model_served: Option<Box<str>>,
    /// The backend that answered, or was tried last.
    pub backend: Option<Arc<str>>,
    /// Whose words the answer is.
    pub source: Source,
    /// How many backends were tried; 0 when the gateway answered by itself.
    pub attempts: u32,
    /// How long it waited for a backend to have a place.
    pub queued: Duration,
    /// Why it went on to a fallback, each time it did.
    pub fallback: Vec<&'static str>,
    /// What became of a second request, if one was made because the first was slow.
    pub hedge: Option<HedgeOutcome>,
    /// What became of its stream each time it broke, where the pool resumes streams.
    pub resumes: Vec<ResumeOutcome>,
    /// Whether tokens of a part of the stream were counted by us, because the backend that began it did not say.
    pub counted: bool,
    /// Why others were tried after the first.
    pub retried: Vec<RetryCause>,
    /// The status the client got; 499 when it left before the end.
    pub status: u16,
    /// The status the backend gave.
    pub upstream_status: Option<u16>,
    /// Who is to blame: exactly one.
    pub cause: Cause,
    /// What went wrong, for the log only.
    pub error: Option<Box<str>>,
    /// Whether the answer was an event stream.
    pub stream: bool,
    /// When the head had been read.
    pub started: Instant,
    /// When the last attempt's request had been written.
    pub sent: Option<Instant>,
    /// When the backend's head arrived.
    pub head: Option<Instant>,
    /// When the first token arrived.
    pub first_token: Option<Instant>,
    /// When the request was over.
    pub ended: Instant,
    /// How long the gateway waited for backends.
    pub upstream_time: Duration,
    /// What the gateway itself added: the engine computes it.
    pub overhead: Duration,
    /// Body bytes the client sent.
    pub request_bytes: u64,
    /// Body bytes the client was given.
    pub response_bytes: u64,
    /// Tokens, if any were counted.
    pub usage: Option<Usage>,
    /// Events of a stream that carried a piece of the answer.
    pub events: u64,
    /// The backend's own request id.
    pub upstream_request_id: Option<Box<str>>,
    /// What filters noted.
    pub notes: Vec<(&'static str, String)>,
    /// What it met on its way.
    pub course: Course,
}

impl Record {
    /// A record of a request whose head was just read; everything else is still to be found out.
    pub fn new(request_id: RequestId, trace: TraceContext, method: http::Method, path: &str) -> Self {
        let now = Instant::now();
        Self {
            event: "request",
            request_id,
            correlation_id: None,
            trace,
            client: None,
            method,
            path: path_for_log(path),
            http: http::Version::HTTP_11,
            endpoint: "other",
            operation: "other",
            user: None,
            service: None,
            team: None,
            org: None,
            key_id: None,
            metadata: None,
            model_asked: None,
            model_served: None,
            backend: None,
            source: Source::Gateway,
            attempts: 0,
            queued: Duration::ZERO,
            fallback: Vec::new(),
            hedge: None,
            resumes: Vec::new(),
            counted: false,
            retried: Vec::new(),
            status: 0,
            upstream_status: None,
            cause: Cause::None,
            error: None,
            stream: false,
            started: now,
            sent: None,
            head: None,
            first_token: None,
            ended: now,
            upstream_time: Duration::ZERO,
            overhead: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            usage: None,
            events: 0,
            upstream_request_id: None,
            notes: Vec::new(),
            course: Course::default(),
        }
    }

    /// How often another backend went on with its stream.
    pub fn resumed(&self) -> u64 {
        self.resumes.iter().filter(|how| **how == ResumeOutcome::Won).count() as u64
    }

    /// From the head to the end.
    pub fn duration(&self) -> Duration {
        self.ended.saturating_duration_since(self.started)
    }

    /// From the head to the first token, if there was one.
    pub fn time_to_first_token(&self) -> Option<Duration> {
        self.first_token.map(|at| at.saturating_duration_since(self.started))
    }

    /// The mean time between the tokens after the first; only for streams of two tokens or more.
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let later = u32::try_from(self.usage?.completion?.checked_sub(1)?).ok().filter(|n| *n > 0)?;
        let first = self.first_token.filter(|_| self.stream)?;
        Some(self.ended.saturating_duration_since(first) / later)
    }
}

/// Who is to blame for what became of a request: the error budget is split by it, and each request has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nobody: it went well.
    None,
    /// The client, in a way no other cause names.
    Client,
    /// The client's request makes no sense: JSON, model, method, path, size.
    Validation,
    /// A limit, a budget or the gateway's own admission said no.
    Limit,
    /// No key, or one that may not.
    Auth,
    /// The gateway itself.
    Gateway,
    /// A backend refused, broke off or answered with a failure.
    UpstreamError,
    /// A backend took too long.
    UpstreamTimeout,
    /// No backend had room, or it said so.
    UpstreamOverload,
    /// The client left before the end.
    ClientGone,
}

impl Cause {
    /// Every cause, in the order of the counters' slots.
    pub const ALL: [Cause; 10] = [
        Cause::None,
        Cause::Client,
        Cause::Validation,
        Cause::Limit,
        Cause::Auth,
        Cause::Gateway,
        Cause::UpstreamError,
        Cause::UpstreamTimeout,
        Cause::UpstreamOverload,
        Cause::ClientGone,
    ];

    /// The label value, and the word in the log.
    pub fn label(self) -> &'static str {
        match self {
            Cause::None => "none",
            Cause::Client => "client",
            Cause::Validation => "validation",
            Cause::Limit => "limit",
            Cause::Auth => "auth",
            Cause::Gateway => "gateway",
            Cause::UpstreamError => "upstream_error",
            Cause::UpstreamTimeout => "upstream_timeout",
            Cause::UpstreamOverload => "upstream_overload",
            Cause::ClientGone => "client_gone",
        }
    }
}

/// The path as the log may show it: without its query or fragment, without keys, and no longer than 256 bytes.
pub fn path_for_log(path: &str) -> Box<str> {
    bounded(&mask(path.split(['?', '#']).next().unwrap_or_default()), PATH_LIMIT)
}

/// The first `limit` bytes of what a client sent, cut between characters.
pub fn bounded(text: &str, limit: usize) -> Box<str> {
    text[..text.floor_char_boundary(limit)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut record =
            Record::new(RequestId::new(), TraceContext::start(), http::Method::POST, "/v1/chat/completions");
        record.first_token = Some(record.started + Duration::from_millis(100));
        record.ended = record.started + Duration::from_millis(400);
        record.stream = true;
        record.usage = Some(Usage { completion: Some(4), ..Usage::default() });
        record
    }

    #[test]
    fn the_first_token_is_not_one_of_those_that_time_per_token_divides_by() {
        assert_eq!(record().time_per_output_token(), Some(Duration::from_millis(100)));
        assert_eq!(record().time_to_first_token(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_single_token_or_a_whole_answer_has_no_time_per_token() {
        let mut one = record();
        one.usage = Some(Usage { completion: Some(1), ..Usage::default() });
        let mut none = record();
        none.usage = Some(Usage { completion: Some(0), ..Usage::default() });
        let whole = Record { stream: false, ..record() };
        for record in [one, none, whole, Record { usage: None, ..record() }] {
            assert_eq!(record.time_per_output_token(), None);
        }
    }

    #[test]
    fn a_path_loses_its_query_and_what_is_too_long() {
        assert_eq!(&*path_for_log("/v1/realtime?key=sk-secret"), "/v1/realtime");
        assert_eq!(&*path_for_log("/v1/tg-0123456789abcdefghjkmn"), "/v1/[key]");
        assert_eq!(path_for_log(&"/x".repeat(1000)).len(), 256);
        assert_eq!(&*bounded("ééé", 3), "é");
    }

    #[test]
    fn every_cause_has_a_slot_and_a_label_of_its_own() {
        let labels: std::collections::HashSet<_> = Cause::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Cause::ALL.len());
        for (slot, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, slot);
        }
    }
}
