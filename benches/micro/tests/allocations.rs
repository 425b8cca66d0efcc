//! What a hit takes of memory does not grow with the answer: what is kept goes out from where it lies, and what has to be
//! changed or unpacked on the way goes through one buffer.

use allocation_counter::measure;
use bytes::Bytes;
use tidegate_bench_micro::cache::{Cached, answered, stream, whole};

/// The most that a hit may take at one time, whatever the answer is: a frame to unpack into, twice, and small things.
const MOST: u64 = 160 << 10;

/// Bytes taken at most at one time by a hit.
fn peak(ids: &str, streams: bool, answer: &Bytes) -> u64 {
    let cached = Cached::new(ids, streams, answer);
    // What is made once, is made now.
    answered(&cached);
    let mut told = 0;
    let taken = measure(|| told = answered(&cached));
    assert_eq!(told, answer.len());
    taken.bytes_max
}

#[test]
fn a_hit_takes_no_memory_that_grows_with_the_answer() {
    for ids in ["fresh", "original"] {
        for (streams, make) in [(false, whole as fn(usize) -> Bytes), (true, stream)] {
            let [small, middle, large, largest] =
                [1, 64, 256, 3 << 10].map(|kib: usize| peak(ids, streams, &make(kib << 10)));
            let told = format!("{ids}, streams {streams}: {small} {middle} {large} {largest}");
            assert!(small < 16 << 10, "{told}");
            // Of a stream three blocks of 16 KiB: put together, without the usage that nobody asked for, and on its way.
            assert!(middle < 56 << 10, "{told}");
            assert!(large < MOST && largest < MOST, "{told}");
        }
    }
}
