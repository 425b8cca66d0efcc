use serde_json::Value;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::forms::{Fresh, Ids, Shape, events, whole};
use tidegate_plugins::splice::split_usage;

const ENDPOINTS: [Endpoint; 4] = [Endpoint::Chat, Endpoint::Completions, Endpoint::Messages, Endpoint::Responses];

/// Whatever bytes they are, they are read without harm; of a document, every event that is made is one too; and what is
/// given anew is as long as it was.
pub(crate) fn forms(bytes: &[u8]) {
    let is_document = serde_json::from_slice::<Value>(bytes).is_ok();
    for endpoint in ENDPOINTS {
        for usage in [false, true] {
            let made = events(endpoint, bytes, Shape { usage, piece: 3 });
            for event in made.iter().flatten().filter(|_| is_document) {
                let data = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: "));
                let data = data.expect("an event has data");
                assert!(data == b"[DONE]" || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok());
            }
        }
        let _ = whole(endpoint, bytes);
        let block = bytes::Bytes::copy_from_slice(bytes);
        for ids in [Ids::of_events(endpoint, bytes), Ids::of_whole(endpoint, bytes)] {
            let fresh = Fresh::new(&ids, 1_800_000_000, 7);
            let told = fresh.whole(&block);
            assert_eq!(told.len(), block.len());
            assert_eq!(fresh.segments(&block).concat(), told);
        }
    }
    if let Some((left, taken)) = split_usage(bytes) {
        assert!(left.len() + taken.len() <= bytes.len());
    }
}
