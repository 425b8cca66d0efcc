use super::entry::{Entry, Form, Label, Manner, Wanted};
use super::memory::Memory;
use super::metrics::Counts;
use super::settings::IdsAre;
use super::transcript::Transcript;
use super::*;
use crate::exchange::Piece;
use crate::reply::Body;
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

fn label(endpoint: Endpoint) -> Label {
    let time = Duration::from_secs(60);
    Label { endpoint, tenant: "org/o".into(), route: "m".into(), good_for: time, keep_for: time }
}

fn json_type() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

async fn told(entry: &Entry, wanted: Wanted) -> Option<Bytes> {
    told_so(entry, wanted, Manner { ids: IdsAre::Original, pace: 0 }).await
}

async fn told_so(entry: &Entry, wanted: Wanted, manner: Manner) -> Option<Bytes> {
    let (_, body) = entry.tell(wanted, manner)?;
    Some(match body {
        Body::Whole(body) => body,
        Body::Pieces(mut pieces) => {
            let mut all = Vec::new();
            while let Some(piece) = pieces.next().await {
                all.extend_from_slice(&piece.expect("kept answers do not fail"));
            }
            all.into()
        }
    })
}

/// A stream that came as these blocks, and is kept.
fn streamed<'a>(blocks: impl IntoIterator<Item = &'a str>, choices: u64) -> Option<Entry> {
    let mut transcript = Transcript::new(Endpoint::Chat, false);
    for block in blocks {
        transcript.push(&Bytes::copy_from_slice(block.as_bytes()), Piece::Changed);
    }
    let (parts, end) = transcript.ending(choices);
    Some(Entry::events(label(Endpoint::Chat), json_type(), parts, end?.usage))
}

const STREAM: &str = "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n\
    data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn a_stream_that_was_asked_for_its_usage_is_told_so_again_byte_by_byte() {
    let nulls = STREAM.replace("}]}\n", "}],\"usage\":null}\n").repeat(400);
    let asked = Bytes::from([&nulls, USAGE, DONE].concat());
    let entry = streamed([&nulls[..], USAGE, DONE], 1).expect("a whole stream");
    let packed = entry.packed().expect("it gets smaller");
    let (with, without) = (Wanted { stream: true, usage: true }, Wanted { stream: true, usage: false });
    for entry in [entry, packed] {
        assert_eq!(told(&entry, with).await.unwrap(), asked);
        let silent = [&STREAM.repeat(400), DONE].concat();
        for manner in [Manner { ids: IdsAre::Original, pace: 0 }, Manner { ids: IdsAre::Fresh, pace: 0 }] {
            let again = told_so(&entry, without, manner).await.unwrap();
            assert!(!again.windows(5).any(|at| at == b"usage") && again.len() == silent.len(), "{manner:?}");
        }
        assert_eq!(told(&entry, without).await.unwrap(), silent);
        let whole = told(&entry, Wanted { stream: false, usage: false }).await.unwrap();
        assert_eq!(Usage::from_answer(&whole).and_then(|usage| usage.prompt), Some(3));
    }
}

#[tokio::test]
async fn a_stream_that_is_whole_without_an_end_mark_is_told_as_it_came() {
    let stream = Bytes::from([STREAM, USAGE].concat());
    let entry = streamed([STREAM, USAGE], 1).expect("a whole stream");
    assert_eq!(told(&entry, Wanted { stream: true, usage: true }).await.unwrap(), stream);
    let whole = told(&entry, Wanted { stream: false, usage: false }).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap()["choices"][0]["message"]["content"], "a");
}

