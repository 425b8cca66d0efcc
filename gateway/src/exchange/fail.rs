//! The only place where a fault becomes an answer.
//!
//! A fault says who is to blame (its [`Cause`], for the error budget) and carries two messages: one for the caller,
//! in its [`Refusal`], and one for the log, which may name addresses.

use super::Trip;
use crate::telemetry::{BackendFault, Cause};
use crate::upstream::{Attempt, NoBackend};
use http::StatusCode;
use std::fmt::Display;
use std::time::Duration;
use tidegate_plugins::Refusal;
use tidegate_plugins::call::CallFault;

/// Why a request does not get an answer from a backend.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The client left; nobody is there to be answered.
    ClientGone,
    /// The caller is told; `log` says what it is not told.
    Told {
        /// What the caller is told.
        refusal: Box<Refusal>,
        /// Who is to blame.
        cause: Cause,
        /// For the log.
        log: Option<String>,
        /// Whether what is left of the request makes the connection unusable.
        close: bool,
    },
}

/// What the road returns.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// What a fault after a connection was made counts as, on the side of the backend. Connections that could not be made
/// are counted where they are made, since another backend may then answer.
pub(super) fn counted(refusal: &Refusal, trip: &Trip<'_>) -> Option<BackendFault> {
    Some(match refusal.code? {
        "upstream_error" if trip.record.upstream_status.is_some() => BackendFault::Truncated,
        "upstream_error" => BackendFault::Broken,
        "upstream_malformed" => BackendFault::Malformed,
        "upstream_auth" => BackendFault::Auth,
        "upstream_timeout" | "first_token_timeout" | "idle_timeout" | "total_timeout" => BackendFault::Timeout,
        _ => return None,
    })
}

/// What a fault that ends a request says about the backend that was asked last, as far as its code tells more than its
/// cause: that a client's patience or the time for the whole request is over is not the backend's fault.
pub(super) fn judge(attempt: &Attempt, refusal: &Refusal) {
    match refusal.code {
        Some("upstream_timeout" | "first_token_timeout") => attempt.silent(),
        Some("client_deadline" | "total_timeout") => attempt.said_nothing(),
        _ => {}
    }
}

/// Which wait was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For the answer's head.
    FirstByte,
    /// For the first event of a stream.
    FirstToken,
    /// For the next event, or the next piece of an answer.
    Idle,
    /// For all of it.
    Total,
    /// What the client itself said it would wait.
    Client,
}

impl Fault {
    /// Whether it is that a stream broke which had begun well.
    pub(super) fn is_break(&self) -> bool {
        let Self::Told { refusal, .. } = self else { return false };
        matches!(refusal.code, Some("upstream_error" | "idle_timeout" | "first_token_timeout"))
    }

    /// Whether another backend might have fared better: nobody has left, and the process goes on.
    pub(super) fn is_of_the_backend(&self) -> bool {
        matches!(self, Self::Told { refusal, cause, .. }
            if *cause != Cause::Gateway && !matches!(refusal.code, Some("total_timeout" | "client_deadline")))
    }

    fn told(refusal: Refusal, cause: Cause, log: Option<String>) -> Self {
        Self::Told { refusal: Box::new(refusal), cause, log, close: false }
    }

