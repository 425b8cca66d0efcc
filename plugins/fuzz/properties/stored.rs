use tidegate_plugins::filters::prompt_cache::stored::{rewritten, sealed};

/// What is read as a kept answer is exactly what was written; nothing breaks the reader, not even under a right hash.
pub(crate) fn stored(bytes: &[u8]) {
    for bytes in [bytes, &sealed(bytes)] {
        if let Some(again) = rewritten(bytes) {
            assert_eq!(again, bytes);
        }
    }
}

/// Of a kept answer nothing is read but all of it: no beginning, nothing with more behind it, nothing of which a bit has
/// changed, nothing of another version; and what lies behind a right hash is read as it stands or not at all.
pub(crate) fn stored_whole(written: &[u8], at: usize, bit: u32, version: u8) {
    assert!(rewritten(written).is_some_and(|again| again == written), "it was written so");
    let (mark, hash) = (5, 16);
    let at = at % written.len();
    assert!(rewritten(&written[..at]).is_none(), "the first {at} bytes");
    assert!(rewritten(&[written, &written[..=at]].concat()).is_none(), "{at} more bytes");
    let mut changed = written.to_vec();
    changed[at] ^= 1 << (bit % 8);
    assert!(rewritten(&changed).is_none(), "bit {bit} at {at}");
    let mut other = written.to_vec();
    other[mark - 1] = version;
    assert_eq!(rewritten(&other).is_some(), version == written[mark - 1], "version {version}");
    // Somebody who knows how to make the hash.
    stored(&changed[mark + hash..]);
    stored(&written[mark + hash..][..at.saturating_sub(mark + hash)]);
}
