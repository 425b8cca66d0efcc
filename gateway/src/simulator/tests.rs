//! The simulator over real sockets, with a client that writes bytes and reads to the end.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn start(settings: Simulator) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, settings));
    address
}

fn instant() -> Simulator {
    Simulator { pace: Duration::ZERO, first_token: Duration::ZERO, ..Simulator::default() }
}

/// Status and body of one request on a connection of its own. HTTP/1.0, so that the body ends with the
/// connection and is not chunked.
async fn send(to: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.0\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn post(path: &str, body: Value) -> (u16, Value) {
    let (status, body) = send(start(instant()).await, "POST", path, "", &body.to_string()).await;
    (status, serde_json::from_str(&body).unwrap())
}

/// The data of each event; names are checked against the data's `type`.
async fn stream(path: &str, body: Value) -> Vec<String> {
    let (status, body) = send(start(instant()).await, "POST", path, "", &body.to_string()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.ends_with("\n\n"));
    body.split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once("data: ").unwrap();
            if let Some(name) = name.strip_prefix("event: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                assert_eq!(data["type"], name.trim_end());
            }
            data.to_owned()
        })
        .collect()
}

fn chat(extra: Value) -> Value {
    completions::with(&json!({"model": "simulator", "messages": [{"role": "user", "content": "two words"}]}), &extra)
}

#[tokio::test]
async fn a_chat_answer_quotes_the_prompt_and_counts_its_words() {
    let (status, answer) = post("/v1/chat/completions", chat(json!({}))).await;
    assert_eq!(status, 200);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("simulator") && text.contains("\"two words\""), "{text}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], text.split(' ').count());
    assert_eq!(answer["usage"]["total_tokens"], 2 + text.split(' ').count());
}

#[tokio::test]
async fn a_streamed_chat_says_the_same_as_a_whole_one() {
    let (_, whole) = post("/v1/chat/completions", chat(json!({}))).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut events = stream("/v1/chat/completions", chat(options)).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(usage["choices"], json!([]));
    assert!(rest.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_that_did_not_ask_for_usage_has_none() {
    let events = stream("/v1/chat/completions", chat(json!({"stream": true}))).await;
    assert!(events.iter().all(|event| !event.contains("usage")));
}

#[tokio::test]
async fn max_tokens_and_n_are_kept() {
    let (_, answer) = post("/v1/chat/completions", chat(json!({"max_tokens": 3, "n": 2}))).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][1]["message"]["content"], "I am a");
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    let events = stream("/v1/chat/completions", chat(json!({"max_tokens": 3, "n": 2, "stream": true}))).await;
    assert_eq!(events.iter().filter(|event| event.contains("\"content\":\" am\"")).count(), 2);
}

#[tokio::test]
async fn a_tool_that_the_prompt_names_is_called_and_its_result_told() {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]);
    let messages = json!([{"role": "user", "content": "What is the weather in Paris?"}]);
    let (_, answer) = post("/v1/chat/completions", chat(json!({"tools": tools, "messages": messages}))).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris", "days": 1}));

    let streamed = json!({"tools": tools, "messages": messages, "stream": true});
    let events = stream("/v1/chat/completions", chat(streamed)).await;
    let pieces: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|e| {
            e["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str().map(ToOwned::to_owned)
        })
        .collect();
    assert_eq!(serde_json::from_str::<Value>(&pieces).unwrap(), arguments);

    let (_, answer) = post("/v1/chat/completions", chat(json!({"tools": tools}))).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let messages = json!([messages[0], {"role": "tool", "tool_call_id": "x", "content": "sunny, 21 degrees"}]);
    let (_, answer) = post("/v1/chat/completions", chat(json!({"tools": tools, "messages": messages}))).await;
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("sunny, 21 degrees"));
}

#[tokio::test]
async fn completions_are_answered_whole_and_streamed() {
    let (_, whole) = post("/v1/completions", json!({"model": "simulator", "prompt": "hi"})).await;
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let events = stream("/v1/completions", json!({"model": "simulator", "prompt": "hi", "stream": true})).await;
    let said: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(said, text);
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn responses_stream_typed_events_that_end_with_the_whole() {
    let asked = json!({"model": "simulator", "input": "hello there", "max_output_tokens": 5});
    let (_, whole) = post("/v1/responses", asked.clone()).await;
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["usage"]["output_tokens"], 5);
    let events = stream("/v1/responses", completions::with(&asked, &json!({"stream": true}))).await;
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(events.iter().zip(0..).all(|(event, at)| event["sequence_number"] == at));
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["usage"], whole["usage"]);
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(last["output"][0]["content"][0]["text"], text);
}

#[tokio::test]
async fn messages_speak_anthropic() {
    let asked = chat(json!({"max_tokens": 4, "system": "be brief"}));
    let (_, whole) = post("/v1/messages", asked.clone()).await;
    assert_eq!(whole["content"][0]["text"], "I am a simulator,");
    assert_eq!(whole["stop_reason"], "max_tokens");
    assert_eq!(whole["usage"], json!({"input_tokens": 4, "output_tokens": 4}));
    let events = stream("/v1/messages", completions::with(&asked, &json!({"stream": true}))).await;
    let kinds: Vec<Value> =
        events.iter().map(|event| serde_json::from_str::<Value>(event).unwrap()["type"].clone()).collect();
    assert_eq!(kinds.first().unwrap(), "message_start");
    assert_eq!(kinds.last().unwrap(), "message_stop");
    assert_eq!(kinds.iter().filter(|kind| *kind == "content_block_delta").count(), 4);
    let (_, count) = post("/v1/messages/count_tokens", asked).await;
    assert_eq!(count["input_tokens"], 4);
    let (status, error) = post("/v1/messages", json!({"model": "nobody"})).await;
    assert_eq!((status, &error["error"]["type"]), (404, &json!("not_found_error")));
}

