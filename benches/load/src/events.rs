//! The events of a stream, counted as they end.

use memchr::memchr;

/// What has been seen of them.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Whole events that carry data: comments, with which servers keep connections open, are none.
    pub count: u64,
    /// Whether one says `[DONE]`.
    pub done: bool,
    /// The event at hand has data.
    has_data: bool,
    /// How the line at hand begins: as much as it takes to know it.
    begin: [u8; LONGEST],
    /// Bytes of it in `begin`.
    known: usize,
}

/// The last event of a stream in OpenAI's protocol, with and without a space.
const DONE: [&[u8]; 2] = [b"data: [DONE]", b"data:[DONE]"];
const LONGEST: usize = DONE[0].len();

impl Events {
    /// Takes what has come.
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let end = memchr(b'\n', data);
            self.begin_line(&data[..end.unwrap_or(data.len())]);
            let Some(end) = end else { return };
            self.end_line();
            data = &data[end + 1..];
        }
    }

    fn begin_line(&mut self, part: &[u8]) {
        let taken = part.len().min(LONGEST - self.known);
        self.begin[self.known..self.known + taken].copy_from_slice(&part[..taken]);
        self.known += taken;
        self.done |= DONE.iter().any(|done| self.begin[..self.known].starts_with(done));
    }

    fn end_line(&mut self) {
        match &self.begin[..self.known] {
            // An empty line ends an event, whichever way lines end here.
            b"" | b"\r" => self.count += u64::from(std::mem::take(&mut self.has_data)),
            line => self.has_data |= line.starts_with(b"data"),
        }
        self.known = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(stream: &[u8], size: usize) -> Events {
        let mut events = Events::default();
        stream.chunks(size).for_each(|piece| events.feed(piece));
        events
    }

    #[test]
    fn events_are_those_with_data_whichever_way_lines_end() {
        let unix = b": ping\n\nevent: x\ndata: {\"a\":\"long enough\"}\n\n: ping\n\ndata:\n\ndata: [DONE]\n\n";
        let dos: Vec<u8> =
            unix.iter().flat_map(|byte| if *byte == b'\n' { vec![13, 10] } else { vec![*byte] }).collect();
        for stream in [&unix[..], &dos] {
            for size in 1..=stream.len() {
                let events = fed(stream, size);
                assert_eq!((events.count, events.done), (3, true), "{size}");
            }
        }
    }

    #[test]
    fn only_an_event_says_that_a_stream_is_done() {
        assert!(!fed(b"data: {\"content\":\"data: [DONE]\"}\n\ndata: [DON", 5).done);
        assert!(fed(b"data:[DONE]\n", 4).done);
    }
}
