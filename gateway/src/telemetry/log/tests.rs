use std::sync::Mutex;

use serde_json::{Value, json};

use tidegate_config::Share;
use tidegate_plugins::usage::Usage;

use super::*;
use crate::telemetry::ids::{RequestId, TraceContext};
use crate::telemetry::record::Cause;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What comes out when `work` logs, line by line.
fn lines(style: Style, work: impl FnOnce(&Log)) -> Vec<String> {
    let memory = Memory::default();
    let (log, guard) = Log::over(Box::new(memory.clone()), style, IntCounter::default(), IntCounter::default());
    let layer = log.clone().with_filter(Wanted(Arc::clone(&log.0)));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || work(&log));
    drop(guard);
    let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn record() -> Record {
    let trace = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    let id = RequestId::from_caller(b"req-1").unwrap();
    let mut record = Record::new(id, trace, http::Method::POST, "/v1/chat/completions?key=sk-secret");
    record.endpoint = "chat_completions";
    record.status = 200;
    record.ended = record.started + Duration::from_micros(123_456);
    record.overhead = Duration::from_micros(61);
    record
}

fn parsed(line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap();
    let time = line.as_object_mut().unwrap().remove("time").unwrap();
    assert_eq!(time.as_str().unwrap().len(), 24);
    line
}

#[test]
fn what_is_not_known_is_left_out_of_the_line() {
    let lines = lines(Style::Json, |log| log.request(&record(), "llama", "gpu"));
    assert_eq!(lines.len(), 1);
    let expected = json!({
        "level": "info", "event": "request", "request_id": "req-1", "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST", "path": "/v1/chat/completions", "endpoint": "chat_completions", "route": "llama",
        "pool": "gpu", "attempts": 0, "status": 200, "cause": "none", "stream": false, "duration_ms": 123.456,
        "overhead_ms": 0.061, "request_bytes": 0, "response_bytes": 0,
    });
    assert_eq!(parsed(&lines[0]), expected);
}

#[test]
fn everything_known_is_in_the_line() {
    let mut record = record();
    record.client = Some([10, 0, 0, 7].into());
    record.user = Some("alice".into());
    record.model_asked = Some("gpt-4o-mini".into());
    record.model_served = Some("llama-3.1-8b".into());
    record.backend = Some("10.0.0.1:8000".into());
    record.attempts = 2;
    record.status = 504;
    record.upstream_status = Some(200);
    record.cause = Cause::UpstreamTimeout;
    record.error = Some("no token within 5s".into());
    record.stream = true;
    record.first_token = Some(record.started + Duration::from_millis(85));
    record.usage = Some(Usage { prompt: Some(7), completion: Some(9), estimated: true, ..Usage::default() });
    let line = parsed(&lines(Style::Json, |log| log.request(&record, "gpt-4o-mini", "gpu"))[0]);
    for (key, value) in [
        ("level", json!("warn")),
        ("client", json!("10.0.0.7")),
        ("user", json!("alice")),
        ("model", json!("gpt-4o-mini")),
        ("model_served", json!("llama-3.1-8b")),
        ("backend", json!("10.0.0.1:8000")),
        ("attempts", json!(2)),
        ("upstream_status", json!(200)),
        ("cause", json!("upstream_timeout")),
        ("error", json!("no token within 5s")),
        ("ttft_ms", json!(85.0)),
        ("prompt_tokens", json!(7)),
        ("completion_tokens", json!(9)),
        ("estimated", json!(true)),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
}

#[test]
fn failures_and_slow_requests_are_kept_and_of_the_others_the_share() {
    let sample = Sample { share: Share::percent(10), slow: Duration::from_secs(5) };
    let lines = lines(Style::Json, |log| {
        log.set_sample(Some(&sample));
        let slow = record();
        let slow = Record { ended: slow.started + sample.slow, request_id: id("slow"), ..slow };
        let failed = Record { cause: Cause::Client, request_id: id("failed"), ..record() };
        for _ in 0..100 {
            for record in [&record(), &slow, &failed] {
                log.request(record, "llama", "gpu");
            }
        }
        assert_eq!(log.0.left_out.get(), 90);
        log.set_sample(None);
        log.request(&Record { request_id: id("all"), ..record() }, "llama", "gpu");
    });
    let of =
        |id: &str| lines.iter().map(|line| parsed(line)).filter(|line| line["request_id"] == id).collect::<Vec<_>>();
    assert_eq!((of("slow").len(), of("failed").len(), of("req-1").len(), of("all").len()), (100, 100, 10, 1));
    assert!(of("req-1").iter().all(|line| line["sampled"] == 0.1));
    assert!(of("slow").iter().chain(&of("failed")).chain(&of("all")).all(|line| line["sampled"].is_null()));
}

fn id(text: &str) -> RequestId {
    RequestId::from_caller(text.as_bytes()).unwrap()
}

#[test]
fn no_field_of_foreign_origin_breaks_the_line() {
    const EVIL: &str = "x\n{\"event\":\"forged\"}\r\u{1b}[31m\u{9b}2J\u{202e}\0";
    let mut record = record();
    record.path = EVIL.into();
    record.error = Some(EVIL.into());
    record.model_asked = Some(EVIL.into());
    record.model_served = Some(EVIL.into());
    record.upstream_request_id = Some(EVIL.into());
    record.backend = Some(EVIL.into());
    for who in [&mut record.user, &mut record.service, &mut record.team, &mut record.org, &mut record.key_id] {
        *who = Some(EVIL.into());
    }
    record.notes = vec![("rule", EVIL.to_owned())];
    record.cause = Cause::UpstreamError;
    for style in [Style::Json, Style::Plain] {
        let lines = lines(style, |log| log.request(&record, EVIL, EVIL));
        assert_eq!(lines.len(), 1, "{style:?}: {lines:?}");
        let disturbing = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!lines[0].contains(disturbing), "{style:?}: {}", lines[0]);
    }
}

