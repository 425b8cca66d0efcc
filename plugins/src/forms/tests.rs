use super::*;
use crate::events::StreamWatch;
use crate::splice::split_usage;
use proptest::prelude::*;
use serde_json::{Value, json};

fn joined(events: &[Bytes]) -> Vec<u8> {
    events.concat()
}

fn read(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(json)))
}

/// A stream, and what clients make of it.
fn adds_up(endpoint: Endpoint, events: &str, expected: &Value) {
    assert_eq!(read(&whole(endpoint, events.as_bytes()).expect("a stream of it")), *expected);
}

/// A whole answer comes back from its events, which are a complete stream.
fn comes_back(endpoint: Endpoint, answer: &Value, piece: usize) -> Vec<Bytes> {
    let events =
        events(endpoint, answer.to_string().as_bytes(), Shape { usage: true, piece }).expect("an answer of it");
    let stream = joined(&events);
    let choices = answer["choices"].as_array().map_or(1, Vec::len) as u64;
    let mut watch = StreamWatch::new(endpoint).with_choices(choices);
    for event in &events {
        read_all(event);
        watch.see(event);
    }
    assert!(watch.complete() && watch.saw_done(), "{}", String::from_utf8_lossy(&stream));
    assert_eq!(
        read(&whole(endpoint, &stream).expect("a stream of it")),
        *answer,
        "{}",
        String::from_utf8_lossy(&stream)
    );
    events
}

fn read_all(block: &[u8]) {
    payloads(block).iter().for_each(|payload| {
        read(payload);
    });
}

#[test]
fn a_chat_stream_adds_up_to_what_clients_make_of_it() {
    let stream = concat!(
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"system_fingerprint\":\"b1\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        ": ping\n\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"a\"},\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.123456789012345678}]}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":1,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"b\\n\"},\"logprobs\":{\"content\":[{\"token\":\"b\",\"logprob\":-1e-7}]}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{},\"stop_reason\":7}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"tool_calls\",\"index\":1,\"delta\":{}}],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
        "data: {\"choices\":[],\"created\":1,\"id\":\"chatcmpl-a\",\"model\":\"m\",\"object\":\"chat.completion.chunk\",\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4},\"timings\":{\"x\":1.5}}\n\n",
        "data: [DONE]\n\n",
    );
    let expected = json!({
        "id": "chatcmpl-a", "created": 1, "model": "m", "object": "chat.completion", "system_fingerprint": "b1",
        "choices": [
            {"index": 0, "finish_reason": "stop", "stop_reason": 7,
             "message": {"role": "assistant", "content": "ab\n", "reasoning_content": "hm"},
             "logprobs": {"content": [{"token": "a", "logprob": -0.123_456_789_012_345_68}, {"token": "b", "logprob": -1e-7}]}},
            {"index": 1, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": null,
             "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}, "timings": {"x": 1.5},
    });
    adds_up(Endpoint::Chat, stream, &expected);
    // Numbers stay as they are written.
    let text = whole(Endpoint::Chat, stream.as_bytes()).unwrap();
    assert!(memchr::memmem::find(&text, b"-0.123456789012345678").is_some());
}

#[test]
fn a_stream_of_messages_adds_up_to_the_message() {
    let stream = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":2,\"output_tokens\":1}}}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"s\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"a \"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"b\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\"\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\":1}\"}}\n\n",
        "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":7}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let expected = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": null,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a b"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 7},
    });
    adds_up(Endpoint::Messages, stream, &expected);
}

#[test]
fn a_response_is_in_the_last_event_of_its_stream() {
    let stream = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n\
        event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"output\":[]}}\n\n";
    adds_up(Endpoint::Responses, stream, &json!({"id": "r", "output": []}));
}

