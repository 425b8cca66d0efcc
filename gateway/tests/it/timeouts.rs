//! Every wait has a deadline over the whole thing, towards backends and towards clients.

use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::backend::{Backend, OnAccept, Script};
use crate::client::{Answer, End, Request};
use crate::gateway::{Gateway, pool_at, pool_of};

/// Runs a request and gives its answer and how long it took.
async fn timed(gateway: &Gateway, request: &Request) -> (Answer, Duration) {
    let start = Instant::now();
    let answer = gateway.send(request).await;
    (answer, start.elapsed())
}

fn between(time: Duration, low: u64, high: u64) {
    let range = Duration::from_millis(low)..Duration::from_millis(high);
    assert!(range.contains(&time), "{time:?} is not in {range:?}");
}

/// Before `backend`, with these `timeouts` for its pool.
async fn with_timeouts(backend: &Backend, timeouts: &str) -> Gateway {
    Gateway::start(&format!("{}    timeouts: {{ {timeouts} }}\n", pool_of(&[backend]))).await
}

#[tokio::test]
async fn a_backend_that_swallows_connections_costs_one_connect_timeout_each() {
    // A listener whose queue is full lets further connections hang, like a host that drops packets.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..4 {
        fillers.push(tokio::spawn(tokio::net::TcpStream::connect(address)));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let hole = format!("http://{address}");
    let gateway = Gateway::start(&format!("{}    timeouts: {{ connect: 300ms }}\n", pool_at(&[&hole]))).await;
    let (answer, time) = timed(&gateway, &Request::chat("m")).await;
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    answer.openai_error(answer.status);
    between(time, 250, 2500);
    let backend = Backend::start().await;
    let config = format!("{}    timeouts: {{ connect: 300ms }}\n", pool_at(&[&hole, backend.url()]));
    let gateway = Gateway::start(&config).await;
    for _ in 0..2 {
        let (answer, time) = timed(&gateway, &Request::chat("m")).await;
        assert_eq!(answer.status, 200);
        between(time, 0, 1000);
    }
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_counts_as_connecting() {
    let backend = Backend::start().await;
    (0..9).for_each(|_| _ = backend.on_accept(OnAccept::Stall));
    let url = format!("https://localhost:{}", backend.address().port());
    let gateway = Gateway::start(&format!("{}    timeouts: {{ connect: 300ms }}\n", pool_at(&[&url]))).await;
    let (answer, time) = timed(&gateway, &Request::chat("m")).await;
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    between(time, 250, 2500);
}

#[tokio::test]
async fn no_head_in_time_is_504() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "first_byte: 300ms").await;
    backend.push(Script::new().hang());
    let (answer, time) = timed(&gateway, &Request::chat("m")).await;
    answer.openai_error(504);
    between(time, 250, 1500);
    backend.seen(0).await.gone().await;
}

#[tokio::test]
async fn a_head_without_a_first_token_in_time_is_an_error() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "first_byte: 10s, first_token: 300ms, idle: 10s").await;
    // Comments and the role event are no tokens.
    let role = "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n";
    for script in [
        Script::stream().hang(),
        Script::stream().repeat(crate::wire::chunk(b": wait\n\n"), Duration::from_millis(40)),
        Script::stream().chunk(role).hang(),
    ] {
        let what = format!("{script:.300?}");
        backend.push(script);
        let (answer, time) = timed(&gateway, &Request::stream("m")).await;
        assert!(time < Duration::from_secs(2), "{what} took {time:?}");
        assert!(answer.status == 504 || answer.text().contains("\"error\""), "{} {:?}", answer.status, answer.body);
        assert!(!answer.text().contains("[DONE]"));
        between(time, 250, 2000);
    }
}

#[tokio::test]
async fn silence_between_tokens_is_bounded_and_comments_do_not_count() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "idle: 300ms").await;
    for script in [
        Script::stream().token("a").hang(),
        Script::stream().token("a").repeat(crate::wire::chunk(b": ping\n\n"), Duration::from_millis(40)),
    ] {
        backend.push(script);
        let (answer, time) = timed(&gateway, &Request::stream("m")).await;
        assert!(answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"), "{}", answer.text());
        between(time, 250, 2000);
    }
    // A slow but living stream is none of its business, however long it is.
    backend.push(Script::words(&["a"; 8], Duration::from_millis(100)));
    let (answer, time) = timed(&gateway, &Request::stream("m")).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    between(time, 750, 5000);
}

#[tokio::test]
async fn the_total_time_bounds_even_a_living_stream() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "total: 500ms").await;
    backend.push(Script::words(&["a"; 200], Duration::from_millis(20)));
    let (answer, time) = timed(&gateway, &Request::stream("m")).await;
    assert!(answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"));
    between(time, 450, 2000);
    backend.push(Script::new().hang());
    let (answer, time) = timed(&gateway, &Request::chat("m")).await;
    answer.openai_error(504);
    between(time, 450, 2000);
}

#[tokio::test]
async fn a_model_may_have_times_of_its_own() {
    let backend = Backend::start().await;
    let config = format!(
        "{}    timeouts: {{ first_byte: 200ms }}\nmodels:\n  quick: {{ pool: main }}\n  slow: {{ pool: main, timeouts: {{ first_byte: 5s }} }}\n",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    backend.handle(|_| {
        Script::new().pause(Duration::from_millis(600)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    });
    assert_eq!(gateway.send(&Request::chat("quick")).await.status, 504);
    assert_eq!(gateway.send(&Request::chat("slow")).await.status, 200);
}

#[tokio::test]
async fn the_clients_own_deadline_counts_if_it_is_sooner() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "first_byte: 3s").await;
    for name in ["x-stainless-timeout", "x-stainless-read-timeout"] {
        backend.push(Script::new().hang());
        let (answer, time) = timed(&gateway, &Request::chat("m").header(name, "0.4")).await;
        assert_eq!(answer.status, 504, "{name}");
        between(time, 300, 2000);
    }
    for nonsense in ["", "NaN", "-1", "soon", "1e99", "0"] {
        backend.push(Script::chat("a"));
        let answer = gateway.send(&Request::chat("m").header("x-stainless-timeout", nonsense)).await;
        assert_eq!(answer.status, 200, "{nonsense:?} is no deadline");
    }
}

