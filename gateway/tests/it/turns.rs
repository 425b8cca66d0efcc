//! Limits on a WebSocket: each turn is a request, tokens are settled by what its response has cost, and a turn that is
//! refused ends nothing.
//!
//! The backend gives back what it gets, so that a test says itself what the backend says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, Key, pool_of};
use crate::websocket::{accept, frame, handshake, open};

struct Talk {
    gateway: Gateway,
    backend: Backend,
    connection: Connection,
    buffer: Vec<u8>,
}

impl Talk {
    async fn new(limits: &str) -> Self {
        Self::with(limits, "").await
    }

    async fn with(limits: &str, more: &str) -> Self {
        let filters = format!("{more}filters:\n  - limits: [ {limits} ]\n");
        Self::through(&filters, &handshake("/v1/realtime?model=m")).await
    }

    /// Through a gateway with these lines, opened by this handshake.
    async fn through(lines: &str, handshake: &Request) -> Self {
        let backend = Backend::start().await;
        let gateway = Gateway::start(&format!("{}{lines}", pool_of(&[&backend]))).await;
        backend.handle(|_| Script::websocket_echo(&accept(), None));
        let connection = open(&gateway, handshake).await;
        Self { gateway, backend, connection, buffer: Vec::new() }
    }

    async fn say(&mut self, event: &Value) {
        self.connection.send(frame(1, event.to_string().as_bytes())).await;
    }

    /// Asks for a response; says whether the backend has heard of it, or what the client is told.
    async fn ask(&mut self, response: Value) -> Result<(), Value> {
        let asked = json!({ "type": "response.create", "event_id": "e1", "response": response });
        self.say(&asked).await;
        let heard = self.hear().await;
        if heard == asked { Ok(()) } else { Err(heard) }
    }

    /// The backend's response is over.
    async fn done(&mut self, input: u64, output: u64) {
        let usage = json!({ "total_tokens": input + output, "input_tokens": input, "output_tokens": output });
        let done = json!({ "type": "response.done", "response": { "status": "completed", "usage": usage } });
        self.say(&done).await;
        assert_eq!(self.hear().await, done);
    }

    /// The next message.
    async fn hear(&mut self) -> Value {
        serde_json::from_slice(&self.frame().await.1).unwrap()
    }

    /// The next frame: its opcode and what is in it.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((opcode, payload, length)) = whole(&self.buffer) {
                self.buffer.drain(..length);
                return (opcode, payload);
            }
            let more = self.connection.raw().await;
            assert!(!more.is_empty(), "the connection ended");
            self.buffer.extend_from_slice(&more);
        }
    }

    async fn bucket(&self, kind: &str) -> Value {
        self.bucket_of("global", kind).await
    }

    async fn bucket_of(&self, subject: &str, kind: &str) -> Value {
        let buckets = self.gateway.admin(&format!("/admin/limits/{subject}")).await.json();
        let found = buckets["buckets"].as_array().unwrap().iter().find(|bucket| bucket["kind"] == kind);
        found.unwrap_or_else(|| panic!("{kind}: {buckets}")).clone()
    }

    async fn left(&self, kind: &str) -> (u64, u64) {
        let bucket = self.bucket(kind).await;
        (bucket["left"].as_u64().unwrap(), bucket["reserved"].as_u64().unwrap())
    }
}

/// The first frame, if it is whole, and how long it is.
fn whole(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (short.into(), 2),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask = bytes.get(at..at + 4)?.try_into().ok()?;
        at += 4;
    }
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some((first & 0x0f, payload, at + length))
}

