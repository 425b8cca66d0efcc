//! Compressed answers: frames of a bounded size, one after the other, so that telling one takes the memory of a frame and
//! not of the answer.

use super::entry::Form;
use crate::forms::Ids;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use zstd::bulk::{Decompressor, compress};
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

/// Bytes of an answer in one frame; more where a single event has more.
pub(super) const FRAME: usize = 64 << 10;

/// A quick level: what is compressed once is told many times.
const LEVEL: i32 = 3;

/// How far before an id or a time a frame ends rather than within what it is found by.
const APART: usize = 64;

/// Compresses an answer; none if that fails. No event, id or time is in two frames.
pub(super) fn pack(data: &Bytes, form: Form, ids: &Ids) -> Option<Bytes> {
    let whole = form != Form::Events;
    let fixed = if whole { ids.spans(data) } else { Vec::new() };
    let (mut packed, mut at) = (BytesMut::new(), 0);
    while at < data.len() {
        let most = data.len().min(at + FRAME);
        let end = match whole {
            true => {
                // From behind: what ends before one of them may end within the one before.
                let before = |end: usize, span: &Range<usize>| match span.start.saturating_sub(APART) {
                    start if start < end && end < span.end => start,
                    _ => end,
                };
                fixed.iter().rev().fold(most, before).max(at + 1)
            }
            false => at + super::replay::end_of_event(&data[at..], most - at),
        };
        packed.extend_from_slice(&compress(&data[at..end], LEVEL).ok()?);
        at = end;
    }
    Some(packed.freeze())
}

/// The lengths of the next frame, as it lies there and unpacked.
fn next(packed: &[u8]) -> Option<(usize, usize)> {
    let length = find_frame_compressed_size(packed).ok().filter(|length| *length > 0)?;
    let size = usize::try_from(get_frame_content_size(packed).ok()??).ok()?;
    Some((length, size))
}

/// Whether these are frames of `size` bytes in all.
pub(super) fn is_sound(mut packed: &[u8], size: usize) -> bool {
    let mut sum = 0_usize;
    while !packed.is_empty() {
        let Some((length, frame)) = next(packed) else { return false };
        let Some(more) = sum.checked_add(frame).filter(|more| *more <= size) else { return false };
        let Some(rest) = packed.get(length..) else { return false };
        (sum, packed) = (more, rest);
    }
    sum == size
}

/// Takes the next frame off `packed`, into `buffer`, whose memory is used again and again. None if it is none.
pub(super) fn unpack_next(
    packed: &mut Bytes,
    buffer: &mut BytesMut,
    unpacker: &mut Option<Decompressor<'static>>,
) -> Option<()> {
    let (length, size) = next(packed)?;
    if unpacker.is_none() {
        *unpacker = Some(Decompressor::new().ok()?);
    }
    buffer.clear();
    buffer.resize(size, 0);
    let written = unpacker.as_mut()?.decompress_to_buffer(&packed[..length], &mut buffer[..]).ok()?;
    let _ = packed.split_to(length);
    (written == size).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Endpoint;
    use crate::forms::Fresh;

    fn unpacked(mut packed: Bytes) -> Vec<Vec<u8>> {
        let (mut frames, mut buffer, mut unpacker) = (Vec::new(), BytesMut::new(), None);
        while !packed.is_empty() {
            unpack_next(&mut packed, &mut buffer, &mut unpacker).expect("a frame");
            frames.push(buffer.to_vec());
        }
        frames
    }

    #[test]
    fn frames_add_up_and_end_where_events_do() {
        let stream = Bytes::from("data: {\"a\":1}\n\n".repeat(20_000));
        let packed = pack(&stream, Form::Events, &Ids::default()).unwrap();
        let frames = unpacked(packed.clone());
        assert!(frames.len() >= 4 && frames.iter().all(|frame| frame.ends_with(b"\n\n") && frame.len() < FRAME + 20));
        assert_eq!(frames.concat(), stream);
        assert!(is_sound(&packed, stream.len()));
        assert!(!is_sound(&packed, stream.len() - 1) && !is_sound(&packed, stream.len() + 1));
        assert!(!is_sound(&packed[..packed.len() - 1], stream.len()) && !is_sound(b"nonsense", 8));
    }

    #[test]
    fn no_id_and_no_time_is_in_two_frames() {
        for blanks in (FRAME - 140..FRAME + 10).step_by(3) {
            let body = format!(r#"{{"x":"{}","id":"chatcmpl-0123","created":1700000000}}"#, "y".repeat(blanks));
            let body = Bytes::from(body);
            let ids = Ids::of_whole(Endpoint::Chat, &body);
            let fresh = Fresh::new(&ids, 1_800_000_000, 7);
            let told: Vec<u8> = unpacked(pack(&body, Form::Whole, &ids).unwrap())
                .into_iter()
                .flat_map(|mut frame| {
                    fresh.renew(&mut frame);
                    frame
                })
                .collect();
            assert!(told == fresh.whole(&body), "{blanks}");
            assert!(told.ends_with(b"\"created\":1800000000}"));
        }
    }
}
