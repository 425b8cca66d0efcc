//! Connections that wait for their next request.
//!
//! Pingora's pool watches each of them with a task of its own, made and ended for every request, and now and then loses
//! one to a race between that task and the next request. Here they simply lie, the one used last on top, and are looked
//! at when they are taken.

use futures_util::FutureExt;
use pingora::protocols::Stream;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Idle connections to all peers, by what Pingora calls the hash under which they may be used again.
pub(super) struct Idle<S = Stream> {
    kept: Mutex<Kept<S>>,
    most: usize,
}

struct Kept<S> {
    by_peer: HashMap<u64, Vec<Waiting<S>>>,
    count: usize,
}

struct Waiting<S> {
    stream: S,
    until: Instant,
}

impl<S: AsyncRead + Unpin> Idle<S> {
    /// Keeps at most `most` connections; what comes beyond is closed.
    pub(super) fn new(most: usize) -> Self {
        Self { kept: Mutex::new(Kept { by_peer: HashMap::new(), count: 0 }), most }
    }

    /// Keeps a connection for as long as `idle`.
    pub(super) fn put(&self, peer: u64, stream: S, idle: Duration) {
        let mut kept = self.lock();
        if kept.count < self.most {
            kept.count += 1;
            kept.by_peer.entry(peer).or_default().push(Waiting { stream, until: Instant::now() + idle });
        }
    }

    /// The connection to `peer` that was used last, if there is one that is still good.
    pub(super) fn take(&self, peer: u64) -> Option<S> {
        loop {
            let mut waiting = {
                let mut kept = self.lock();
                let waiting = kept.by_peer.get_mut(&peer)?.pop()?;
                kept.count -= 1;
                waiting
            };
            if Instant::now() < waiting.until && is_quiet(&mut waiting.stream) {
                return Some(waiting.stream);
            }
        }
    }

    /// Closes what has waited too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut kept = self.lock();
        kept.by_peer.retain(|_, waiting| {
            late.extend(waiting.extract_if(.., |waiting| waiting.until <= now));
            !waiting.is_empty()
        });
        kept.count -= late.len();
        // Closing takes system calls: not with the lock held.
        drop(kept);
        drop(late);
    }

    fn lock(&self) -> MutexGuard<'_, Kept<S>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the backend has neither closed the connection nor sent anything on it.
fn is_quiet<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let mut byte = [0];
    // Unconstrained: a task that has used up its turn would find every connection quiet.
    tokio::task::unconstrained(stream.read(&mut byte)).now_or_never().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const LONG: Duration = Duration::from_secs(60);

    fn idle(most: usize) -> Idle<DuplexStream> {
        Idle::new(most)
    }

    #[tokio::test]
    async fn the_connection_used_last_is_used_next() {
        let (idle, (a, mut at_a), (b, mut at_b)) = (idle(9), duplex(9), duplex(9));
        idle.put(1, a, LONG);
        idle.put(1, b, LONG);
        assert!(idle.take(2).is_none());
        for peer in [&mut at_b, &mut at_a] {
            idle.take(1).unwrap().write_all(b"x").await.unwrap();
            assert_eq!(peer.read_u8().await.unwrap(), b'x');
        }
        assert!(idle.take(1).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_or_spoken_on_is_not_used() {
        let (idle, (closed, at_closed), (loud, mut at_loud)) = (idle(9), duplex(9), duplex(9));
        idle.put(1, closed, LONG);
        idle.put(1, loud, LONG);
        drop(at_closed);
        at_loud.write_all(b"x").await.unwrap();
        assert!(idle.take(1).is_none());
    }

    #[tokio::test]
    async fn a_connection_waits_for_its_time_and_no_longer() {
        let (idle, (late, mut at_late), (kept, _at_kept)) = (idle(9), duplex(9), duplex(9));
        idle.put(1, late, Duration::ZERO);
        assert!(idle.take(1).is_none());
        assert_eq!(at_late.read(&mut [0]).await.unwrap(), 0, "it was closed");

        let (late, mut at_late) = duplex(9);
        idle.put(1, late, Duration::ZERO);
        idle.put(1, kept, LONG);
        idle.sweep();
        assert_eq!(at_late.read(&mut [0]).await.unwrap(), 0, "it was closed");
        assert!(idle.take(1).is_some());
    }

    #[tokio::test]
    async fn there_is_an_end_to_how_many_wait() {
        let (idle, (a, _at_a), (b, mut at_b)) = (idle(1), duplex(9), duplex(9));
        idle.put(1, a, LONG);
        idle.put(2, b, LONG);
        assert_eq!(at_b.read(&mut [0]).await.unwrap(), 0, "it was closed");
        let a = idle.take(1).unwrap();
        idle.put(2, a, LONG);
        assert!(idle.take(2).is_some());
    }
}
