//! The filter by itself: what it reserves, settles and tells.

use super::*;
use crate::exchange::{Caller, Outcome, RequestHead};
use crate::filter::{Head, ResponseFilter};
use crate::services::Shared;
use crate::store::{Clock, Local};
use crate::testing::exchange;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

struct House {
    filter: Limits,
    clock: Clock,
}

impl House {
    fn new(settings: Value) -> Self {
        let clock = Clock::manual();
        let shared = Shared::with(Arc::new(Local::new(clock.clone())));
        let services = Services { shared, models: ["m".into(), "w*".into()].into(), ..Services::none() };
        let settings = serde_json::from_value(settings).unwrap();
        Self { filter: Limits::new(settings, &services).unwrap(), clock }
    }

    async fn ask(&self, exchange: &mut Exchange) -> std::result::Result<Box<dyn ResponseFilter>, Reply> {
        match self.filter.request(exchange).await.unwrap() {
            Verdict::Follow(follower) => Ok(follower),
            Verdict::Answer(reply) => Err(reply),
            Verdict::Continue => panic!("no limit applied"),
        }
    }

    /// Tokens that are left.
    async fn left(&self) -> u64 {
        // Costs no tokens itself.
        let mut look = from(None);
        assert!(self.ask(&mut look).await.is_ok());
        look.rates().tokens.unwrap().left
    }
}

fn said(follower: &mut Box<dyn ResponseFilter>, exchange: &mut Exchange) -> HeaderMap {
    let mut head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    head.headers.insert("x-ratelimit-limit-tokens", "7".parse().unwrap());
    follower.head(exchange, &mut head).unwrap();
    head.headers
}

fn outcome(status: u16, usage: Option<Usage>) -> Outcome {
    let charged = true;
    Outcome {
        status,
        complete: status < 400,
        usage,
        charged,
        request_bytes: 50,
        response_bytes: 4000,
        ..Outcome::default()
    }
}

fn usage(prompt: u64, completion: u64) -> Option<Usage> {
    Some(Usage { prompt: Some(prompt), completion: Some(completion), ..Usage::default() })
}

const CALL: &str = r#"{"model":"m","max_tokens":400,"messages":[]}"#;

#[tokio::test]
async fn what_is_settled_is_what_the_backend_says_or_what_can_be_told_without() {
    let prompt = (CALL.len() as u64).div_ceil(4);
    for (case, outcome, spent) in [
        ("whole usage", outcome(200, usage(100, 30)), 130),
        (
            "counted events, no prompt",
            outcome(200, Some(Usage { completion: Some(30), estimated: true, ..Usage::default() })),
            prompt + 30,
        ),
        ("no usage at all", outcome(200, None), prompt + 400),
        ("client gone before the answer", Outcome { response_bytes: 0, ..outcome(499, None) }, prompt),
        ("refused by the backend", outcome(400, None), 0),
        ("the backend failed", outcome(502, None), 0),
    ] {
        let house = House::new(json!([{ "per": "global", "tokens": "10k/h" }]));
        let mut exchange = exchange(CALL);
        let follower = house.ask(&mut exchange).await.ok().unwrap();
        assert_eq!(house.left().await, 10_000 - prompt - 400, "{case}");
        exchange.record(outcome);
        follower.end(&exchange);
        assert_eq!(house.left().await, 10_000 - spent, "{case}");
    }
}

#[tokio::test]
async fn a_follower_that_is_dropped_gives_everything_back() {
    let house = House::new(json!([{ "per": "global", "tokens": "10k/h", "in_flight": 1, "requests": "100/h" }]));
    for _ in 0..50 {
        assert!(house.ask(&mut exchange(CALL)).await.is_ok());
    }
    let mut last = exchange(CALL);
    let _held = house.ask(&mut last).await.ok().unwrap();
    assert_eq!(last.rates().requests.unwrap().left, 99);
    assert_eq!(house.ask(&mut exchange(CALL)).await.err().unwrap().status, 429);
}

#[tokio::test]
async fn a_whole_answer_is_settled_before_its_client_has_it() {
    let house = House::new(json!([{ "per": "global", "tokens": "10k/h" }]));
    let mut exchange = exchange(CALL);
    let mut follower = house.ask(&mut exchange).await.ok().unwrap();
    let mut answer = Bytes::from(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5}}"#);
    let mut head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    head.headers.insert("content-length", answer.len().into());
    follower.head(&mut exchange, &mut head).unwrap();
    follower.chunk(&mut exchange, &mut answer, false).unwrap();
    assert_eq!(house.left().await, 10_000 - 15);
    follower.chunk(&mut exchange, &mut Bytes::new(), true).unwrap();
    exchange.record(outcome(200, usage(10, 5)));
    follower.end(&exchange);
    assert_eq!(house.left().await, 10_000 - 15);
}

