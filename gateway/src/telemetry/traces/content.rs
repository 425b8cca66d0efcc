//! The beginnings of what was asked and answered, where the file wants that in traces.

/// The beginnings of a request's body and of its answer's.
#[derive(Debug, Default)]
pub struct Content {
    most: usize,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Content {
    /// Up to `most` bytes of each.
    pub fn up_to(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// The request's body is this.
    pub fn asked(&mut self, body: &[u8]) {
        self.request = body[..body.len().min(self.most)].to_vec();
    }

    /// The answer goes on with this.
    pub fn answered(&mut self, piece: &[u8]) {
        let room = self.most - self.answer.len();
        self.answer.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// What was asked, and what was answered, as text.
    pub(super) fn told(&self) -> [String; 2] {
        [&self.request, &self.answer].map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn weight(&self) -> usize {
        self.request.capacity() + self.answer.capacity()
    }
}