#[tokio::test]
async fn embeddings_are_the_same_as_numbers_and_as_base64() {
    use base64::Engine;
    let asked = json!({"model": "simulator", "input": ["a b", "c"], "dimensions": 8});
    let (_, floats) = post("/v1/embeddings", asked.clone()).await;
    let (_, packed) = post("/v1/embeddings", completions::with(&asked, &json!({"encoding_format": "base64"}))).await;
    assert_eq!(floats["usage"]["prompt_tokens"], 3);
    let packed = packed["data"][1]["embedding"].as_str().unwrap();
    let packed = base64::engine::general_purpose::STANDARD.decode(packed).unwrap();
    let unpacked: Vec<f32> = packed.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(serde_json::from_value::<Vec<f32>>(floats["data"][1]["embedding"].clone()).unwrap(), unpacked);
    assert_eq!(unpacked.len(), 8);
}

#[tokio::test]
async fn rerank_puts_the_text_that_shares_words_first() {
    let documents = json!(["green bicycles", "the tide is high"]);
    let asked = json!({"model": "simulator", "query": "high tide", "documents": documents, "top_n": 1});
    let (_, answer) = post("/v1/rerank", asked).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    assert_eq!(answer["results"][0]["index"], 1);
}

#[tokio::test]
async fn tokenize_answers_llama_cpp_and_vllm_alike() {
    let (_, answer) = post("/tokenize", json!({"content": "one two"})).await;
    let (_, other) = post("/tokenize", json!({"model": "x", "prompt": "one two"})).await;
    assert_eq!(answer, other);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_the_openai_shape() {
    let to = start(instant()).await;
    let refused = async |method: &str, path: &str, body: &str| {
        let (status, body) = send(to, method, path, "", body).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["error"]["message"].is_string(), "{error}");
        (status, error["error"]["code"].clone(), error["error"]["param"].clone())
    };
    let path = "/v1/chat/completions";
    assert_eq!(refused("POST", path, "{nope").await, (400, Value::Null, Value::Null));
    assert_eq!(refused("POST", path, "[]").await.0, 400);
    assert_eq!(refused("POST", path, "{}").await, (400, Value::Null, json!("model")));
    let unknown = r#"{"model":"gpt","messages":[]}"#;
    assert_eq!(refused("POST", path, unknown).await, (404, json!("model_not_found"), json!("model")));
    let silent = r#"{"model":"simulator","messages":[]}"#;
    assert_eq!(refused("POST", path, silent).await, (400, Value::Null, json!("messages")));
    let none = r#"{"model":"simulator","messages":[{"role":"user","content":"x"}],"max_tokens":0}"#;
    assert_eq!(refused("POST", path, none).await, (400, Value::Null, json!("max_tokens")));
    assert_eq!(refused("GET", path, "").await.0, 405);
    assert_eq!(refused("POST", "/v1/models", "{}").await.0, 405);
    assert_eq!(refused("GET", "/v1/nothing", "").await.0, 404);
    assert_eq!(refused("GET", "/v1/models/gpt", "").await.1, "model_not_found");
}

#[tokio::test]
async fn a_key_is_demanded_of_everyone_but_the_health_check() {
    let to = start(Simulator { key: Some("secret".to_owned()), ..instant() }).await;
    assert_eq!(send(to, "GET", "/health", "", "").await.0, 200);
    assert_eq!(send(to, "GET", "/v1/models", "", "").await.0, 401);
    assert_eq!(send(to, "GET", "/v1/models", "authorization: Bearer wrong\r\n", "").await.0, 401);
    assert_eq!(send(to, "GET", "/v1/models", "authorization: Bearer secret\r\n", "").await.0, 200);
    assert_eq!(send(to, "GET", "/v1/models/simulator", "x-api-key: secret\r\n", "").await.0, 200);
}

#[tokio::test]
async fn nothing_more_is_said_once_the_client_has_left() {
    let to = start(Simulator { pace: Duration::from_millis(20), ..instant() }).await;
    for streamed in [true, false] {
        let mut client = TcpStream::connect(to).await.unwrap();
        let body = chat(json!({"stream": streamed})).to_string();
        let length = body.len();
        let request =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        metric_becomes(to, "llamacpp:requests_processing 1").await;
        drop(client);
        metric_becomes(to, "llamacpp:requests_processing 0").await;
        let said = send(to, "GET", "/metrics", "", "").await.1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(send(to, "GET", "/metrics", "", "").await.1, said);
    }
}

async fn metric_becomes(to: SocketAddr, line: &str) {
    for _ in 0..100 {
        if send(to, "GET", "/metrics", "", "").await.1.lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line} was never seen");
}

#[tokio::test]
async fn words_come_at_the_pace_that_was_set() {
    let settings = Simulator { pace: Duration::from_millis(15), first_token: Duration::from_millis(60), ..instant() };
    let to = start(settings).await;
    let begun = std::time::Instant::now();
    let (_, body) = send(to, "POST", "/v1/chat/completions", "", &chat(json!({"max_tokens": 5})).to_string()).await;
    assert!(body.contains("I am a simulator, not"), "{body}");
    assert!(begun.elapsed() >= Duration::from_millis(60 + 4 * 15), "{:?}", begun.elapsed());
}
