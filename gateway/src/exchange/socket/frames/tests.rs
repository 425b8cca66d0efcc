//! Frames cut anywhere, in fragments, with pings between them, and frames that are none.

use super::*;
use proptest::prelude::*;

fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let plain = whole(first & 0x0f, payload);
    let head = plain.len() - payload.len();
    let mut frame = plain[..head].to_vec();
    frame[0] = first;
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

/// What passes, and the texts, of bytes that come in pieces of this size.
fn read(frames: &mut Frames, sent: &[u8], size: usize) -> Result<(Vec<u8>, Vec<String>), Unreadable> {
    let (mut passed, mut texts) = (Vec::new(), Vec::new());
    for piece in sent.chunks(size) {
        for part in frames.read(Bytes::copy_from_slice(piece))? {
            passed.extend(part.bytes);
            texts.extend(part.text.map(|text| String::from_utf8(text).unwrap()));
        }
    }
    Ok((passed, texts))
}

fn talk(mask: Option<[u8; 4]>) -> Vec<u8> {
    [
        frame(0x81, b"one", mask),
        frame(0x89, b"ping", mask),
        frame(0x01, b"tw", mask),
        frame(0x8a, b"", mask),
        frame(0x00, b"", mask),
        frame(0x80, b"o", mask),
        frame(0x82, &[0xff; 300], mask),
        frame(0x02, &[1], mask),
        frame(0x80, &[2; 70_000], mask),
        frame(0x81, "x".repeat(70_000).as_bytes(), mask),
        frame(0x81, b"", mask),
        frame(0x88, b"\x03\xe8bye", mask),
    ]
    .concat()
}

#[test]
fn bytes_pass_as_they_came_and_texts_are_read_wherever_they_are_cut() {
    for mask in [None, Some([1, 2, 3, 200])] {
        let sent = talk(mask);
        for (holds, size) in [(false, 1), (true, 1), (false, 7), (true, 13), (true, 4096), (false, usize::MAX)] {
            let mut frames = Frames::new(1 << 20, holds);
            let (passed, texts) = read(&mut frames, &sent, size).unwrap();
            let long = "x".repeat(70_000);
            assert_eq!(texts, ["one", "two", &*long, ""], "{size}");
            assert!(frames.is_between());
            // Held text goes on behind the control frames that came between its fragments.
            assert_eq!(passed.len(), sent.len());
            assert!(holds || passed == sent);
        }
    }
}

#[test]
fn a_held_text_goes_on_when_it_is_whole_and_not_before() {
    let mut frames = Frames::new(100, true);
    let sent = [frame(0x01, b"a", Some([9; 4])), frame(0x89, b"p", None), frame(0x80, b"b", Some([7; 4]))];
    assert_eq!(frames.read(sent[0].clone().into()).unwrap(), []);
    let ping = frames.read(sent[1].clone().into()).unwrap();
    assert!(ping.iter().all(|part| !part.between) && ping.iter().map(|part| part.bytes.len()).sum::<usize>() == 3);
    let parts = frames.read(sent[2].clone().into()).unwrap();
    let expected = [&sent[0][..], &sent[2][..]].concat();
    assert_eq!(parts, [Part { bytes: expected.into(), text: Some(b"ab".to_vec()), between: true }]);
}

#[test]
fn what_is_too_long_is_passed_unread_or_refused_where_it_would_be_held() {
    let sent = [frame(0x81, &[b'x'; 101], None), frame(0x81, b"y", None)].concat();
    let (passed, texts) = read(&mut Frames::new(100, false), &sent, 10).unwrap();
    assert_eq!((passed, texts), (sent.clone(), vec!["y".to_owned()]));
    assert_eq!(read(&mut Frames::new(100, true), &sent, 10), Err(Unreadable::TooLarge));
}

#[test]
fn what_is_no_frame_is_told() {
    for wrong in [
        frame(0xc1, b"compressed", None),
        frame(0x80, b"a continuation of nothing", None),
        [frame(0x01, b"a", None), frame(0x81, b"b", None)].concat(),
        frame(0x09, b"a ping in fragments", None),
        frame(0x89, &[0; 126], None),
        frame(0x83, b"a reserved opcode", None),
        vec![0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(read(&mut Frames::new(100, false), &wrong, 3), Err(Unreadable::Protocol), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_lost_or_made_up(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1..50_usize) {
        let mut frames = Frames::new(64, false);
        let mut passed = Vec::new();
        for piece in bytes.chunks(size) {
            match frames.read(Bytes::copy_from_slice(piece)) {
                Ok(parts) => parts.iter().for_each(|part| passed.extend_from_slice(&part.bytes)),
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(bytes.starts_with(&passed) && bytes.len() - passed.len() < 14);
        prop_assert!(frames.text.len() <= 64);
    }
}
