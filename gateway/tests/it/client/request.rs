//! A request put together as plain HTTP/1.1 text.

use bytes::{Bytes, BytesMut};

use crate::wire;

/// A request; `Host` is `localhost` unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Bytes>,
    chunks: Option<usize>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let headers = vec![("Host".to_owned(), "localhost".to_owned())];
        Self { method: method.to_owned(), target: target.to_owned(), headers, body: None, chunks: None }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of this JSON text, as it is.
    pub(crate) fn post(target: &str, json: impl Into<Bytes>) -> Self {
        Self::new("POST", target).header("Content-Type", "application/json").body(json)
    }

    /// A chat request to `model` in a few bytes.
    pub(crate) fn chat(model: &str) -> Self {
        Self::post("/v1/chat/completions", chat_body(model, false))
    }

    /// The same, asking for a stream.
    pub(crate) fn stream(model: &str) -> Self {
        Self::post("/v1/chat/completions", chat_body(model, true))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a header out, `Host` for one.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn bearer(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body in chunks of this size instead of with a content-length.
    pub(crate) fn chunked(mut self, size: usize) -> Self {
        self.chunks = Some(size);
        self
    }

    pub(crate) fn method(&self) -> &str {
        &self.method
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub(crate) fn content(&self) -> Bytes {
        self.body.clone().unwrap_or_default()
    }

    /// The head alone, blank line included.
    pub(crate) fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match (&self.body, self.chunks) {
            (None, _) => {}
            (Some(_), Some(_)) => head.push_str("Transfer-Encoding: chunked\r\n"),
            (Some(body), None) => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
        }
        head + "\r\n"
    }

    /// The whole request as it goes over the wire.
    pub(crate) fn bytes(&self) -> Bytes {
        let mut bytes = BytesMut::from(self.head().as_bytes());
        let body = self.content();
        match self.chunks {
            Some(size) if self.body.is_some() => {
                body.chunks(size).for_each(|piece| bytes.extend_from_slice(&wire::chunk(piece)));
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            _ => bytes.extend_from_slice(&body),
        }
        bytes.freeze()
    }
}

/// The body of a small chat request.
pub(crate) fn chat_body(model: &str, stream: bool) -> String {
    let stream = if stream { r#","stream":true"# } else { "" };
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{stream}}}"#)
}
