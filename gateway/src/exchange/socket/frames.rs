//! The frames of a WebSocket (RFC 6455 section 5), read as they pass.
//!
//! Bytes go on as they came. Of text messages a copy is read, unmasked and put together from their fragments, up to a
//! bound; where a reader holds, a text message goes on only when it is whole, so that it can still be left out.

use bytes::{Buf, Bytes, BytesMut};

/// Why a side cannot be listened to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It breaks the protocol, or uses an extension that nobody has agreed on.
    Protocol,
    /// It holds a message that is longer than may be held.
    TooLarge,
}

/// Some of what came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The bytes, as they came.
    pub(super) bytes: Bytes,
    /// The text of the message that ends here; none if it was longer than is read.
    pub(super) text: Option<Vec<u8>>,
    /// Whether another message may be put in behind it.
    pub(super) between: bool,
}

/// Reads what one side sends.
#[derive(Debug)]
pub(super) struct Frames {
    /// The longest text that is read.
    most: usize,
    /// Whether text messages are held until they are whole.
    holds: bool,
    /// The beginning of a frame's head.
    buffer: BytesMut,
    frame: Frame,
    /// What the current message is; none between messages.
    message: Option<Kind>,
    text: Vec<u8>,
    /// Whether the message is longer than is read.
    unread: bool,
    held: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// The frame that is passing.
#[derive(Debug, Default)]
struct Frame {
    /// Bytes of payload still to come.
    left: u64,
    mask: [u8; 4],
    /// Bytes of payload that have come.
    seen: usize,
    is_control: bool,
    is_last: bool,
}

impl Frames {
    pub(super) fn new(most: usize, holds: bool) -> Self {
        let (buffer, held) = (BytesMut::new(), BytesMut::new());
        let (frame, text) = (Frame { is_last: true, ..Frame::default() }, Vec::new());
        Self { most, holds, buffer, frame, message: None, text, unread: false, held }
    }

    /// Whether nothing is under way: no frame, and no message in fragments.
    pub(super) fn is_between(&self) -> bool {
        self.message.is_none() && self.frame.left == 0 && self.buffer.is_empty()
    }

    /// Reads what came next.
    ///
    /// # Errors
    /// Why the rest cannot be read.
    pub(super) fn read(&mut self, mut data: Bytes) -> Result<Vec<Part>, Unreadable> {
        let mut parts = Vec::new();
        while !data.is_empty() {
            if self.frame.left > 0 {
                let length = usize::try_from(self.frame.left).unwrap_or(usize::MAX).min(data.len());
                let payload = data.split_to(length);
                self.payload(&payload)?;
                self.pass(&mut parts, payload);
            } else {
                let Some(head) = self.head(&mut data)? else { break };
                self.pass(&mut parts, head);
            }
        }
        Ok(parts)
    }

    /// Takes a frame's head; none if it is not whole yet.
    fn head(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, Unreadable> {
        loop {
            let needed = needed(&self.buffer);
            if self.buffer.len() == needed {
                let head = self.buffer.split().freeze();
                self.begin(&head)?;
                return Ok(Some(head));
            }
            if data.is_empty() {
                return Ok(None);
            }
            let more = (needed - self.buffer.len()).min(data.len());
            self.buffer.extend_from_slice(&data[..more]);
            data.advance(more);
        }
    }

    fn begin(&mut self, head: &[u8]) -> Result<(), Unreadable> {
        let (first, second) = (head[0], head[1]);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let (left, rest) = match second & 0x7f {
            126 => (number(&head[2..4]), &head[4..]),
            127 => (number(&head[2..10]), &head[10..]),
            short => (u64::from(short), &head[2..]),
        };
        let (is_last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let kind = match (opcode, self.message) {
            // Between the fragments of a message there may be control frames, and nothing else.
            (8..=10, _) if is_last && left <= 125 => None,
            (0, Some(kind)) => Some(kind),
            (1, None) => Some(Kind::Text),
            (2, None) => Some(Kind::Binary),
            _ => return Err(Unreadable::Protocol),
        };
        if first & 0x70 != 0 || left > i64::MAX.unsigned_abs() {
            return Err(Unreadable::Protocol);
        }
        let mask = rest.try_into().unwrap_or_default();
        self.frame = Frame { left, mask, seen: 0, is_control: kind.is_none(), is_last };
        self.message = kind.or(self.message);
        Ok(())
    }

    fn payload(&mut self, payload: &[u8]) -> Result<(), Unreadable> {
        let (frame, is_text) = (&mut self.frame, self.message == Some(Kind::Text));
        if is_text && !frame.is_control && !self.unread {
            match self.text.len() + payload.len() <= self.most {
                true => {
                    let mask = frame.mask.iter().cycle().skip(frame.seen % 4);
                    self.text.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
                }
                false if self.holds => return Err(Unreadable::TooLarge),
                false => {
                    self.unread = true;
                    self.text = Vec::new();
                }
            }
        }
        frame.seen = frame.seen.wrapping_add(payload.len());
        frame.left -= payload.len() as u64;
        Ok(())
    }

    /// Passes bytes of the current frame on, or holds them; says what ends with them.
    fn pass(&mut self, parts: &mut Vec<Part>, bytes: Bytes) {
        let is_over = self.frame.left == 0;
        if self.frame.is_control {
            let between = is_over && self.message.is_none();
            parts.push(Part { bytes, text: None, between });
            return;
        }
        let ends = is_over && self.frame.is_last;
        let is_text = self.message == Some(Kind::Text);
        let bytes = if is_text && self.holds {
            self.held.extend_from_slice(&bytes);
            if ends { self.held.split().freeze() } else { Bytes::new() }
        } else {
            bytes
        };
        let text = (ends && is_text && !self.unread).then(|| std::mem::take(&mut self.text));
        if ends {
            (self.message, self.unread) = (None, false);
        }
        if ends || !bytes.is_empty() {
            parts.push(Part { bytes, text, between: ends });
        }
    }
}

/// How long a frame's head is, as far as its beginning tells.
fn needed(beginning: &[u8]) -> usize {
    let Some(second) = beginning.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 != 0 { 4 } else { 0 }
}

/// A text message in one frame, as a server sends it.
pub(super) fn text(payload: &str) -> Bytes {
    whole(1, payload.as_bytes())
}

/// The frame that closes a connection, as a server sends it, with the reason.
pub(super) fn close(code: u16, reason: &str) -> Bytes {
    whole(8, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

fn whole(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 10);
    frame.extend_from_slice(&[0x80 | opcode]);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..126), _) => frame.extend_from_slice(&[short]),
        (_, Ok(length)) => {
            frame.extend_from_slice(&[126]);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.extend_from_slice(&[127]);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests;
