//! Who is called when, and that no call is lost.

use super::*;
use crate::telemetry::Metrics;

fn queue(most: usize) -> Arc<Queue> {
    let settings = config::Queue { most, ..config::Queue::default() };
    Arc::new(Queue::new(settings, Metrics::new().queue("main")))
}

fn claim(tenant: &str) -> Claim {
    Claim { priority: 5, tenant: tenant.into(), weight: 1, cost: 10 }
}

const LONG: Duration = Duration::from_secs(60);

/// Whether it is called at once.
async fn is_called(ticket: &mut Ticket) -> bool {
    tokio::time::timeout(Duration::from_millis(20), ticket.called()).await.is_ok()
}

#[tokio::test]
async fn the_first_looks_at_once_and_a_place_calls_the_next() {
    let queue = queue(10);
    let mut first = queue.join(&claim("a"), LONG).ok().unwrap();
    assert!(is_called(&mut first).await);
    first.not_yet();
    let mut second = queue.join(&claim("a"), LONG).ok().unwrap();
    assert!(!is_called(&mut second).await);
    queue.freed();
    assert!(is_called(&mut first).await);
    first.served();
    assert!(!is_called(&mut second).await, "there was one place");
    drop(second);
    assert!(queue.is_empty());
}

#[tokio::test]
async fn a_place_that_comes_free_while_somebody_looks_is_not_lost() {
    let queue = queue(10);
    let mut ticket = queue.join(&claim("a"), LONG).ok().unwrap();
    assert!(is_called(&mut ticket).await);
    queue.freed();
    ticket.not_yet();
    assert!(is_called(&mut ticket).await);
}

#[tokio::test]
async fn who_leaves_when_called_passes_the_call_on() {
    let queue = queue(10);
    let mut first = queue.join(&claim("a"), LONG).ok().unwrap();
    assert!(is_called(&mut first).await);
    first.not_yet();
    let mut second = queue.join(&claim("a"), LONG).ok().unwrap();
    queue.freed();
    drop(first);
    assert!(is_called(&mut second).await);
}

#[tokio::test]
async fn those_who_wait_look_for_themselves_now_and_then() {
    let queue = queue(10);
    let began = Instant::now();
    let mut ticket = queue.join(&claim("a"), LONG).ok().unwrap();
    ticket.called().await;
    ticket.not_yet();
    // However often it does something else meanwhile.
    while tokio::time::timeout(LOOK / 10, ticket.called()).await.is_err() {
        assert!(began.elapsed() < LOOK * 50, "nobody looks");
    }
    assert!(began.elapsed() >= LOOK / 2);
}

#[tokio::test]
async fn a_full_queue_and_one_that_is_too_slow_let_nobody_in() {
    let queue = queue(2);
    let mut tickets: Vec<_> = (0..2).map(|_| queue.join(&claim("a"), LONG).ok().unwrap()).collect();
    assert_eq!(queue.join(&claim("a"), LONG).err().unwrap().0, NoWait::Full);
    tokio::time::sleep(Duration::from_millis(50)).await;
    tickets.remove(0).served();
    // One in 50 ms, and one is before.
    let (why, wait) = queue.join(&claim("a"), Duration::from_millis(10)).err().unwrap();
    assert!(why == NoWait::Hopeless && wait >= Duration::from_millis(90), "{why:?} {wait:?}");
    assert!(queue.join(&claim("a"), LONG).is_ok());
    assert!(queue.estimate().is_some_and(|wait| wait > Duration::from_millis(50)));
}
