//! The filter by itself: what it reserves, settles and tells.

use super::*;
use crate::call::{Call, Endpoint};
use crate::caller::Caller;
use crate::exchange::{Outcome, RequestHead, Source};
use crate::filter::{Head, ResponseFilter};
use crate::prices::{NANOS, Price, Prices};
use crate::reply::Reply;
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
        // A Friday, at noon.
        clock.set(1_772_798_400);
        let shared = Shared::with(Arc::new(Local::new(clock.clone())));
        let price = Price { prompt: 10 * NANOS, cached_prompt: NANOS, completion: 100 * NANOS, request: NANOS };
        let prices = Arc::new(Prices::new("EUR", [("m", price), ("w*", Price::default())]));
        let services = Services { shared, prices, models: ["m".into(), "w*".into()].into(), ..Services::none() };
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

    /// The code of the refusal.
    async fn refusal(&self, mut exchange: Exchange) -> String {
        let refused = self.ask(&mut exchange).await.err().unwrap();
        let body: Value = serde_json::from_slice(refused.text()).unwrap();
        body["error"]["code"].as_str().unwrap().to_owned()
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
        reported: usage,
        source: Source::Backend,
        asked: true,
        charged,
        request_bytes: 50,
        response_bytes: 4000,
        ..Outcome::default()
    }
}

/// Its client left while a backend answered.
fn gone() -> Outcome {
    Outcome { gone: true, ..outcome(499, None) }
}

/// Ends a request as the gateway does.
fn close(follower: Box<dyn ResponseFilter>, exchange: &mut Exchange, mut outcome: Outcome) -> Option<Usage> {
    outcome.usage = follower.settles(exchange, &outcome).or(outcome.usage);
    exchange.record(outcome);
    follower.end(exchange);
    outcome.usage
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
        ("a stream of three events", Outcome { streamed: true, events: 3, ..gone() }, prompt + 3),
        ("a stream of none", Outcome { streamed: true, ..gone() }, prompt),
        ("client gone before the answer", Outcome { source: Source::Gateway, response_bytes: 0, ..gone() }, prompt),
        ("client gone in the queue", Outcome { source: Source::Gateway, asked: false, response_bytes: 0, ..gone() }, 0),
        ("a backend's own 499", outcome(499, None), 0),
        ("refused by the backend", outcome(400, None), 0),
        ("the backend failed", outcome(502, None), 0),
    ] {
        let house = House::new(json!([{ "per": "global", "tokens": "10k/h" }]));
        let mut exchange = exchange(CALL);
        let follower = house.ask(&mut exchange).await.ok().unwrap();
        assert_eq!(house.left().await, 10_000 - prompt - 400, "{case}");
        close(follower, &mut exchange, outcome);
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
    exchange.answer_from(Source::Backend, true);
    let mut answer = Bytes::from(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5}}"#);
    let mut head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    head.headers.insert("content-length", answer.len().into());
    follower.head(&mut exchange, &mut head).unwrap();
    follower.chunk(&mut exchange, &mut answer, false).unwrap();
    assert_eq!(house.left().await, 10_000 - 15);
    follower.chunk(&mut exchange, &mut Bytes::new(), true).unwrap();
    close(follower, &mut exchange, outcome(200, usage(10, 5)));
    assert_eq!(house.left().await, 10_000 - 15);
}