#[tokio::test]
async fn a_head_that_is_dripped_or_never_begun_is_given_up() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ head_timeout: 400ms }}\n", pool_of(&[&backend]))).await;
    let start = Instant::now();
    let mut silent = gateway.connect().await;
    let mut begun = gateway.connect().await;
    begun.send("POST /v1/chat").await;
    let mut dripped = gateway.connect().await;
    let head = Request::chat("m").header("x-long", &"a".repeat(500)).head();
    assert!(
        !dripped.drip(head.as_bytes(), Duration::from_millis(10)).await || start.elapsed() > Duration::from_secs(4)
    );
    between(start.elapsed(), 350, 3000);
    assert!(silent.closes_within(Duration::from_secs(2)).await, "a silent connection stays");
    // A half head may be told 408 before it is closed.
    let said = begun.raw().await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408"), "{said:?}");
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn a_later_head_on_a_connection_has_no_more_time_than_the_first() {
    let backend = Backend::start().await;
    let limits = "limits: { head_timeout: 300ms, keep_alive: 20s }\n";
    let gateway = Gateway::start(&format!("{}{limits}", pool_of(&[&backend]))).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200, "idle time is another thing");
    connection.send("POST /v1/chat").await;
    let start = Instant::now();
    assert!(connection.closes_within(Duration::from_secs(3)).await);
    between(start.elapsed(), 200, 2000);
}

#[tokio::test]
async fn a_body_that_is_dripped_or_stalls_is_given_up() {
    let backend = Backend::start().await;
    let config =
        format!("{}limits: {{ body_timeout: 5s, body_rate: 10KiB, body_grace: 300ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let request = Request::post("/v1/chat/completions", format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(5000)));
    let start = Instant::now();
    let mut stalled = gateway.connect().await;
    stalled.send(request.head()).await;
    stalled.answer().await.openai_error(408);
    between(start.elapsed(), 250, 3000);
    let start = Instant::now();
    let mut dripped = gateway.connect().await;
    dripped.send(request.head()).await;
    dripped.drip(&request.content()[..300], Duration::from_millis(5)).await;
    between(start.elapsed(), 250, 4000);
    assert!(dripped.answer().await.status == 408);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_whole_body_has_a_deadline_too() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ body_timeout: 400ms }}\n", pool_of(&[&backend]))).await;
    let request = Request::chat("m");
    let mut connection = gateway.connect().await;
    connection.send(request.head()).await;
    connection.send(&request.content()[..10]).await;
    let start = Instant::now();
    assert_eq!(connection.answer().await.status, 408);
    between(start.elapsed(), 300, 2000);
}

#[tokio::test]
async fn idle_client_connections_are_closed() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ keep_alive: 300ms }}\n", pool_of(&[&backend]))).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200, "not idle long enough to be closed");
    let start = Instant::now();
    assert!(connection.closes_within(Duration::from_secs(3)).await);
    between(start.elapsed(), 200, 2000);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_and_come_in_later() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ connections: 3 }}\n", pool_of(&[&backend]))).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
        held.push(connection);
    }
    let mut fourth = gateway.connect().await;
    fourth.send(Request::chat("m").bytes()).await;
    // Turned away: closed, or told 503 first.
    let said = fourth.raw().await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 503"), "{said:?}");
    held.pop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn a_stream_in_an_unknown_dialect_lives_as_long_as_its_events_come() {
    let backend = Backend::start().await;
    let config = format!(
        "{}    timeouts: {{ first_token: 300ms, idle: 300ms }}\nother_paths: {{ pool: main }}\n",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    let event = "data: {\"x\":1}\n\n";
    for body in [r#"{"model":"m","stream":true}"#, r#"{"model":"m"}"#, "{}"] {
        let script = (0..17).fold(Script::stream(), |script, _| script.chunk(event).pause(Duration::from_millis(60)));
        backend.push(script.end());
        let (answer, time) = timed(&gateway, &Request::post("/v1/stories", body)).await;
        assert_eq!((answer.status, answer.text(), answer.end), (200, event.repeat(17).as_str(), End::Whole), "{body}");
        between(time, 1000, 5000);
    }
}

#[tokio::test]
async fn waiting_for_a_first_token_that_never_comes_is_no_overhead_of_ours() {
    let backend = Backend::start().await;
    let gateway = with_timeouts(&backend, "first_byte: 10s, first_token: 300ms, idle: 10s").await;
    backend.always(Script::stream().hang());
    let (answer, time) = timed(&gateway, &Request::stream("m").header("x-request-id", "over-1")).await;
    between(time, 250, 2000);
    let told: f64 = answer.header("x-tidegate-overhead-ms").expect("told").parse().unwrap();
    assert!(told < 100.0, "{told} ms in the answer's head");
    let line = gateway.log.request("over-1").await;
    let logged = line["overhead_ms"].as_f64().unwrap();
    assert!(logged < 100.0 && line["duration_ms"].as_f64().unwrap() > 250.0, "{line}");
}