#[tokio::test]
async fn each_turn_is_a_request_and_one_too_many_is_told_and_ends_nothing() {
    let mut talk = Talk::new("{ per: global, requests: 3/h }").await;
    // The handshake was the first.
    for _ in 0..2 {
        talk.ask(json!({})).await.unwrap();
        talk.done(1, 1).await;
    }
    let told = talk.ask(json!({})).await.unwrap_err();
    assert_eq!((&told["type"], &told["error"]["code"]), (&json!("error"), &json!("rate_limit_exceeded")));
    assert_eq!((&told["error"]["type"], &told["error"]["event_id"]), (&json!("requests"), &json!("e1")));
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("global/requests") && message.contains("3/h"), "{message}");
    let other = json!({ "type": "conversation.item.create", "item": { "role": "user" } });
    talk.say(&other).await;
    assert_eq!(talk.hear().await, other, "the connection goes on, and the backend has not heard of the turn");
    assert_eq!(talk.left("requests").await.0, 0);
    let labels = [("limit", "global/requests"), ("outcome", "refused")];
    talk.gateway.metric_is("tidegate_limited_requests_total", &labels, 1.0).await;
    drop(talk.connection);
    let line = talk.gateway.log.line(|line| line["event"] == "request" && line["status"] == 101).await;
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn tokens_of_a_turn_are_reserved_and_settled_by_its_response() {
    let mut talk = Talk::new("{ per: global, tokens: 1000/h }").await;
    talk.say(&json!({ "type": "session.update", "session": { "max_output_tokens": 200 } })).await;
    talk.hear().await;
    talk.ask(json!({})).await.unwrap();
    let (left, reserved) = talk.left("tokens").await;
    assert!((201..300).contains(&reserved) && left == 1000 - reserved, "{left} {reserved}");
    talk.done(30, 40).await;
    assert_eq!(talk.left("tokens").await, (930, 0));
    talk.ask(json!({ "max_output_tokens": 800 })).await.unwrap();
    let told = talk.ask(json!({ "max_output_tokens": 400 })).await.unwrap_err();
    assert_eq!((&told["error"]["type"], &told["error"]["code"]), (&json!("tokens"), &json!("rate_limit_exceeded")));
    let told = talk.ask(json!({ "max_output_tokens": 5000 })).await.unwrap_err();
    assert_eq!(told["error"]["code"], "larger_than_limit");
    // The backend does not take the turn.
    talk.say(
        &json!({ "type": "error", "error": { "code": "conversation_already_has_active_response", "event_id": "e1" } }),
    )
    .await;
    talk.hear().await;
    assert_eq!(talk.left("tokens").await, (930, 0));
    // It begins one by itself, since somebody was heard to stop speaking.
    talk.done(20, 10).await;
    assert_eq!(talk.left("tokens").await, (900, 0));
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_of_a_turn_leaves_nothing_reserved() {
    let mut talk = Talk::new("{ per: global, tokens: 1000/h, in_flight: 1 }").await;
    assert_eq!(talk.gateway.send(&handshake("/v1/realtime?model=m")).await.status, 429, "in flight while it is open");
    talk.ask(json!({ "max_output_tokens": 500 })).await.unwrap();
    for _ in 0..3 {
        talk.say(&json!({ "type": "response.output_text.delta", "delta": "a" })).await;
        talk.hear().await;
    }
    let (_, reserved) = talk.left("tokens").await;
    let prompt = reserved - 500;
    let Talk { connection, gateway, .. } = talk;
    drop(connection);
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let buckets = gateway.admin("/admin/limits/global").await.json();
    for bucket in buckets["buckets"].as_array().unwrap() {
        let left = if bucket["kind"] == "tokens" { 1000 - prompt - 3 } else { 1 };
        assert_eq!((&bucket["left"], &bucket["reserved"]), (&json!(left), &json!(0)), "{bucket}");
    }
}

#[tokio::test]
async fn fragments_pings_and_large_messages_are_read_as_they_pass() {
    let mut talk = Talk::new("{ per: global, requests: 2/h }").await;
    let asked = json!({ "type": "response.create" }).to_string();
    let (one, two) = asked.split_at(9);
    let mut first = frame(1, one.as_bytes());
    first[0] &= 0x7f;
    talk.connection.send(first).await;
    talk.connection.send(frame(9, b"ping")).await;
    assert_eq!(talk.frame().await, (9, b"ping".to_vec()), "a ping does not wait for a message");
    talk.connection.send(frame(0, two.as_bytes())).await;
    assert_eq!([talk.frame().await.1, talk.frame().await.1].concat(), asked.as_bytes());
    let audio = json!({ "type": "input_audio_buffer.append", "audio": "A".repeat(1 << 20) });
    talk.say(&audio).await;
    assert_eq!(talk.hear().await, audio);
    let mut refused = frame(1, one.as_bytes());
    refused[0] &= 0x7f;
    talk.connection.send([refused, frame(0, two.as_bytes())].concat()).await;
    assert_eq!(talk.hear().await["error"]["code"], "rate_limit_exceeded");
    let data = vec![7; 100_000];
    talk.connection.send(frame(2, &data)).await;
    assert_eq!(talk.frame().await, (2, data));
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_does_not_pass_and_what_is_no_frame_ends_the_connection() {
    let mut talk = Talk::with("{ per: global, requests: 9/h }", "limits: { event: 1MiB }\n").await;
    for text in [r#"{"type":"x","type":"response.create"}"#, "[]", "{"] {
        talk.connection.send(frame(1, text.as_bytes())).await;
        assert_eq!(talk.hear().await["error"]["code"], "invalid_event", "{text}");
    }
    talk.connection.send(frame(1, &vec![b'x'; 2 << 20])).await;
    let (opcode, reason) = talk.frame().await;
    assert_eq!((opcode, &reason[..2]), (8, &1009_u16.to_be_bytes()[..]));
    assert!(talk.connection.closes_within(Duration::from_secs(2)).await);
    let mut connection = open(&talk.gateway, &handshake("/v1/realtime?model=m")).await;
    let mut compressed = frame(1, b"{}");
    compressed[0] |= 0x40;
    connection.send(compressed).await;
    assert_eq!(&connection.raw().await[..4], [&[0x88, 33][..], &1002_u16.to_be_bytes()].concat());
}

#[tokio::test]
async fn limits_that_a_tenant_or_a_key_has_for_itself_count_turns_too() {
    let key = Key::new("k");
    let tenants =
        "tenants: { acme: { limits: [{ tokens: 10k/h }], users: { ann: { limits: [{ in_flight: 2 }] } } } }\n";
    let keys = format!("{{ id: k, hash: \"{}\", user: ann, limits: [{{ requests: 3/h }}] }}", key.hash);
    let lines = format!("{tenants}filters:\n  - api_key: {{ keys: [ {keys} ] }}\n  - limits: []\n");
    let mut talk = Talk::through(&lines, &handshake("/v1/realtime?model=m").bearer(&key.key)).await;
    assert_eq!(talk.bucket_of("user:ann", "in_flight").await["left"], 1);
    let tokens = async |talk: &Talk| {
        let bucket = talk.bucket_of("org:acme", "tokens").await;
        (bucket["left"].as_u64().unwrap(), bucket["reserved"].as_u64().unwrap())
    };
    talk.ask(json!({ "max_output_tokens": 400 })).await.unwrap();
    let (left, reserved) = tokens(&talk).await;
    assert!(left <= 9_600 && reserved >= 400, "{left} left, {reserved} reserved");
    talk.done(100, 50).await;
    let (left, reserved) = tokens(&talk).await;
    assert!((9_850..=9_860).contains(&left) && reserved == 0, "{left} left, {reserved} reserved");
    // The handshake and two turns are all there is.
    talk.ask(json!({})).await.unwrap();
    talk.done(1, 1).await;
    let refused = talk.ask(json!({})).await.unwrap_err();
    assert_eq!(refused["error"]["code"], "rate_limit_exceeded");
    assert!(refused["error"]["message"].as_str().unwrap().contains("tenants.key/requests"), "{refused}");
    // A turn larger than the organisation's whole bucket has nothing to wait for.
    let refused = talk.ask(json!({ "max_output_tokens": 20_000 })).await.unwrap_err();
    assert_eq!(refused["error"]["code"], "larger_than_limit");
    drop(talk.connection);
    talk.gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn who_is_let_in_no_more_is_told_so_at_the_next_turn_and_the_connection_ends() {
    let (first, second) = (Key::new("first"), Key::new("second"));
    let filters =
        |key: &Key| format!("filters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\", user: ann }} ] }}\n", key.hash);
    let request = handshake("/v1/realtime?model=m").bearer(&first.key);
    let mut talk = Talk::through(&filters(&first), &request).await;
    talk.ask(json!({})).await.unwrap();
    talk.done(3, 4).await;
    talk.gateway.rewrite(&format!("{}{}", pool_of(&[&talk.backend]), filters(&second)));
    let reload = Request::new("POST", "/admin/reload").header("connection", "close");
    assert_eq!(Connection::open(talk.gateway.admin_address()).await.exchange(&reload).await.status, 200);
    let told = talk.ask(json!({})).await.unwrap_err();
    assert_eq!((&told["type"], &told["error"]["code"]), (&json!("error"), &json!("invalid_api_key")));
    assert_eq!((&told["error"]["event_id"], &told["error"]["type"]), (&json!("e1"), &json!("authentication_error")));
    let (opcode, reason) = talk.frame().await;
    assert_eq!((opcode, &reason[..2]), (8, &1008_u16.to_be_bytes()[..]));
    assert!(talk.connection.closes_within(Duration::from_secs(5)).await);
    let line = talk.gateway.log.line(|line| line["event"] == "request" && line["status"] == 101).await;
    assert_eq!((&line["cause"], &line["completion_tokens"]), (&json!("auth"), &json!(4)), "{line}");
}

#[tokio::test]
async fn compression_is_offered_unless_turns_are_read() {
    let offer = "permessage-deflate; client_max_window_bits";
    for (limits, offered) in
        [("{ per: global, in_flight: 9, bytes: 1M/s }", Some(offer)), ("{ per: global, cost: 1/h }", None)]
    {
        let more = "prices: { models: { \"*\": { prompt: 1 } } }\n";
        let talk = Talk::with(limits, more).await;
        let request = handshake("/v1/realtime?model=m").header("Sec-WebSocket-Extensions", offer);
        let _connection = open(&talk.gateway, &request).await;
        assert_eq!(talk.backend.seen(1).await.header("sec-websocket-extensions"), offered, "{limits}");
    }
}

#[tokio::test]
async fn what_is_said_on_a_socket_is_in_the_usage_of_who_said_it_and_is_not_read_where_nobody_is_known() {
    let store = "storage: { path: store.db }\n";
    let known =
        "trusted_proxies: [127.0.0.1]\nfilters:\n  - trusted_headers: { user: x-user, org: x-org, team: null }\n";
    for (lines, user, tokens) in [(format!("{store}{known}"), "ann", (50, 60)), (store.to_owned(), "", (0, 0))] {
        let handshake = handshake("/v1/realtime?model=m").header("x-user", "ann").header("x-org", "acme");
        let mut talk = Talk::through(&lines, &handshake).await;
        for (input, output) in [(20, 50), (30, 10)] {
            talk.ask(json!({})).await.unwrap();
            talk.done(input, output).await;
        }
        let Talk { connection, gateway, backend, .. } = talk;
        drop(connection);
        let line = gateway.log.line(|line| line["event"] == "request" && line["status"] == 101).await;
        assert_eq!(line["prompt_tokens"].as_u64().unwrap_or(0), tokens.0, "{line}");
        gateway.metric_is("tidegate_requests_total", &[], 1.0).await;
        let usage = gateway.admin("/admin/usage?by=user").await.json();
        let row = &usage["usage"][0];
        let counted = (row["prompt_tokens"].as_u64().unwrap(), row["completion_tokens"].as_u64().unwrap());
        assert_eq!(
            (row["user"].as_str().unwrap_or(""), counted, row["requests"].as_u64()),
            (user, tokens, Some(1)),
            "{usage}"
        );
        drop(backend);
    }
}