#[tokio::test]
async fn an_answer_that_is_longer_than_was_reserved_becomes_a_debt() {
    let house = House::new(json!([{ "per": "global", "tokens": "3600/h", "name": "t" }]));
    let mut first = exchange(CALL);
    let follower = house.ask(&mut first).await.ok().unwrap();
    // Not complete, so that nothing is learned from it.
    close(follower, &mut first, Outcome { complete: false, ..outcome(200, usage(100, 7_100)) });
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
    close(follower, &mut guess, outcome(200, usage(5, 5)));
    let never = house.ask(&mut exchange(r#"{"model":"m","max_tokens":501,"messages":[]}"#)).await.err().unwrap();
    assert_eq!(never.status, StatusCode::BAD_REQUEST);
    let body: Value = serde_json::from_slice(never.text()).unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("global/tokens"), "{body}");
}

#[tokio::test]
async fn what_is_left_of_a_budget_does_for_an_answer_of_which_nobody_knows_how_long_it_is() {
    let guess = r#"{"model":"m","messages":[]}"#;
    let house = House::new(json!([{ "per": "global", "tokens": "500/day" }]));
    let mut first = exchange(guess);
    let follower = house.ask(&mut first).await.ok().unwrap();
    // All of it is reserved: it comes back soon.
    assert_eq!(house.refusal(exchange(guess)).await, "rate_limit_exceeded");
    close(follower, &mut first, outcome(200, usage(100, 64)));
    let mut second = exchange(guess);
    let follower = house.ask(&mut second).await.unwrap_or_else(|_| panic!("what is left will do"));
    assert_eq!(house.left().await, 0);
    close(follower, &mut second, outcome(200, usage(100, 64)));
    assert_eq!(house.left().await, 500 - 2 * 164);
    // Who says how much it is to be is taken at its word, also where that is too much.
    let stated = exchange(r#"{"model":"m","max_tokens":300,"messages":[]}"#);
    assert_eq!(house.refusal(stated).await, "insufficient_quota");
    let mut third = exchange(guess);
    let follower = house.ask(&mut third).await.ok().unwrap();
    close(follower, &mut third, outcome(200, usage(100, 64 + 8)));
    assert_eq!(house.left().await, 0);
    assert_eq!(house.refusal(exchange(guess)).await, "insufficient_quota");
}

#[tokio::test]
async fn what_a_client_may_get_is_bounded_by_all_it_asks_for_and_named_as_it_has_named_it() {
    let house = House::new(json!([{ "per": "global", "completion_tokens": "1000/h" }]));
    for (endpoint, body, param) in [
        (Endpoint::Chat, r#"{"model":"m","max_tokens":1e30}"#, "max_tokens"),
        (Endpoint::Chat, r#"{"model":"m","max_completion_tokens":1001}"#, "max_completion_tokens"),
        (Endpoint::Responses, r#"{"model":"m","max_output_tokens":1001}"#, "max_output_tokens"),
        (Endpoint::Completions, r#"{"model":"m","max_tokens":400,"n":1,"best_of":3}"#, "max_tokens"),
    ] {
        let call = Call::read(body.as_bytes(), endpoint).unwrap();
        let head = RequestHead { method: Method::POST, path: "/".into(), query: None, headers: HeaderMap::new() };
        let mut asking = Exchange::new(head, endpoint, "id".into(), None);
        asking.send_to("m".into());
        asking.replace_body(Bytes::from_static(body.as_bytes()), Some(call));
        let refused = house.ask(&mut asking).await.err().unwrap();
        let told: Value = serde_json::from_slice(refused.text()).unwrap();
        assert_eq!((&told["error"]["code"], &told["error"]["param"]), (&json!("larger_than_limit"), &json!(param)));
    }
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

#[tokio::test]
async fn an_answer_that_somebody_else_has_paid_for_costs_what_the_file_says() {
    let entries = json!([
        { "per": "global", "tokens": "10k/h", "requests": "10/h" },
        { "per": "model", "tokens": "9k/day", "cache_hits": "full" },
    ]);
    for (source, charged, free, full) in [
        (Source::Backend, true, 130, 130),
        (Source::Cache, false, 0, 130),
        (Source::Flight, false, 0, 130),
        (Source::Replay, false, 0, 0),
    ] {
        let house = House::new(entries.clone());
        let mut exchange = exchange(CALL);
        let follower = house.ask(&mut exchange).await.ok().unwrap();
        close(follower, &mut exchange, Outcome { source, charged, ..outcome(200, usage(100, 30)) });
        let level = |name: &str| {
            let limits = &house.filter.0.limits;
            limits.iter().find(|limit| &**limit.ledger.label() == name).unwrap().ledger.clone()
        };
        let mut look = crate::testing::exchange(CALL);
        assert!(house.ask(&mut look).await.is_ok());
        assert_eq!(look.rates().requests.unwrap().left, 8, "it counts as a request: {source:?}");
        let mut name = Vec::new();
        for (label, per, spent, most) in [("global/tokens", 0, free, 10_000), ("model/tokens/day", 2, full, 9000)] {
            house.filter.0.limits[per].per.write(&look, Some("m"), &mut name);
            let left = house.filter.0.store.peek(&level(label), Subject::of(&name)).await.level.left;
            assert_eq!(left, most - spent, "{source:?} {label}");
        }
    }
}

#[tokio::test]
async fn what_another_limit_refuses_later_takes_nothing_of_these() {
    let house = House::new(json!([{ "per": "global", "requests": "10/day", "cost": "1k/month", "in_flight": 3 }]));
    let mut refused = exchange(CALL);
    let follower = house.ask(&mut refused).await.ok().unwrap();
    refused.limit_by("another");
    close(follower, &mut refused, outcome(429, None));
    let mut next = exchange(CALL);
    assert!(house.ask(&mut next).await.is_ok());
    assert_eq!(next.rates().requests.unwrap().left, 9);
}

#[tokio::test]
async fn an_answer_of_the_gateways_own_costs_nothing_and_one_whose_client_left_costs_its_prompt() {
    let house = House::new(json!([{ "per": "global", "tokens": "10k/h" }]));
    let mut own = exchange(CALL);
    let follower = house.ask(&mut own).await.ok().unwrap();
    close(follower, &mut own, Outcome { source: Source::Gateway, ..outcome(200, None) });
    assert_eq!(house.left().await, 10_000);
}

#[tokio::test]
async fn a_budget_that_is_only_reserved_is_not_said_to_be_spent() {
    let house = House::new(json!([{ "per": "global", "tokens": "500/month" }]));
    let mut first = exchange(CALL);
    let follower = house.ask(&mut first).await.ok().unwrap();
    let refused = house.ask(&mut exchange(CALL)).await.err().unwrap();
    let error = |reply: &Reply| serde_json::from_slice::<Value>(reply.text()).unwrap()["error"].clone();
    assert_eq!(error(&refused)["code"], "rate_limit_exceeded");
    assert!(error(&refused)["message"].as_str().unwrap().contains("open requests have reserved"));
    assert_eq!((refused.headers["retry-after"].as_bytes(), refused.headers.get("x-should-retry")), (&b"1"[..], None));
    close(follower, &mut first, outcome(200, usage(100, 300)));
    let refused = house.ask(&mut exchange(CALL)).await.err().unwrap();
    assert_eq!(error(&refused)["code"], "insufficient_quota");
    assert_eq!(refused.headers["x-should-retry"], "false");
}

mod waits {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Value> {
        let kind = prop_oneof![
            Just(("requests", 1_u64, 20_u64)),
            Just(("tokens", 300, 4000)),
            Just(("prompt_tokens", 20, 400)),
            Just(("completion_tokens", 300, 4000)),
            Just(("cost", 2, 60)),
            Just(("bytes", 50, 2000)),
        ];
        let window = prop_oneof![Just("s"), Just("min"), Just("h"), Just("day"), Just("week"), Just("month")];
        let zone = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Pacific/Auckland")];
        (kind, window, zone, any::<prop::sample::Index>()).prop_map(|((kind, least, most), window, zone, count)| {
            let count = least + count.index((most - least) as usize) as u64;
            json!({ "per": "global", kind: format!("{count}/{window}"), "zone": zone })
        })
    }

    fn now<F: Future>(future: F) -> F::Output {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => output,
            std::task::Poll::Pending => panic!("it waited"),
        }
    }

    proptest! {
        #[test]
        fn who_waits_as_long_as_told_is_admitted_and_who_waits_less_is_not(entries in prop::collection::vec(entry(), 1..4)) {
            let named = |(at, mut entry): (usize, Value)| {
                entry["name"] = format!("l{at}").into();
                entry
            };
            let house = House::new(entries.into_iter().enumerate().map(named).collect());
            let mut refusals = 0;
            for _ in 0..200 {
                let mut exchange = crate::testing::exchange(CALL);
                let refused = match now(house.ask(&mut exchange)) {
                    Ok(follower) => {
                        close(follower, &mut exchange, Outcome { request_bytes: 50, response_bytes: 0, ..outcome(200, usage(11, 300)) });
                        continue;
                    }
                    // What could never be admitted is another matter.
                    Err(reply) if reply.status == 400 => return Ok(()),
                    Err(reply) => reply,
                };
                refusals += 1;
                let wait: u64 = refused.headers["retry-after-ms"].to_str().unwrap().parse().unwrap();
                let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
                prop_assert_eq!(seconds, wait.div_ceil(1000));
                house.clock.advance(Duration::from_millis(wait - 1));
                let early = now(house.ask(&mut crate::testing::exchange(CALL)));
                prop_assert!(early.is_err(), "{} {}", wait, String::from_utf8_lossy(refused.text()));
                house.clock.advance(Duration::from_millis(1));
                let mut exchange = crate::testing::exchange(CALL);
                let admitted = now(house.ask(&mut exchange));
                prop_assert!(admitted.is_ok(), "{}", wait);
                if refusals > 5 {
                    return Ok(());
                }
            }
        }
    }
}