#[test]
fn who_did_not_ask_for_the_usage_gets_none() {
    let answer = json!({"id": "c", "object": "chat.completion", "model": "m", "timings": {"x": 1},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1}});
    let shape = Shape { usage: false, piece: 8 };
    let stream = joined(&events(Endpoint::Chat, answer.to_string().as_bytes(), shape).unwrap());
    let text = String::from_utf8(stream).unwrap();
    assert!(!text.contains("usage") && !text.contains("\"choices\":[]") && text.contains("timings"), "{text}");

    let asked = "data: {\"choices\":[{\"index\":0}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"a\":1}}\n\ndata: [DONE]\n\n";
    let (left, taken) = split_usage(asked.as_bytes()).unwrap();
    assert_eq!(left, "data: {\"choices\":[{\"index\":0}]}\n\ndata: [DONE]\n\n");
    assert_eq!(taken, "data: {\"choices\":[],\"usage\":{\"a\":1}}\n\n");
    // A usage that comes with a choice is nobody's addition.
    assert_eq!(split_usage(b"data: {\"choices\":[{\"index\":0}],\"usage\":{\"a\":1}}\n\n"), None);
}

#[test]
fn an_answer_printed_over_several_lines_is_told_in_events_of_one() {
    let answer = json!({"id": "r", "status": "completed", "output": [{"type": "message", "content": [{"type": "x", "y": [1]}]}]});
    let pretty = serde_json::to_string_pretty(&answer).unwrap() + "\r\n";
    let stream = joined(&events(Endpoint::Responses, pretty.as_bytes(), Shape { usage: false, piece: 8 }).unwrap());
    adds_up(Endpoint::Responses, std::str::from_utf8(&stream).unwrap(), &answer);
    read_all(&stream);
}

#[test]
fn what_is_no_answer_has_no_other_form() {
    for (endpoint, text) in
        [(Endpoint::Chat, "{}"), (Endpoint::Messages, "[]"), (Endpoint::Responses, "{}"), (Endpoint::Rerank, "{}")]
    {
        assert_eq!(events(endpoint, text.as_bytes(), Shape { usage: true, piece: 8 }), None);
        assert_eq!(whole(endpoint, b"data: {}\n\n"), None);
    }
}

#[test]
fn an_id_too_short_to_be_given_anew_becomes_as_long_as_others_wherever_it_is_an_id() {
    let random = || Some(std::array::from_fn(|at| at as u8 * 7));
    let long = |endpoint, answer: &str, streamed| {
        let long = LongId::of(endpoint, answer.as_bytes(), streamed, random);
        let said =
            long.map_or_else(|| Bytes::copy_from_slice(answer.as_bytes()), |long| long.put_in(answer.as_bytes()));
        String::from_utf8(said.to_vec()).unwrap()
    };
    let whole = r#"{ "id" : "cmpl_1", "choices": [{"text": "cmpl_1 \"id\": \"cmpl_1\"", "name": "cmpl_1"}] }"#;
    let said = long(Endpoint::Completions, whole, false);
    let id = serde_json::from_str::<Value>(&said).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("cmpl_") && id.len() == "cmpl_".len() + RANDOM, "{id}");
    assert_eq!(said, whole.replacen("cmpl_1", &id, 1), "nothing else has changed");
    let ids = Ids::of_whole(Endpoint::Completions, said.as_bytes());
    let told = |n| Fresh::new(&ids, 1, n).whole(&said.clone().into());
    assert_ne!(told(1), told(2));

    let event = |id: &str, text: &str| format!("data: {{\"id\":\"{id}\",\"choices\":[{{\"delta\":\"{text}\"}}]}}\n\n");
    let stream = event("7", "7") + &event("7", "b") + "data: [DONE]\n\n";
    let said = long(Endpoint::Chat, &stream, true);
    let id = &said[13..13 + RANDOM];
    assert_eq!(said, event(id, "7") + &event(id, "b") + "data: [DONE]\n\n");
    let message = "event: message_start\ndata: {\"message\":{\"id\":\"msg_1\"},\"type\":\"message_start\"}\n\n";
    assert!(long(Endpoint::Messages, message, true).len() == message.len() - 1 + RANDOM);

    for fine in ["chatcmpl-7f3a0b9c2d1e4f5a6b7c8d9e", "chatcmpl-b2a9c7de-1111-4222-8333-444455556666", r"a\u0062"] {
        let whole = format!("{{\"id\":\"{fine}\"}}");
        assert_eq!(long(Endpoint::Chat, &whole, false), whole);
    }
    assert_eq!(long(Endpoint::Chat, r#"{"id":5}"#, false), r#"{"id":5}"#);
}

#[test]
fn ids_are_given_anew_wherever_they_stand_and_texts_are_left_alone() {
    let whole = Bytes::from(
        r#"{"id":"chatcmpl-0a1b2c3d4e5f","created":1700000000,"choices":[{"text":"\"chatcmpl-0a1b2c3d4e5f\" \"created\":1700000000","n":1700000000}]}"#,
    );
    let ids = Ids::of_whole(Endpoint::Chat, &whole);
    let fresh = Fresh::new(&ids, 1_800_000_000, 7);
    let told = fresh.whole(&whole);
    assert_eq!(told.len(), whole.len());
    let read: Value = serde_json::from_slice(&told).unwrap();
    let id = read["id"].as_str().unwrap();
    assert!(
        id.starts_with("chatcmpl-") && id != "chatcmpl-0a1b2c3d4e5f" && id[9..].bytes().all(|b| b.is_ascii_hexdigit())
    );
    assert_eq!(read["created"], 1_800_000_000);
    assert_eq!(read["choices"][0]["text"], "\"chatcmpl-0a1b2c3d4e5f\" \"created\":1700000000");
    assert_eq!(read["choices"][0]["n"], 1_700_000_000);
    assert_eq!(fresh.segments(&whole).concat(), told);

    let events = Bytes::from(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01AbCdEf\"}}\n\ndata: {\"id\":\"msg_01AbCdEf\"}\n\n",
    );
    let ids = Ids::of_events(Endpoint::Messages, &events);
    let told = Fresh::new(&ids, 1, 9).whole(&events);
    assert!(memchr::memmem::find(&told, b"msg_01AbCdEf").is_none() && told.len() == events.len());
    assert!(Ids::of_whole(Endpoint::Chat, b"{\"id\":\"x\"}").is_empty());
}

fn text() -> impl Strategy<Value = String> {
    "[a-c \n\"\\\\\u{e9}\u{4e2d}\u{1f600}]{0,24}"
}

fn maybe<T: Strategy<Value = Value> + 'static>(value: T) -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(value)
}

