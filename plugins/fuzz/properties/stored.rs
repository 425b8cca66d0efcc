use tidegate_plugins::filters::prompt_cache::stored::{rewritten, sealed};

/// What is read as a kept answer is exactly what was written; nothing breaks the reader, not even under a right hash.
pub(crate) fn stored(bytes: &[u8]) {
    for bytes in [bytes, &sealed(bytes)] {
        if let Some(again) = rewritten(bytes) {
            assert_eq!(again, bytes);
        }
    }
}