#[tokio::test]
async fn an_answer_that_is_longer_than_was_reserved_becomes_a_debt() {
    let house = House::new(json!([{ "per": "global", "tokens": "3600/h", "name": "t" }]));
    let mut first = exchange(CALL);
    let follower = house.ask(&mut first).await.ok().unwrap();
    // Not complete, so that nothing is learned from it.
    first.record(Outcome { complete: false, ..outcome(200, usage(100, 7_100)) });
    follower.end(&first);
    let refused = house.ask(&mut exchange(CALL)).await.err().unwrap();
    let wait: u64 = refused.headers["retry-after-ms"].to_str().unwrap().parse().unwrap();
    let prompt = (CALL.len() as u64).div_ceil(4);
    assert_eq!(wait, (3600 + 400 + prompt) * 1000, "back to what this one needs, at one a second");
    house.clock.advance(Duration::from_millis(wait - 1));
    assert!(house.ask(&mut exchange(CALL)).await.is_err());
    house.clock.advance(Duration::from_millis(1));
    assert!(house.ask(&mut exchange(CALL)).await.is_ok());
}

#[tokio::test]
async fn a_guess_that_is_too_large_waits_for_a_full_bucket_and_a_stated_number_never_comes_in() {
    let house = House::new(json!([{ "per": "global", "tokens": "500/h" }]));
    let mut guess = exchange(r#"{"model":"m","messages":[]}"#);
    let follower = house.ask(&mut guess).await.ok().unwrap();
    guess.record(outcome(200, usage(5, 5)));
    follower.end(&guess);
    let never = house.ask(&mut exchange(r#"{"model":"m","max_tokens":501,"messages":[]}"#)).await.err().unwrap();
    assert_eq!(never.status, StatusCode::BAD_REQUEST);
    let body: Value = serde_json::from_slice(never.text()).unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("global/tokens"), "{body}");
}

#[tokio::test]
async fn the_tightest_of_all_limits_stands_in_the_headers_and_not_the_backends() {
    let house = House::new(json!([
        { "per": "global", "tokens": "10k/h", "requests": "50/h" },
        { "per": "model", "tokens": "5k/h", "requests": "60/h" },
        { "per": "ip", "requests": "1/h", "shadow": true, "anonymous": "shared" },
    ]));
    let mut exchange = exchange(CALL);
    let mut follower = house.ask(&mut exchange).await.ok().unwrap();
    let headers = said(&mut follower, &mut exchange);
    assert_eq!(
        (&headers["x-ratelimit-limit-tokens"], &headers["x-ratelimit-limit-requests"]),
        (&"5000".parse().unwrap(), &"50".parse().unwrap())
    );
    assert_eq!(headers["x-ratelimit-reset-requests"], "1m12s");
}

fn from(address: Option<&str>) -> Exchange {
    let head = RequestHead { method: Method::GET, path: "/v1/models".into(), query: None, headers: HeaderMap::new() };
    let client: Option<IpAddr> = address.map(|address| address.parse().unwrap());
    Exchange::new(head, crate::call::Endpoint::Other, "id".into(), client)
}

#[tokio::test]
async fn an_ipv6_client_is_its_network_and_an_ipv4_client_is_itself_however_written() {
    let house = House::new(json!([{ "per": "ip", "requests": "1/h" }]));
    let mut held = Vec::new();
    assert!(!house.filter.needs_body(), "a flood is refused before its bodies are read");
    for (address, admitted) in [
        ("2001:db8:1:2::1", true),
        ("2001:db8:1:2:ffff::9", false),
        ("2001:db8:1:3::1", true),
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", false),
        ("192.0.2.8", true),
    ] {
        let asked = house.ask(&mut from(Some(address))).await;
        assert_eq!(asked.is_ok(), admitted, "{address}");
        held.extend(asked.ok());
    }
    let refused = house.ask(&mut from(Some("2001:db8:1:3::2"))).await.err().unwrap();
    assert!(String::from_utf8_lossy(refused.text()).contains("address 2001:db8:1:3::/64"));
    assert!(matches!(house.filter.request(&mut from(None)).await, Ok(Verdict::Continue)), "a socket has no address");
}

#[tokio::test]
async fn no_two_subjects_share_a_bucket_and_none_has_two() {
    let house = House::new(json!([{ "per": ["user", "team"], "requests": "1/h" }]));
    let mut held = Vec::new();
    for (user, team, admitted) in
        [("ab", "c", true), ("a", "bc", true), ("ab", "c", false), ("abc", "", true), ("", "abc", true)]
    {
        let mut exchange = exchange(CALL);
        exchange.identify(Arc::new(Caller { user: Some(user.into()), team: Some(team.into()), ..Caller::default() }));
        let asked = house.ask(&mut exchange).await;
        assert_eq!(asked.is_ok(), admitted, "{user} {team}");
        held.extend(asked.ok());
    }
}

#[test]
fn models_are_found_as_the_gateway_finds_them() {
    let names = ModelNames::new(&["*".into(), "llama*".into(), "llama-3*".into(), "llama-3".into()]);
    let found = ["x", "llama-2", "llama-3.1", "llama-3"].map(|name| names.index(name));
    assert_eq!(found, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(ModelNames::new(&["a".into()]).index("b"), None);
}