fn add(object: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[name] = value;
    }
}

/// A choice of a chat.
fn choice() -> impl Strategy<Value = Value> {
    let call = (text(), text()).prop_map(|(name, arguments)| {
        json!({"id": format!("call_{name}"), "type": "function", "function": {"name": name, "arguments": arguments}})
    });
    let calls = maybe(proptest::collection::vec(call, 1..3).prop_map(Value::from));
    let parts = (
        proptest::option::of(text()),
        calls,
        maybe(text().prop_map(Value::from)),
        maybe(text().prop_map(Value::from)),
        any::<(bool, bool)>(),
    );
    parts.prop_map(|(content, calls, reasoning, unknown, (logprobs, matching))| {
        let mut message = json!({"role": "assistant", "content": content});
        add(&mut message, "tool_calls", calls);
        add(&mut message, "reasoning_content", reasoning.filter(|text| text != ""));
        add(&mut message, "x_unknown", unknown.filter(|text| text != "").map(|text| json!({"deep": [text, 1]})));
        let mut choice = json!({"message": message, "finish_reason": "stop", "stop_reason": 13, "logprobs": null});
        if logprobs {
            let content = content.unwrap_or_default();
            let token = |letter: char| json!({"token": letter.to_string(), "logprob": -0.5, "top_logprobs": []});
            let tokens: Vec<Value> = if matching { content.chars().map(token).collect() } else { vec![token('?')] };
            choice["logprobs"] = json!({"content": tokens, "refusal": null});
        }
        choice
    })
}

fn chat() -> impl Strategy<Value = Value> {
    (proptest::collection::vec(choice(), 1..4), any::<bool>()).prop_map(|(mut choices, usage)| {
        choices.iter_mut().enumerate().for_each(|(index, choice)| choice["index"] = json!(index));
        let mut answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices,
            "service_tier": "default", "timings": {"a": [1.5]}});
        add(&mut answer, "usage", usage.then(|| json!({"prompt_tokens": 3, "completion_tokens": 4})));
        answer
    })
}

