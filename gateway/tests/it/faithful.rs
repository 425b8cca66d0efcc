//! What goes in comes out: bytes, headers, events, trailers and statuses, except what HTTP says ends here.

use std::time::Duration;

use crate::backend::{Backend, Gate, Script, chat, finish, token};
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_of};

const ODD: &str = "\r\n {\t\"seed\" : 12345678901234567890123, \"temperature\":1.0E0,\"x_unknown\":{\"b\":-0,\"a\":[1e400, 0.10 ]},\n\
    \"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9\\/é\\ud83d\\ude00 \"}] ,\"model\": \"tiny-random\",\"zz\":null }\n ";

#[tokio::test]
async fn an_untouched_request_reaches_the_backend_byte_for_byte() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/rerank",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
    ] {
        let before = backend.count();
        let answer = gateway.send(&Request::post(path, ODD)).await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        let seen = backend.seen(before).await;
        assert_eq!((seen.target.as_str(), seen.text()), (path, ODD));
        assert_eq!(answer.json()["hash"], seen.hash());
        seen.assert_clean();
    }
}

#[tokio::test]
async fn a_query_string_goes_along() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    gateway.send(&Request::post("/v1/chat/completions?api-version=2024-10-21&x=%2F", ODD)).await;
    assert_eq!(backend.only().await.target, "/v1/chat/completions?api-version=2024-10-21&x=%2F");
}

#[tokio::test]
async fn renaming_the_model_changes_those_bytes_only() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ tiny-random: {{ pool: main, as: served/model-7b }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    gateway.send(&Request::post("/v1/chat/completions", ODD)).await;
    assert_eq!(backend.only().await.text(), ODD.replace("tiny-random", "served/model-7b"));
}

#[tokio::test]
async fn an_answer_names_the_model_the_client_asked_for_unless_told_not_to() {
    let backend = Backend::start().await;
    let config = format!(
        "{}models:\n  asked: {{ pool: main, as: tiny-random }}\n  honest: {{ pool: main, as: tiny-random, keep_name: false }}\n",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    for (model, named) in [("asked", "asked"), ("honest", "tiny-random")] {
        backend.push(Script::chat("tiny-random is a word here"));
        let whole = gateway.send(&Request::chat(model)).await;
        let expected =
            chat("tiny-random is a word here").replace("\"model\":\"tiny-random\"", &format!("\"model\":\"{named}\""));
        assert_eq!(whole.text(), expected);
        backend.push(Script::words(&["tiny-random", "b"], Duration::ZERO));
        let stream = gateway.send(&Request::stream(model)).await;
        let expected = format!("{}{}{}", token("tiny-random"), token("b"), finish());
        let expected = expected.replace("\"model\":\"tiny-random\"", &format!("\"model\":\"{named}\""));
        assert_eq!(stream.text(), expected + "data: [DONE]\n\n");
    }
}

#[tokio::test]
async fn an_answer_comes_back_byte_for_byte_with_its_own_headers_and_status() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = "  {\"id\" : \"x\",\t\"n\":1.50e2, \"é\":\"\\u00e9\"}\n\n";
    for status in ["200 OK", "201 Created", "207 Multi-Status", "299 Whatever"] {
        let headers = [
            ("content-type", "application/json; charset=utf-8"),
            ("openai-processing-ms", "12"),
            ("X-Mixed-Case", "a,  b"),
        ];
        backend.push(Script::answer(status, &headers, body));
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!((answer.status.to_string().as_str(), answer.text()), (&status[..3], body));
        for (name, value) in headers {
            assert_eq!(answer.header(name), Some(value));
        }
    }
}

#[tokio::test]
async fn a_clients_mistake_found_by_the_backend_keeps_its_status_and_message() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for status in ["400 Bad Request", "404 Not Found", "409 Conflict", "422 Unprocessable Entity", "418 I'm a teapot"] {
        backend.push(Script::status(
            status,
            r#"{"error":{"code":400,"message":"too many tokens","type":"invalid_request_error"}}"#,
        ));
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.json()["error"]["message"], "too many tokens");
    }
    assert_eq!(backend.count(), 5, "a 4xx is never retried");
}

#[tokio::test]
async fn hop_by_hop_headers_end_at_the_gateway_in_both_directions() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let hop = [
        ("connection", "keep-alive, x-inner"),
        ("x-inner", "1"),
        ("keep-alive", "timeout=9"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic eA=="),
        ("proxy-connection", "keep-alive"),
    ];
    let request = hop.iter().fold(Request::chat("m"), |request, (name, value)| request.header(name, value));
    let back = [
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-connection", "close"),
        ("x-kept", "yes"),
    ];
    backend.push(Script::answer("200 OK", &back, "{}"));
    let answer = gateway.send(&request.header("x-stays", "yes")).await;
    let seen = backend.only().await;
    for name in ["x-inner", "keep-alive", "proxy-authorization", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{name} went upstream");
    }
    assert!(!seen.header("connection").unwrap_or_default().contains("x-inner"));
    assert_eq!(seen.header("x-stays"), Some("yes"));
    for name in ["x-secret", "proxy-authenticate", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name} came back");
    }
    assert_ne!(answer.header("keep-alive"), Some("timeout=5"));
    assert!(!answer.header("connection").unwrap_or_default().contains("x-secret"));
    assert_eq!(answer.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn a_backend_gets_its_own_authority_and_no_encoding_that_hides_its_answer() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    gateway.send(&Request::chat("m").header("Accept-Encoding", "gzip, br, zstd")).await;
    let seen = backend.only().await;
    assert_eq!(seen.header("host"), Some(backend.address().to_string().as_str()));
    assert!(seen.header("accept-encoding").is_none_or(|value| value == "identity"), "{:?}", seen.headers);
}

