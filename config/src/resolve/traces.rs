//! Where traces go, and within what bounds.

use http::uri::{Scheme, Uri};
use http::{HeaderName, HeaderValue};

use super::Resolver;
use crate::key_path::KeyPath;
use crate::settings::Traces;

/// The most of a body that goes with a span: collectors refuse messages of some MiB.
const MOST_CONTENT: usize = 64 << 10;

impl Resolver<'_> {
    pub(super) fn traces(&mut self, traces: &Traces) {
        let path = KeyPath::root().key("traces");
        let url = traces.url().parse::<Uri>().ok();
        let known = |url: &Uri| url.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        if !url.is_some_and(|url| known(&url) && url.host().is_some_and(|host| !host.is_empty())) {
            let help = "such as http://127.0.0.1:4318".to_owned();
            self.fault(&path.key("endpoint"), "this is not the URL of a collector", Some(help));
        }
        for (name, value) in &traces.headers {
            let path = path.key("headers").key(name);
            if name.parse::<HeaderName>().is_err() {
                self.fault_at_key(&path, "this is not the name of a header", None);
            } else if value.expose().parse::<HeaderValue>().is_err() {
                self.fault(&path, "this cannot be the value of a header", None);
            }
        }
        for (name, number) in [("batch", traces.batch), ("queue", traces.queue)] {
            if number == 0 {
                self.fault(&path.key(name), format!("`{name}` cannot be 0: no trace would ever be sent"), None);
            }
        }
        if traces.timeout.is_zero() {
            self.fault(&path.key("timeout"), "a timeout cannot be 0: nothing would ever be sent", None);
        }
        if traces.content > MOST_CONTENT {
            self.fault(&path.key("content"), "a span has no more than 64KiB of a body", None);
        }
    }
}