fn completion() -> impl Strategy<Value = Value> {
    proptest::collection::vec((text(), any::<bool>()), 1..3).prop_map(|choices| {
        let choice = |(index, (text, logprobs)): (usize, (String, bool))| {
            let tokens: Vec<String> = text.chars().map(String::from).collect();
            let logprobs = if logprobs { json!({"tokens": tokens, "text_offset": [0]}) } else { Value::Null };
            json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": "length"})
        };
        let choices: Vec<Value> = choices.into_iter().enumerate().map(choice).collect();
        json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, "usage": {"prompt_tokens": 1}})
    })
}

fn message() -> impl Strategy<Value = Value> {
    let block = prop_oneof![
        text().prop_map(|text| json!({"type": "text", "text": text})),
        text().prop_map(
            |text| json!({"type": "text", "text": text, "citations": [{"type": "x", "cited_text": text}, {"n": 1}]})
        ),
        (text(), text()).prop_map(|(text, more)| json!({"type": "thinking", "thinking": text, "signature": more})),
        text().prop_map(|text| json!({"type": "redacted_thinking", "data": text})),
        text().prop_map(
            |text| json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": text, "b": [1.5, null]}})
        ),
        text().prop_map(|text| json!({"type": "x_unknown", "said": {"text": text}})),
    ];
    proptest::collection::vec(block, 0..4).prop_map(|blocks| {
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": blocks, "stop_reason": "end_turn",
            "stop_sequence": null, "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 0}})
    })
}

fn response() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        text().prop_map(|text| json!({"type": "output_text", "text": text, "annotations": [{"a": 1}], "logprobs": []})),
        text().prop_map(|text| json!({"type": "refusal", "refusal": text})),
        text().prop_map(|text| json!({"type": "x", "y": text})),
    ];
    let item = prop_oneof![
        proptest::collection::vec(part, 0..3)
            .prop_map(|parts| json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": parts})),
        text().prop_map(|text| json!({"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": text, "status": "completed"})),
        text().prop_map(|text| json!({"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": text}]})),
        text().prop_map(|text| json!({"type": "x_unknown", "id": "x", "z": text})),
    ];
    proptest::collection::vec(item, 0..3).prop_map(|items| {
        json!({"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": items,
            "usage": {"input_tokens": 1, "output_tokens": 2}})
    })
}

proptest! {
    #[test]
    fn any_chat_comes_back_from_its_events(answer in chat(), piece in 1_usize..20) {
        comes_back(Endpoint::Chat, &answer, piece);
    }

    #[test]
    fn any_completion_comes_back_from_its_events(answer in completion(), piece in 1_usize..20) {
        comes_back(Endpoint::Completions, &answer, piece);
    }

    #[test]
    fn any_message_comes_back_from_its_events(answer in message(), piece in 1_usize..20) {
        comes_back(Endpoint::Messages, &answer, piece);
    }

    #[test]
    fn any_response_comes_back_from_its_events(answer in response(), piece in 1_usize..20) {
        let events = comes_back(Endpoint::Responses, &answer, piece);
        // What the pieces of a text add up to is said at its end.
        let (mut grown, mut done) = (String::new(), Vec::new());
        for event in payloads(&joined(&events)).iter().map(|payload| read(payload)) {
            match event["type"].as_str().unwrap() {
                "response.output_text.delta" => grown.push_str(event["delta"].as_str().unwrap()),
                "response.output_text.done" => done.push((std::mem::take(&mut grown), event["text"].clone())),
                _ => {}
            }
        }
        prop_assert!(done.iter().all(|(grown, text)| text == grown));
    }

    #[test]
    fn no_bytes_upset_the_readers(bytes in "(data: |event: |\n\n|\n|[{}\\[\\],:\"\\\\a1]|\"choices\":|\"index\":|\"delta\":|\"type\":|\"message_start\"|\"message\"|\"content_block_start\"|null){0,24}") {
        for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Messages, Endpoint::Responses] {
            let _ = whole(endpoint, bytes.as_bytes());
            let _ = events(endpoint, bytes.as_bytes(), Shape { usage: true, piece: 3 });
            let _ = Ids::of_events(endpoint, bytes.as_bytes());
        }
        let _ = split_usage(bytes.as_bytes());
    }
}