#[tokio::test]
async fn every_event_is_passed_on_before_the_next_one_exists() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let gates: Vec<Gate> = (0..5).map(|_| Gate::closed()).collect();
    let script = gates.iter().fold(Script::stream(), |script, gate| script.wait(gate).token("word"));
    backend.push(script.chunk(finish()).done().end());
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("m").bytes()).await;
    // A gateway may keep the head until there is a first event, to be able to ask another backend until then.
    gates[0].open();
    let head = connection.head().await;
    assert_eq!((head.status, head.header("content-length")), (200, None));
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    for gate in &gates {
        gate.open();
        assert_eq!(connection.piece().await.unwrap().unwrap(), token("word"));
    }
    while connection.piece().await.unwrap().is_some() {}
}

#[tokio::test]
async fn events_cut_anywhere_by_the_network_arrive_whole() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let stream = format!(
        ": hello\n\n{}event: x\r\ndata: 1\r\ndata: 2\r\n\r\n{}{}data: [DONE]\n\n",
        token("a"),
        token("é"),
        finish()
    );
    let pieces = stream.as_bytes().chunks(37);
    let script = pieces.fold(Script::stream(), |script, piece| script.chunk(piece).pause(Duration::from_millis(1)));
    backend.push(script.end());
    let answer = gateway.send(&Request::stream("m")).await;
    assert_eq!((answer.text(), answer.end), (stream.as_str(), End::Whole));
    for (_, piece) in &answer.pieces {
        assert!(piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n"), "half an event: {piece:?}");
    }
}

#[tokio::test]
async fn trailers_survive() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::stream().token("a").done().send("0\r\nX-Checksum: abc\r\nX-Other: 1\r\n\r\n"));
    let answer = gateway.send(&Request::stream("m").header("TE", "trailers")).await;
    assert_eq!((answer.trailers.get("x-checksum"), answer.trailers.get("x-other")), (Some("abc"), Some("1")));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_passed_on_whole() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::new().send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").send(chat("a")).fin());
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!((answer.status, answer.text(), answer.end), (200, chat("a").as_str(), End::Whole));
}

#[tokio::test]
async fn interim_answers_of_a_backend_do_not_disturb_the_final_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::chat("a"));
    let before = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    backend.handle(move |_| {
        Script::new()
            .send(before)
            .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    });
    for _ in 0..2 {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, 200);
        assert!(answer.interim.iter().all(|status| *status == 103), "{:?}", answer.interim);
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    let get = connection.exchange(&Request::get("/v1/models")).await;
    let head = connection.exchange(&Request::new("HEAD", "/v1/models")).await;
    assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")));
    assert_eq!(connection.exchange(&Request::get("/v1/models")).await.status, 200);
}

#[tokio::test]
async fn expect_100_continue_is_answered_and_ends_here() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let request = Request::chat("m").header("Expect", "100-continue");
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        connection.send(request.head()).await;
        // Nothing but the 100 may come now; the body follows only because it did.
        assert_eq!(connection.raw().await, "HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(request.content()).await;
        assert_eq!(connection.answer().await.status, 200);
    }
    assert_eq!(backend.seen(1).await.header("expect"), None);
}

#[tokio::test]
async fn browser_apps_of_configured_origins_are_let_in_and_no_others() {
    let backend = Backend::start().await;
    let config = format!("{}cors: {{ origins: [\"https://app.example.com\"], max_age: 10m }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let preflight = |origin: &str| {
        Request::new("OPTIONS", "/v1/chat/completions")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
    };
    let good = gateway.send(&preflight("https://app.example.com")).await;
    assert_eq!((good.status, good.header("access-control-allow-origin")), (204, Some("https://app.example.com")));
    assert!(good.header("access-control-allow-methods").is_some_and(|value| value.contains("POST")));
    assert!(
        good.header("access-control-allow-headers").is_some_and(|value| value.to_lowercase().contains("authorization"))
    );
    assert_eq!(good.header("access-control-max-age"), Some("600"));
    let bad = gateway.send(&preflight("https://evil.example")).await;
    assert_eq!(bad.header("access-control-allow-origin"), None);
    assert_eq!(backend.count(), 0, "a preflight stays here");
    let answer = gateway.send(&Request::chat("m").header("Origin", "https://app.example.com")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    let error =
        gateway.send(&Request::post("/v1/chat/completions", "{").header("Origin", "https://app.example.com")).await;
    assert_eq!((error.status, error.header("access-control-allow-origin")), (400, Some("https://app.example.com")));
}
