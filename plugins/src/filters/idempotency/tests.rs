use super::*;
use crate::testing::exchange_with;
use crate::{Head, ResponseFilter};
use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;

fn filter(settings: Settings) -> Idempotency {
    Idempotency::new(settings, &Services::none()).expect("good settings")
}

fn ask(filter: &Idempotency, key: &str) -> (Exchange, Verdict) {
    let mut exchange = exchange_with(r#"{"model":"m","messages":[]}"#, &[("idempotency-key", key)]);
    let verdict = filter.request(&mut exchange).now_or_never().expect("it does not wait").expect("no fault");
    (exchange, verdict)
}

/// A backend's answer of so many bytes, told to its end.
fn answer(exchange: &mut Exchange, mut follower: Box<dyn ResponseFilter>, bytes: usize) {
    exchange.answer_from(Source::Backend, true);
    let mut head = Head { status: StatusCode::OK, headers: HeaderMap::new() };
    follower.head(exchange, &mut head).expect("no fault");
    assert!(head.headers.contains_key(EXPIRES));
    follower.chunk(exchange, &mut Bytes::from(vec![b'x'; bytes]), false).expect("no fault");
    follower.chunk(exchange, &mut Bytes::new(), true).expect("no fault");
    exchange.record(crate::exchange::Outcome {
        status: 200,
        complete: true,
        charged: true,
        source: Source::Backend,
        response_bytes: bytes as u64,
        ..crate::exchange::Outcome::default()
    });
    follower.end(exchange);
}

#[test]
fn a_hundred_thousand_keys_stay_within_the_size() {
    let settings = Settings { size: Size(1 << 20), max_entry: Size(64 << 10), ..Settings::default() };
    let filter = filter(settings);
    for n in 0..100_000 {
        let (mut exchange, verdict) = ask(&filter, &format!("key-{n}"));
        let Verdict::Follow(follower) = verdict else { panic!("a new key is run") };
        answer(&mut exchange, follower, n % 2000);
    }
    let (entries, bytes) = filter.kept.size();
    assert!(bytes <= 1 << 20 && entries > 300, "{entries} {bytes}");
    assert!(matches!(ask(&filter, "key-99999").1, Verdict::Answer(reply) if reply.status == 200));
}

#[test]
fn what_is_larger_than_an_entry_may_be_is_not_kept() {
    let filter = filter(Settings { max_entry: Size(1000), ..Settings::default() });
    let (mut exchange, verdict) = ask(&filter, "k");
    let Verdict::Follow(follower) = verdict else { panic!("a new key is run") };
    answer(&mut exchange, follower, 2000);
    assert_eq!(filter.kept.size(), (0, 0));
}

#[test]
fn whoever_is_dropped_on_the_way_leaves_no_key_behind() {
    let filter = filter(Settings::default());
    let (_, verdict) = ask(&filter, "k");
    assert!(matches!(ask(&filter, "k").1, Verdict::Answer(reply) if reply.status == 409));
    drop(verdict);
    assert_eq!(filter.kept.size(), (0, 0));
    assert!(matches!(ask(&filter, "k").1, Verdict::Follow(_)));
}

#[test]
fn settings_that_keep_nothing_are_refused() {
    let services = Services::none();
    let never = Settings { r#for: Time(Duration::ZERO), ..Settings::default() };
    let small = Settings { size: Size(10), ..Settings::default() };
    assert_eq!(Idempotency::new(never, &services).err().expect("a fault")[0].path, "for");
    assert_eq!(Idempotency::new(small, &services).err().expect("a fault")[0].path, "max_entry");
}

#[test]
fn nothing_is_promised_of_an_answer_that_is_known_to_be_too_large() {
    let filter = filter(Settings { max_entry: Size(4000), ..Settings::default() });
    for (length, promised) in [("3999", false), ("100", true)] {
        let (mut exchange, verdict) = ask(&filter, length);
        let Verdict::Follow(mut follower) = verdict else { panic!("a new key is run") };
        exchange.answer_from(Source::Backend, true);
        let length = http::HeaderValue::from_static(length);
        let headers = HeaderMap::from_iter([(http::header::CONTENT_LENGTH, length)]);
        let mut head = Head { status: StatusCode::OK, headers };
        follower.head(&mut exchange, &mut head).expect("no fault");
        assert_eq!(head.headers.contains_key(EXPIRES), promised);
    }
}

#[test]
fn it_is_explained_whether_a_request_is_run_once() {
    let filter = filter(Settings::default());
    let says = |headers: &[(&str, &str)]| {
        filter.explain(&exchange_with(r#"{"model":"m","messages":[]}"#, headers)).expect("it has something to say")
    };
    assert!(says(&[]).starts_with("does not apply: no `Idempotency-Key`"));
    assert!(says(&[("idempotency-key", "")]).starts_with("refused"));
    let said = says(&[("idempotency-key", "k")]);
    assert!(said.starts_with("run once for address") && said.ends_with("is refused"), "{said}");
}
