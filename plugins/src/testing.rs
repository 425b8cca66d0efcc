//! Runs one filter without a gateway.

use crate::call::{Call, Endpoint};
use crate::exchange::{Exchange, RequestHead};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// A chat request with `body`, as a filter would see it.
pub fn exchange(body: &str) -> Exchange {
    exchange_with(body, &[])
}

/// A chat request with `body` and `headers`. Headers that are none are left out.
pub fn exchange_with(body: &str, headers: &[(&str, &str)]) -> Exchange {
    let headers: HeaderMap = headers
        .iter()
        .filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
        })
        .collect();
    let head = RequestHead { method: Method::POST, path: "/v1/chat/completions".into(), query: None, headers };
    let mut exchange = Exchange::new(head, Endpoint::Chat, "test".into(), None);
    let call = Call::read(body.as_bytes(), Endpoint::Chat).ok();
    if let Some(model) = call.as_ref().and_then(|call| call.model(body.as_bytes())) {
        exchange.send_to(model.as_ref().into());
    }
    exchange.replace_body(Bytes::copy_from_slice(body.as_bytes()), call);
    exchange
}
