//! Whether a kept connection that ended under a request had been closed before the backend got to see that request. Then
//! nothing was run, and the same backend may have it on a new connection. See
//! docs/decisions/0013-what-a-dead-connection-proves.md.

use super::error::Error;
use std::time::Duration;

/// How much later than a packet's way there and back the end of a connection may be seen, and still count as one that had
/// been under way when the request was sent.
const SLACK: Duration = Duration::from_millis(100);

/// What the system knows of how a connection ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ending {
    /// Whether the backend's side has taken all that was sent.
    pub taken: bool,
    /// Between what was last sent and what last came, if that can be told.
    pub after: Option<Duration>,
    /// A packet's way there and back.
    pub round_trip: Duration,
}

/// Linux: the connection is gone, by a reset.
const TCP_CLOSE: u8 = 7;

impl Ending {
    /// What `info` says of a connection whose end has been read.
    #[cfg(target_os = "linux")]
    pub(super) fn read(info: &pingora::protocols::l4::ext::TCP_INFO) -> Self {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let is_reset = info.tcpi_state == TCP_CLOSE;
        Self {
            taken: !is_reset && info.tcpi_unacked == 0 && info.tcpi_notsent_bytes == 0,
            // A reset is no answer to anything.
            after: (!is_reset).then(|| millis(info.tcpi_last_data_sent.saturating_sub(info.tcpi_last_ack_recv))),
            round_trip: Duration::from_micros(info.tcpi_rtt.into()),
        }
    }
}

/// Whether `error`, seen `since` the request was sent whole, shows that the connection had been closed before. Of a
/// connection over TCP, `ending` says more than the clock.
pub(super) fn was_closed_before(error: &Error, since: Duration, ending: Option<Ending>) -> bool {
    if !error.is_unanswered() {
        return false;
    }
    let ending = ending.unwrap_or(Ending { taken: true, ..Ending::default() });
    // Who closes in good order has taken what it has read: what it has not taken it has not read.
    let in_order = matches!(error, Error::Disconnected { cause: None, .. });
    if in_order && !ending.taken {
        return true;
    }
    ending.after.filter(|_| in_order).unwrap_or(since) <= ending.round_trip + SLACK
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, ErrorKind};

    const LATE: Duration = Duration::from_millis(300);

    fn closed() -> Error {
        Error::Disconnected { bytes_read: false, cause: None }
    }

    fn reset() -> Error {
        Error::Disconnected { bytes_read: false, cause: Some(io::Error::from(ErrorKind::ConnectionReset)) }
    }

    #[test]
    fn what_the_backend_has_not_taken_it_has_not_run() {
        let ending = Ending { taken: false, ..Ending::default() };
        assert!(was_closed_before(&closed(), LATE, Some(ending)), "however late it is seen");
    }

    #[test]
    fn what_it_has_taken_it_may_have_run_unless_it_closed_at_once() {
        let taken = |after| Some(Ending { taken: true, after: Some(after), ..Ending::default() });
        assert!(!was_closed_before(&closed(), LATE, taken(LATE)));
        assert!(
            was_closed_before(&closed(), LATE, taken(Duration::from_millis(1))),
            "the system's clock counts, not ours"
        );
        assert!(was_closed_before(&closed(), Duration::ZERO, None), "no such clock");
        assert!(!was_closed_before(&closed(), LATE, None));
    }

    #[test]
    fn a_reset_is_told_by_when_it_came() {
        for taken in [false, true] {
            let far = Ending { taken, after: None, round_trip: LATE };
            assert!(!was_closed_before(&reset(), LATE, Some(Ending { round_trip: Duration::ZERO, ..far })));
            assert!(was_closed_before(&reset(), LATE, Some(far)), "it takes a while to come from so far away");
        }
    }

    #[test]
    fn who_has_begun_to_answer_has_seen_the_request() {
        let begun = Error::Disconnected { bytes_read: true, cause: None };
        assert!(!was_closed_before(&begun, Duration::ZERO, Some(Ending::default())));
    }
}