#[tokio::test]
async fn a_stream_is_told_with_and_without_its_usage_byte_by_byte() {
    let asked = Bytes::from([STREAM, USAGE, DONE].concat());
    let entry = streamed([STREAM, USAGE, DONE], 1).expect("a whole stream");
    let (with, without) = (Wanted { stream: true, usage: true }, Wanted { stream: true, usage: false });
    assert_eq!(told(&entry, with).await.unwrap(), asked);
    assert_eq!(told(&entry, without).await.unwrap(), [STREAM, DONE].concat());
    assert_eq!(entry.usage.and_then(|usage| usage.completion), Some(2));
    let whole: Value =
        serde_json::from_slice(&told(&entry, Wanted { stream: false, usage: false }).await.unwrap()).unwrap();
    assert_eq!(whole["usage"]["prompt_tokens"], 3);

    let unknown = streamed([STREAM, DONE], 1).unwrap();
    assert!(told(&unknown, without).await.is_some());
    assert!(
        told(&unknown, with).await.is_none() && told(&unknown, Wanted { stream: false, usage: false }).await.is_none()
    );
}

#[tokio::test]
async fn a_stream_whose_id_is_too_short_is_told_under_one_id_in_all_its_events() {
    for blocks in [vec![STREAM, USAGE, DONE], vec![&*[STREAM, USAGE, DONE].concat()]] {
        let mut transcript = Transcript::new(Endpoint::Chat, true);
        for block in blocks {
            transcript.push(&Bytes::copy_from_slice(block.as_bytes()), Piece::AsShown);
        }
        let (parts, end) = transcript.ending(1);
        let entry = Entry::events(label(Endpoint::Chat), json_type(), parts, end.unwrap().usage);
        let manner = Manner { ids: IdsAre::Fresh, pace: 0 };
        let mut seen = Vec::new();
        for stream in [true, false] {
            let text = told_so(&entry, Wanted { stream, usage: true }, manner).await.unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            let ids: Vec<&str> = text.split("\"id\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
            assert!(
                ids.len() == if stream { 3 } else { 1 } && ids.iter().all(|id| *id == ids[0] && id.len() > 30),
                "{text}"
            );
            seen.push(ids[0].to_owned());
        }
        assert_ne!(seen[0], seen[1]);
    }
}

#[tokio::test]
async fn the_usage_comes_before_the_end_mark_however_that_is_written() {
    for done in ["data: [DONE]\nid: 7\n\n", "data: [DONE]\n: bye\n\n", DONE] {
        let entry = streamed([STREAM, USAGE, done], 1).unwrap();
        assert_eq!(told(&entry, Wanted { stream: true, usage: true }).await.unwrap(), [STREAM, USAGE, done].concat());
    }
    let crlf = |text: &str| text.replace('\n', "\r\n");
    let (stream, usage, done) = (crlf(STREAM), crlf(USAGE), crlf(DONE));
    let [cut, rest] = [&usage[..usage.len() - 1], &["\n", &done].concat()];
    let entry = streamed([&stream[..], cut, rest], 1).unwrap();
    assert_eq!(told(&entry, Wanted { stream: true, usage: true }).await.unwrap(), [stream, usage, done].concat());
}

#[test]
fn half_a_stream_is_none() {
    let of = |stream: &str, choices| streamed([stream], choices);
    assert!(of(STREAM, 1).is_some(), "every choice has its reason");
    assert!(of(STREAM, 2).is_none());
    assert!(of(&STREAM[..STREAM.len() / 2], 1).is_none());
    assert!(of(&format!("{STREAM}data: {{\"error\":{{}}}}\n\n{DONE}"), 1).is_none());
    assert!(of("", 1).is_none());
}

#[tokio::test]
async fn what_is_told_as_it_came_is_the_same_memory() {
    let body = Bytes::from(json!({ "id": "chatcmpl-1", "choices": [], "x": "y".repeat(100_000) }).to_string());
    let entry = Entry::whole(label(Endpoint::Chat), json_type(), body.clone(), Usage::from_answer(&body));
    let wanted = Wanted { stream: false, usage: false };
    assert_eq!(told(&entry, wanted).await.unwrap().as_ptr(), body.as_ptr());
    // With a fresh id, all but the id is.
    let (headers, fresh) = entry.tell(wanted, Manner { ids: IdsAre::Fresh, pace: 0 }).unwrap();
    assert_eq!(headers["content-length"], body.len().to_string().as_str());
    let Body::Pieces(mut pieces) = fresh else { panic!("a large answer comes in slices") };
    let mut copied = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        let within = body.as_ptr_range().contains(&piece.as_ptr());
        copied += if within { 0 } else { piece.len() };
    }
    assert!(copied < 100, "{copied}");
}

