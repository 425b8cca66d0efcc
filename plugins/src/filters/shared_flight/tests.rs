use super::*;
use crate::exchange::Answerer;
use crate::testing::exchange_with;
use crate::{Head, ResponseFilter};
use bytes::Bytes;
use futures_util::FutureExt;
use http::StatusCode;

const BODY: &str = r#"{"model":"m","messages":[]}"#;
const STREAMED: &str = r#"{"model":"m","messages":[],"stream":true}"#;
const ERROR: &[u8] = b"data: {\"error\":{\"message\":\"no memory\"}}\n\n";
const TOKEN: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const END: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

fn filter(services: &Services) -> SharedFlight {
    SharedFlight::new(Settings { scope: Scope::Global, ..Settings::default() }, services).expect("good settings")
}

fn asks(body: &str, headers: &[(&str, &str)]) -> Exchange {
    let mut exchange = exchange_with(body, headers);
    let answerer = Answerer { route: "m".into(), pool: "p".into(), model: "m".into(), revision: 0 };
    exchange.settle_on(Arc::new(answerer));
    exchange
}

/// What the filter says by now, if anything.
fn asked(filter: &SharedFlight, exchange: &mut Exchange) -> Option<Verdict> {
    filter.request(exchange).now_or_never().map(|verdict| verdict.expect("no fault"))
}

fn led(verdict: Option<Verdict>) -> Box<dyn ResponseFilter> {
    let Some(Verdict::Follow(leader)) = verdict else { panic!("it leads") };
    leader
}

fn replied(verdict: Option<Verdict>) -> Reply {
    let Some(Verdict::Answer(reply)) = verdict else { panic!("it is answered") };
    reply
}

/// A stream of these pieces, told to its end.
fn told(exchange: &mut Exchange, leader: &mut dyn ResponseFilter, pieces: &[&'static [u8]]) {
    exchange.answer_from(Source::Backend, true);
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))]);
    leader.head(exchange, &mut Head { status: StatusCode::OK, headers }).expect("no fault");
    for piece in pieces {
        leader.chunk(exchange, &mut Bytes::from_static(piece), false).expect("no fault");
    }
    leader.chunk(exchange, &mut Bytes::new(), true).expect("no fault");
}

#[test]
fn a_flight_outlives_a_reload_that_does_not_change_its_filter() {
    let services = Services::none();
    let (before, after) = (filter(&services), filter(&services));
    let mut leads = asks(STREAMED, &[]);
    let _leader = led(asked(&before, &mut leads));
    assert!(asked(&after, &mut asks(STREAMED, &[])).is_none(), "it waits for the one that leads");
    let second = filter(&Services { nth: 1, ..services });
    led(asked(&second, &mut asks(STREAMED, &[])));
}

#[test]
fn who_wants_a_broken_stream_whole_is_told_that_it_broke_and_who_follows_that_it_does() {
    for (pieces, status) in [
        (&[TOKEN, ERROR] as &[_], 502),
        (&[TOKEN, ERROR, b"data: [DONE]\n\n"], 502),
        (&[TOKEN], 502),
        (&[TOKEN, END], 200),
    ] {
        let filter = filter(&Services::none());
        let mut leads = asks(STREAMED, &[]);
        let mut leader = led(asked(&filter, &mut leads));
        let mut follows = [asks(BODY, &[]), asks(BODY, &[])];
        let [first, second] = &mut follows;
        let mut waiting = [filter.request(first), filter.request(second)];
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        told(&mut leads, &mut *leader, pieces);
        for waiting in waiting {
            let reply = replied(waiting.now_or_never().map(|verdict| verdict.expect("no fault")));
            assert_eq!(reply.status, status, "{:?}", reply.text());
            assert_eq!(reply.headers["cache-status"], "tidegate; fwd=miss; collapsed");
        }
    }
}

#[test]
fn one_of_those_who_wait_leads_where_a_stream_begins_with_an_error() {
    let filter = filter(&Services::none());
    let mut leads = asks(STREAMED, &[]);
    let mut leader = led(asked(&filter, &mut leads));
    let (mut one, mut other) = (asks(STREAMED, &[]), asks(BODY, &[]));
    let (mut first, mut second) = (filter.request(&mut one), filter.request(&mut other));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    told(&mut leads, &mut *leader, &[b": alive\n\n", ERROR]);
    let mut next = led((&mut first).now_or_never().map(|verdict| verdict.expect("no fault")));
    drop(first);
    assert!((&mut second).now_or_never().is_none(), "the other waits for it");
    told(&mut one, &mut *next, &[b": alive\n\n", ERROR]);
    // It has been tried again, and that is all.
    let reply = replied(second.now_or_never().map(|verdict| verdict.expect("no fault")));
    assert_eq!(reply.status, 502);
}

#[test]
fn it_is_explained_with_whom_a_request_is_shared_or_why_not() {
    let everybody = filter(&Services::none());
    let says = |filter: &SharedFlight, headers: &[(&str, &str)]| filter.explain(&asks(BODY, headers)).unwrap();
    assert!(says(&everybody, &[]).starts_with("shared within everybody while it is under way"));
    assert!(
        says(&everybody, &[("cache-control", "no-store")]).starts_with("not shared: it asks for an answer of its own")
    );
    let org = SharedFlight::new(Settings::default(), &Services::none()).expect("good settings");
    assert!(says(&org, &[]).starts_with("not shared: nobody knows who asks"));
}