#[test]
fn a_client_cannot_forge_a_line_or_paint_the_terminal() {
    let mut record = record();
    record.path = "/v1\n{\"event\":\"request\"}\r\x1b[2J".into();
    record.error = Some("a\nb\u{9b}2J".into());
    record.model_asked = Some("m\n".into());
    for style in [Style::Json, Style::Plain] {
        let lines = lines(style, |log| log.request(&record, "llama", "gpu"));
        assert_eq!(lines.len(), 1, "{style:?}");
        assert!(!lines[0].contains(['\r', '\x1b', '\u{9b}']), "{style:?}");
    }
}

#[test]
fn people_get_a_readable_line() {
    let mut record = record();
    record.attempts = 2;
    record.backend = Some("10.0.0.1:8000".into());
    record.usage = Some(Usage { prompt: Some(7), completion: Some(9), ..Usage::default() });
    let lines = lines(Style::Plain, |log| log.request(&record, "llama", "gpu"));
    let expected = " 200 POST /v1/chat/completions  llama > gpu > 10.0.0.1:8000 (attempt 2)  123.5 ms, ours 0.061 ms, \
                    7+9 tokens  req-1";
    assert_eq!(&lines[0][12..], expected);
}

#[test]
fn events_keep_their_fields_in_either_format() {
    let say = |_: &Log| tracing::warn!(target: "tidegate::x", pool = "gpu", tries = 3, time = true, "no\nbackend");
    let machine = parsed(&lines(Style::Json, say)[0]);
    assert_eq!(
        machine,
        json!({
            "level": "warn", "target": "tidegate::x", "message": "no\nbackend", "pool": "gpu", "tries": 3, "field_time": true
        })
    );
    assert_eq!(&lines(Style::Plain, say)[0][12..], " warn tidegate::x no\\nbackend pool=gpu tries=3 time=true");
}

#[test]
fn records_of_the_log_crate_come_out_too_and_pingora_only_when_it_warns() {
    let say = |log: &Log, target: &str, level| {
        let record = log::Record::builder().target(target).level(level).args(format_args!("hm")).build();
        log::Log::log(log, &record);
    };
    let lines = lines(Style::Json, |log| {
        say(log, "other", log::Level::Info);
        say(log, "pingora_core::server", log::Level::Info);
        say(log, "pingora_core::server", log::Level::Warn);
    });
    let heard: Vec<_> = lines.iter().map(|line| parsed(line)).collect();
    let expected = [
        json!({"level": "info", "target": "other", "message": "hm"}),
        json!({"level": "warn", "target": "pingora_core::server", "message": "hm"}),
    ];
    assert_eq!(heard, expected);
}

#[test]
fn the_level_can_be_changed_while_running() {
    let lines = lines(Style::Json, |log| {
        tracing::debug!("one");
        log.set_level("warn, tidegate=debug").unwrap();
        tracing::debug!("two");
        tracing::info!(target: "elsewhere", "three");
        log.set_level("warn").unwrap();
        log.request(&record(), "llama", "gpu");
        log.request(&Record { cause: Cause::Gateway, ..record() }, "llama", "gpu");
        for bad in ["loud", "", "info,loud", "tidegate=loud"] {
            assert!(log.set_level(bad).is_err(), "{bad}");
        }
        tracing::error!("five");
    });
    let heard: Vec<Value> = lines.iter().map(|line| parsed(line)).collect();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert_eq!(heard[0]["message"], "two");
    assert_eq!((&heard[1]["event"], &heard[1]["level"]), (&json!("request"), &json!("error")));
    assert_eq!(heard[2]["message"], "five");
}