#[tokio::test]
async fn a_packed_answer_is_the_same_answer() {
    let body = Bytes::from(json!({ "id": "chatcmpl-1", "choices": [], "x": "abc".repeat(10_000) }).to_string());
    let entry = Entry::whole(label(Endpoint::Chat), json_type(), body.clone(), Usage::from_answer(&body));
    let packed = entry.packed().expect("it gets smaller");
    assert!(packed.weight() * 10 < entry.weight() && packed.size() == entry.size());
    assert_eq!(told(&packed, Wanted { stream: false, usage: false }).await.unwrap(), body);
    assert_eq!((packed.form, packed.packed().is_none()), (Form::Whole, true));
    let noise: Vec<u8> =
        (0..20_000_u32).flat_map(|number| blake3::hash(&number.to_le_bytes()).as_bytes()[..8].to_vec()).collect();
    assert!(Entry::item(label(Endpoint::Embeddings), noise.into(), Bytes::new(), None).packed().is_none());
}

/// What this process takes of memory, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// A day's worth of answers that nobody asks for again: the memory they take stays what the file allows.
#[test]
#[expect(clippy::print_stdout, reason = "a measurement, for who runs it by itself")]
fn churn_stays_within_the_budget() {
    // Ten million in the measurement of docs/guide-cache.md; a small part of them shows the same.
    let keys: u64 = 80_000;
    let budget = 32 << 20;
    let memory = Memory::new(budget, usize::MAX, Arc::new(Counts::default()));
    let before = resident();
    let (mut most, mut most_told) = (0, 0);
    for number in 0..keys {
        let mut key = [0; 32];
        key.copy_from_slice(blake3::hash(&number.to_le_bytes()).as_bytes());
        let size = 200 + (key[0] as usize) * 8;
        let item = Bytes::from(vec![key[1]; size]);
        memory.put(CacheKey(key), Entry::item(label(Endpoint::Embeddings), item, Bytes::new(), None));
        if number % 10_000 == 0 {
            most = most.max(resident().saturating_sub(before));
            most_told = most_told.max(memory.load().0);
        }
    }
    let (bytes, entries) = memory.load();
    println!("{keys} keys: {entries} kept, {bytes} bytes told, at most {most_told}; resident at most {most}");
    assert!(most_told <= budget, "{most_told}");
    assert!(most <= budget + budget / 10, "{most} of {budget}");
    assert!(bytes > budget / 10 * 9, "{bytes}");
}

#[test]
fn settings_that_cannot_be_meant_are_named_with_their_place() {
    let build = |settings: Value| {
        let built = crate::Registry::built_in()
            .filter("prompt_cache", settings, &crate::Services::none())
            .expect("it is in the list");
        built.err().unwrap_or_default().into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    assert_eq!(build(json!({})), Vec::<String>::new());
    assert_eq!(build(json!({ "for": 0 })), ["for"]);
    assert_eq!(build(json!({ "size": "1KiB", "max_entry": "1KiB" })), ["size"]);
    assert_eq!(build(json!({ "max_entry": "1GiB" })), ["max_entry"]);
    assert_eq!(build(json!({ "vary": ["a b"], "secret": "short", "pace": 2000 })), ["pace", "secret", "vary[0]"]);
    assert_eq!(build(json!({ "fro": "1h" })).len(), 1);
}
