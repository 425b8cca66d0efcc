use bytes::Bytes;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::events::{EventCutter, Events, StreamWatch};
use tidegate_plugins::usage::Usage;

use super::reference;

const ENDPOINTS: [Endpoint; 4] = [Endpoint::Chat, Endpoint::Messages, Endpoint::Responses, Endpoint::Audio];

/// However a stream is cut, the same events come out, whole and in order, and are judged the same.
pub(crate) fn events(stream: &[u8]) {
    let whole = Outcome::of(&[stream]);
    assert_eq!(whole.dispatched, reference::dispatched(stream));
    // At every position of a short stream; a long one would take a fuzzer's whole time.
    for cut in (0..stream.len()).step_by(1 + stream.len() / 256) {
        assert_eq!(Outcome::of(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
    }
    for length in [1, 2, 3, 7] {
        assert_eq!(Outcome::of(&stream.chunks(length).collect::<Vec<_>>()), whole, "cut every {length}");
    }
    within_the_limit(stream);
}

#[derive(Debug, PartialEq)]
struct Outcome {
    /// Name and data of each event that a client dispatches.
    dispatched: Vec<(Vec<u8>, Vec<u8>)>,
    judged: Vec<(bool, bool, bool, u64, Option<Usage>)>,
    passed_on: Vec<usize>,
}

impl Outcome {
    fn of(chunks: &[&[u8]]) -> Self {
        let mut cutter = EventCutter::new(usize::MAX);
        let push = |chunk: &&[u8]| cutter.push(Bytes::copy_from_slice(chunk)).expect("there is no limit");
        let blocks: Vec<Bytes> = chunks.iter().filter_map(push).collect();
        let rest = cutter.finish().unwrap_or_default();
        nothing_is_lost(chunks, &blocks, &rest);
        let events = blocks.iter().flat_map(|block| Events::new(block)).filter(|event| !event.is_comment_only());
        let dispatched = events.map(|event| (event.name.unwrap_or_default().to_vec(), event.payload().into_owned()));
        let dispatched = dispatched.collect();
        let (judged, passed_on) = ENDPOINTS.map(|endpoint| judge(endpoint, &blocks)).into_iter().unzip();
        Self { dispatched, judged, passed_on }
    }
}

fn nothing_is_lost(chunks: &[&[u8]], blocks: &[Bytes], rest: &[u8]) {
    assert_eq!([&blocks.concat(), rest].concat(), chunks.concat());
    for block in blocks {
        assert!(matches!(block.last(), Some(b'\n' | b'\r')));
        // Nothing of a block lies outside of its events but blank lines, and each event ends within it.
        let mut end = 0;
        for event in Events::new(block) {
            assert!(block[end..event.start].iter().all(|byte| matches!(byte, b'\n' | b'\r')));
            end = event.end;
        }
        assert!(block[end..].iter().all(|byte| matches!(byte, b'\n' | b'\r')));
    }
    assert_eq!(EventCutter::new(usize::MAX).push(Bytes::copy_from_slice(rest)), Ok(None));
}

/// What a watch makes of the blocks, and how many of their bytes belong to the stream.
fn judge(endpoint: Endpoint, blocks: &[Bytes]) -> ((bool, bool, bool, u64, Option<Usage>), usize) {
    let mut watch = StreamWatch::new(endpoint);
    let mut passed_on = 0;
    for block in blocks {
        let seen = watch.see(block);
        assert_eq!(watch.saw_done(), seen.done_at.is_some());
        passed_on += seen.done_at.unwrap_or(block.len());
    }
    assert!(!(watch.complete() && watch.saw_error()));
    // A CRLF that is cut is finished behind the end, and of no use to anyone there.
    let passed_on = if watch.saw_done() { 0 } else { passed_on };
    ((watch.complete(), watch.saw_done(), watch.saw_error(), watch.content_events(), watch.usage()), passed_on)
}

/// What is held never grows beyond the limit, and what keeps within it passes as without one.
fn within_the_limit(stream: &[u8]) {
    const LIMIT: usize = 16;
    let mut cutter = EventCutter::new(LIMIT);
    for chunk in stream.chunks(5) {
        let held = match cutter.push(Bytes::copy_from_slice(chunk)) {
            Ok(_) => cutter.finish().unwrap_or_default(),
            Err(_) => return,
        };
        assert!(held.len() <= LIMIT);
        assert_eq!(cutter.push(held), Ok(None));
    }
}