    /// The caller asked for something it cannot have.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let cause = match refusal.status.as_u16() {
            429 => Cause::Limit,
            401 | 403 => Cause::Auth,
            _ => Cause::Validation,
        };
        Self::told(refusal, cause, None)
    }

    /// The request is malformed; `code` and `message` are for the caller.
    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::refused(Refusal::new(StatusCode::BAD_REQUEST, code, message))
    }

    /// The body is not the JSON it should be.
    pub(crate) fn call(fault: &CallFault) -> Self {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, fault.code(), fault.to_string());
        Self::refused(refusal.param(fault.param))
    }

    /// A fault of ours: the caller learns nothing but its id.
    pub(crate) fn ours(log: impl Display) -> Self {
        let refusal = Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "The gateway failed to handle this request. Give its operator the request id.",
        );
        Self::told(refusal, Cause::Gateway, Some(log.to_string()))
    }

    /// The gateway has no room for this request, and expects to have some after `wait`.
    pub(crate) fn no_room(message: &str, wait: Duration) -> Self {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        Self::told(refusal.retry_after(wait), Cause::Gateway, None)
    }

    /// The process ends, and this request has had its time.
    pub(super) fn leaving() -> Self {
        let message = "The gateway is being restarted, and the time it gives open requests is over. Try again.";
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message);
        Self::told(refusal.retry_after(Duration::from_secs(1)), Cause::Gateway, None)
    }

    /// No backend takes the request.
    pub(crate) fn no_backend(why: NoBackend, model: &str) -> Self {
        let (code, message, wait) = match why {
            NoBackend::Down(wait) => {
                ("no_healthy_backend", format!("No backend that answers for '{model}' is up. Try again later."), wait)
            }
            NoBackend::Resting(wait) => (
                "overloaded",
                format!("Every backend that answers for '{model}' has asked not to be called for a while."),
                wait,
            ),
            NoBackend::Busy | NoBackend::Tried => (
                "overloaded",
                format!("Every backend that answers for '{model}' is busy. Try again shortly."),
                Duration::from_secs(1),
            ),
        };
        let cause = match why {
            NoBackend::Busy | NoBackend::Resting(_) => Cause::UpstreamOverload,
            NoBackend::Down(_) | NoBackend::Tried => Cause::UpstreamError,
        };
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self::told(refusal.retry_after(wait), cause, None)
    }

    /// The backend answered with an error that cannot be passed on as it came.
    pub(super) fn answered(status: StatusCode, told: Option<&str>, log: String) -> Self {
        let cause = super::whole::cause(status);
        let (code, message) = super::whole::in_our_words(cause, told);
        Self::told(Refusal::new(status, code, message), cause, Some(log))
    }

    /// The queue for its backends does not serve it: too many wait, or it would take too long.
    pub(super) fn queue(full: bool, model: &str, status: u16, wait: Duration) -> Self {
        let (code, why) = match full {
            true => ("queue_full", "as many requests as may wait for it do"),
            false => ("queue_timeout", "it would take longer than this request can wait"),
        };
        let message = format!("Every backend that answers for '{model}' is busy, and {why}. Try again later.");
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self::told(Refusal::new(status, code, message).retry_after(wait), Cause::UpstreamOverload, None)
    }

    /// The backend could not be connected to, or broke off, or sent what is no answer.
    pub(crate) fn upstream(code: &'static str, message: &str, log: impl Display) -> Self {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, code, message);
        Self::told(refusal, Cause::UpstreamError, Some(log.to_string()))
    }

    /// The backend could not be connected to.
    pub(crate) fn unreachable(log: impl Display) -> Self {
        Self::upstream("upstream_unreachable", "The backend could not be reached. Try again.", log)
    }

    /// The backend broke off.
    pub(crate) fn broken(log: impl Display) -> Self {
        Self::upstream("upstream_error", "The backend broke off before its answer was complete. Try again.", log)
    }

    /// The backend answered, but not in its protocol.
    pub(crate) fn malformed(log: impl Display) -> Self {
        Self::upstream("upstream_malformed", "The backend's answer could not be understood.", log)
    }

    /// The backend took too long.
    pub(crate) fn timed_out(wait: Wait) -> Self {
        let (code, what) = match wait {
            Wait::FirstByte => ("upstream_timeout", "did not begin to answer in time"),
            Wait::FirstToken => ("first_token_timeout", "did not send its first token in time"),
            Wait::Idle => ("idle_timeout", "stopped sending in the middle of its answer"),
            Wait::Total => ("total_timeout", "did not finish its answer in the time a request may take"),
            Wait::Client => ("client_deadline", "did not answer within the time this client waits"),
        };
        let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, code, format!("The backend {what}."));
        Self::told(refusal, Cause::UpstreamTimeout, None)
    }

    /// What another request's answer, or a kept one, ended with.
    pub(super) fn of_pieces(refusal: Refusal) -> Self {
        let cause = match refusal.status.as_u16() {
            502 => Cause::UpstreamError,
            504 => Cause::UpstreamTimeout,
            400..=499 => Cause::Client,
            _ => Cause::Gateway,
        };
        Self::told(refusal, cause, None)
    }

    /// Marks the connection as unusable after the answer.
    #[must_use]
    pub(crate) fn closing(mut self) -> Self {
        if let Self::Told { close, .. } = &mut self {
            *close = true;
        }
        self
    }
}
