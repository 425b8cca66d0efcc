use super::*;
use crate::reply::Pieces;
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode};

fn head() -> Head {
    Head { status: StatusCode::OK, headers: HeaderMap::new() }
}

fn next(reader: &mut Reader) -> Option<Option<Result<Bytes, Refusal>>> {
    let reader: &mut dyn Pieces = reader;
    reader.next().now_or_never()
}

#[test]
fn every_reader_gets_all_of_it_at_its_own_pace() {
    let recording = Recording::new(1 << 20, false);
    let mut early = recording.reader().unwrap();
    assert!(early.opening().now_or_never().is_none());
    recording.begin(&head(), false);
    assert!(!early.opening().now_or_never().unwrap().unwrap().poor);
    recording.push(&Bytes::from_static(b"one "));
    assert_eq!(next(&mut early).unwrap().unwrap().unwrap(), "one ");
    assert!(next(&mut early).is_none());
    recording.push(&Bytes::from_static(b"two "));
    recording.push(&Bytes::from_static(b"three"));
    let mut late = recording.reader().unwrap();
    // What has piled up comes together.
    assert_eq!(next(&mut late).unwrap().unwrap().unwrap(), "one two three");
    assert!(late.ended().now_or_never().is_none());
    recording.finish(None);
    assert!(late.ended().now_or_never().unwrap().is_ok());
    assert_eq!(recording.body(), "one two three");
    assert_eq!(next(&mut early).unwrap().unwrap().unwrap(), "two three");
    assert!(next(&mut early).unwrap().is_none() && next(&mut late).unwrap().is_none());
}

#[test]
fn what_is_too_long_loses_its_beginning_and_those_who_are_still_there() {
    let recording = Recording::new(100, false);
    recording.begin(&head(), false);
    let (mut quick, mut slow) = (recording.reader().unwrap(), recording.reader().unwrap());
    for _ in 0..10 {
        recording.push(&Bytes::from_static(&[b'x'; 30]));
        assert_eq!(next(&mut quick).unwrap().unwrap().unwrap().len(), 30);
    }
    assert!(recording.reader().is_none());
    assert!(recording.weight() < 100 + 1000);
    assert_eq!(next(&mut slow).unwrap().unwrap().unwrap_err().code, Some("fell_behind"));
    assert!(matches!(slow.ended().now_or_never(), Some(Err(Failure::Behind))));
    recording.finish(None);
    assert!(!recording.is_complete());
}

#[test]
fn a_failure_is_told_where_it_happens_and_only_the_first_one() {
    let recording = Recording::new(1 << 20, false);
    recording.begin(&head(), false);
    recording.push(&Bytes::from_static(b"one"));
    recording.fail(Failure::Backend(Refusal::new(StatusCode::BAD_GATEWAY, "upstream_error", "Gone.")));
    recording.fail(Failure::Unasked);
    recording.finish(None);
    let mut reader = recording.reader().unwrap();
    assert!(reader.opening().now_or_never().unwrap().is_ok());
    assert_eq!(next(&mut reader).unwrap().unwrap().unwrap(), "one");
    assert_eq!(next(&mut reader).unwrap().unwrap().unwrap_err().code, Some("upstream_error"));
}

#[test]
fn whoever_writes_hears_that_the_last_reader_has_left() {
    let recording = Recording::new(1 << 20, false);
    let left = || std::future::poll_fn(|context| recording.poll_left(context));
    assert!(left().now_or_never().is_some());
    let (one, other) = (recording.reader(), recording.reader());
    let mut waiting = Box::pin(left());
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(one);
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(other);
    assert!(waiting.as_mut().now_or_never().is_some());
    let kept = Recording::new(1 << 20, true);
    assert!(std::future::poll_fn(|context| kept.poll_left(context)).now_or_never().is_none());
}

#[test]
fn small_pieces_do_not_hold_the_large_buffers_they_were_cut_from() {
    let recording = Recording::new(1 << 20, false);
    recording.begin(&head(), false);
    let large = Bytes::from(vec![b'x'; 64 << 10]);
    let kept: Vec<_> = (0..100).map(|at| recording.push(&large.slice(at..at + 10))).collect();
    assert!(large.is_unique());
    // One buffer holds many.
    assert!(kept.windows(2).filter(|pair| pair[0].as_ptr().addr() + 10 == pair[1].as_ptr().addr()).count() > 90);
}

/// What threads may do to each other: nobody sleeps through the end.
#[test]
fn no_reader_sleeps_through_the_end() {
    for _ in 0..200 {
        let recording = Recording::new(1 << 20, false);
        let readers: Vec<_> = (0..4).map(|_| recording.reader().unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let reading: Vec<_> = readers
            .into_iter()
            .map(|mut reader| runtime.spawn(async move { reader.ended().await.map(|()| reader.recording().body()) }))
            .collect();
        recording.begin(&head(), false);
        for _ in 0..10 {
            recording.push(&Bytes::from_static(b"0123456789"));
        }
        recording.finish(None);
        runtime.block_on(async {
            for reading in reading {
                let read = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await;
                assert_eq!(read.unwrap().unwrap().unwrap().len(), 100);
            }
        });
    }
}
