//! Waiting no longer than so long. The timers are Pingora's, which are shared and cheap to leave; but what is there at
//! once, as most is that a request waits for, asks no clock.

use pin_project_lite::pin_project;
use pingora::time::Elapsed;
use pingora::time::fast_timeout::FastOrTokioTimeout;
use std::convert::Infallible;
use std::future::{Future, Pending, pending};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Waits for `future`, but no longer than `patience` from when it first has to be waited for.
pub(crate) fn timeout<F: Future>(patience: Duration, future: F) -> Timeout<F> {
    Timeout { future, patience, timer: None }
}

pin_project! {
    /// See [`timeout`].
    #[must_use = "nothing happens unless it is awaited"]
    pub(crate) struct Timeout<F> {
        #[pin]
        future: F,
        patience: Duration,
        timer: Option<pingora::time::Timeout<Pending<Infallible>, FastOrTokioTimeout>>,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        let timer = this.timer.get_or_insert_with(|| pingora::time::timeout(*this.patience, pending()));
        Pin::new(timer).poll(context).map_ok(|never| match never {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_never_comes_is_waited_for_no_longer_than_said() {
        assert!(timeout(Duration::from_millis(1), pending::<()>()).await.is_err());
        let late = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            7
        };
        assert_eq!(timeout(Duration::from_secs(600), late).await.ok(), Some(7));
        assert_eq!(timeout(Duration::ZERO, async { 7 }).await.ok(), Some(7), "what is there is taken");
    }
}
