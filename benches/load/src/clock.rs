//! When requests are due: at once in a closed loop, at fixed times in an open one.

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Hands out requests to the connections.
pub(crate) struct Clock {
    /// Requests that may still begin, if they are counted.
    left: Cell<Option<u64>>,
    /// When no request begins any more, if that is a matter of time.
    pub until: Option<Instant>,
    open: Option<Open>,
}

/// Requests of an open loop that are due.
struct Open {
    due: RefCell<VecDeque<Instant>>,
    some: Notify,
    rate: f64,
}

impl Clock {
    /// A clock for so many requests, or up to a moment, at a rate if there is one.
    pub(crate) fn new(requests: Option<u64>, until: Option<Instant>, rate: Option<f64>) -> Self {
        let open = rate.map(|rate| Open { due: RefCell::default(), some: Notify::new(), rate });
        Self { left: Cell::new(requests), until, open }
    }

    /// When the next request is due, for the connection that asks; none when there are no more.
    pub(crate) async fn next(&self) -> Option<Instant> {
        if let Some(open) = &self.open {
            loop {
                if let Some(due) = open.due.borrow_mut().pop_front() {
                    return Some(due);
                }
                if self.is_over() {
                    return None;
                }
                open.some.notified().await;
            }
        }
        (!self.is_over() && self.take()).then(Instant::now)
    }

    /// When requests were due that no connection has taken yet.
    pub(crate) fn waiting(&self) -> Vec<Instant> {
        self.open.as_ref().map_or_else(Vec::new, |open| open.due.borrow().iter().copied().collect())
    }

    fn is_over(&self) -> bool {
        self.left.get() == Some(0) || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn take(&self) -> bool {
        match self.left.get() {
            Some(0) => return false,
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
        true
    }

    /// Makes an open loop's requests due, one after the other, until there are no more. The runtime's own timer ticks
    /// in milliseconds, which is more than what is measured: this waits on the kernel's.
    ///
    /// # Errors
    /// The kernel has no timer for us.
    pub(crate) async fn run(&self) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd gives what that asks the caller to promise")]
        let timer = AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        let began = Instant::now();
        let mut count = 0_u64;
        while !self.is_over() {
            let due = began + Duration::from_secs_f64(count as f64 / open.rate);
            wait(&timer, due).await?;
            if !self.take() {
                break;
            }
            open.due.borrow_mut().push_back(due);
            open.some.notify_one();
            count += 1;
        }
        // Whoever waits for another request learns that there is none.
        open.some.notify_waiters();
        Ok(())
    }
}

async fn wait(timer: &AsyncFd<OwnedFd>, until: Instant) -> Result<()> {
    let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
        return Ok(());
    };
    let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    loop {
        let mut ready = timer.readable().await?;
        match rustix::io::read(timer, &mut [0; 8]) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            rung => return Ok(rung.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_loop_keeps_its_rate_and_says_when_each_request_was_due() {
        let began = Instant::now();
        let clock = Clock::new(Some(100), None, Some(1000.0));
        let (ran, dues) = tokio::join!(clock.run(), async {
            let mut dues = Vec::new();
            while let Some(due) = clock.next().await {
                dues.push(due);
            }
            dues
        });
        ran.unwrap();
        assert_eq!(dues.len(), 100);
        assert!(
            dues.windows(2)
                .all(|pair| (pair[1] - pair[0]).abs_diff(Duration::from_millis(1)) < Duration::from_micros(2))
        );
        assert!(began.elapsed() >= Duration::from_millis(99));
    }

    #[tokio::test]
    async fn requests_that_no_connection_is_free_for_stay_due_when_they_were() {
        let clock = Clock::new(Some(50), None, Some(10_000.0));
        clock.run().await.unwrap();
        let first = clock.next().await.unwrap();
        let waiting = clock.waiting();
        assert_eq!(waiting.len(), 49);
        assert!(waiting.iter().all(|due| *due > first && *due <= Instant::now()));
    }

    #[tokio::test]
    async fn a_closed_loop_ends_with_its_requests() {
        let clock = Clock::new(Some(2), None, None);
        assert!(clock.next().await.is_some() && clock.next().await.is_some());
        assert!(clock.next().await.is_none());
    }
}
