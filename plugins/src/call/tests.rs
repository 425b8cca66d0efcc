use super::*;

fn read(body: &str) -> Call {
    Call::read(body.as_bytes(), Endpoint::Chat).unwrap_or_else(|fault| panic!("{body}: {fault}"))
}

fn fault(body: impl AsRef<[u8]>) -> CallFault {
    let body = body.as_ref();
    Call::read(body, Endpoint::Chat).expect_err(&String::from_utf8_lossy(body))
}

#[test]
fn a_call_is_read_into_ranges() {
    let body = r#" { "model" : "llama" , "messages":[{"role":"user","content":"]}\""}],
        "stream":true,"stream_options":{"include_usage":true,"x":[]},"n":2,"max_tokens":10,"extra":{"model":1} } "#;
    let call = read(body);
    let value = |key| &body[call.span(key).unwrap()];
    assert_eq!(call.model(body.as_bytes()).unwrap(), "llama");
    assert_eq!(value(Key::Model), "\"llama\"");
    assert_eq!(value(Key::Messages), r#"[{"role":"user","content":"]}\""}]"#);
    assert_eq!(value(Key::StreamOptions), r#"{"include_usage":true,"x":[]}"#);
    assert_eq!(call.span(Key::Prompt), None);
    assert!(call.stream && !call.is_empty());
    assert_eq!((call.include_usage, call.n, call.max_tokens), (Some(true), Some(2), Some(10)));
    assert_eq!(&body[call.end()..], "} ");
}

#[test]
fn a_model_may_be_written_with_escapes_and_may_be_missing() {
    let body = r#"{"model":"a\/\u00e9\"b"}"#;
    assert_eq!(read(body).model(body.as_bytes()).unwrap(), "a/é\"b");
    let empty = read("{ }");
    assert!(empty.is_empty());
    assert_eq!((empty.model(b"{ }"), empty.end()), (None, 2));
}

#[test]
fn a_token_limit_is_the_largest_of_its_names_and_only_a_whole_number() {
    let limit = |members: &str| read(&format!("{{{members}}}")).max_tokens;
    assert_eq!(limit(r#""max_tokens":5,"max_completion_tokens":9,"max_output_tokens":7"#), Some(9));
    assert_eq!(limit(r#""max_tokens":5e1"#), Some(50));
    for beyond in ["1e30", "1e300", "1e400", "99999999999999999999"] {
        assert_eq!(limit(&format!("\"max_tokens\":{beyond}")), Some(u64::MAX), "{beyond}");
    }
    let name = |members: &str| read(&format!("{{{members}}}")).max_tokens_key;
    assert_eq!(name(r#""max_tokens":5,"max_completion_tokens":9"#), Some(Key::MaxCompletionTokens));
    assert_eq!(name(r#""max_output_tokens":5"#), Some(Key::MaxOutputTokens));
    for odd in ["null", "-1", "1.5", "\"5\"", "-1e300", "[5]"] {
        assert_eq!(limit(&format!("\"max_tokens\":{odd}")), None, "{odd}");
    }
}

#[test]
fn null_counts_as_not_given() {
    let call = read(r#"{"stream":null,"stream_options":null,"n":null}"#);
    assert_eq!((call.stream, call.include_usage, call.n), (false, None, None));
    assert_eq!(read(r#"{"stream_options":{"include_usage":null}}"#).include_usage, None);
}

#[test]
fn a_key_with_two_readings_is_refused() {
    for (body, param) in [
        (r#"{"model":"a","model":"a"}"#, "model"),
        (r#"{"mod\u0065l":"a"}"#, "model"),
        (r#"{"model":"a","Model":"b"}"#, "model"),
        (r#"{"MODEL":"b"}"#, "model"),
        (r#"{"\u006dODEL":"b"}"#, "model"),
        (r#"{"stream":true,"stream":false}"#, "stream"),
        ("{\"\u{17f}tream\":true}", "stream"),
        (r#"{"Messages":[]}"#, "messages"),
        (r#"{"tools":[],"tools":[]}"#, "tools"),
        (r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#, "stream_options"),
        (r#"{"stream_options":{"Include_Usage":true}}"#, "stream_options"),
    ] {
        let fault = fault(body);
        assert_eq!((fault.kind, fault.param), (FaultKind::Ambiguous, Some(param)), "{body}");
    }
}

#[test]
fn a_key_we_do_not_read_is_the_backends_matter() {
    read(r#"{"seed":1,"seed":2,"s\u0065ed":3,"Seed":4,"metadata":{"model":"x","Model":"y","model":"z"}}"#);
    read(r#"{"messages":[{"Role":"a","role":"b","role":"c"}],"model":"\ud83d\ude00","x":"\ud800"}"#);
}

#[test]
fn a_member_of_another_type_is_refused() {
    for (body, param) in [
        (r#"{"model":1}"#, "model"),
        (r#"{"model":null}"#, "model"),
        (r#"{"model":["a"]}"#, "model"),
        (r#"{"model":""}"#, "model"),
        (r#"{"model":"\ud800"}"#, "model"),
        (r#"{"stream":"true"}"#, "stream"),
        (r#"{"stream":1}"#, "stream"),
        (r#"{"stream_options":true}"#, "stream_options"),
        (r#"{"stream_options":{"include_usage":1}}"#, "stream_options"),
    ] {
        let fault = fault(body);
        assert_eq!((fault.kind, fault.param), (FaultKind::WrongType, Some(param)), "{body}");
    }
}

#[test]
fn a_models_name_is_bounded() {
    let body = |length| format!("{{\"model\":\"{}\"}}", "m".repeat(length));
    read(&body(MAX_MODEL));
    assert_eq!(fault(body(MAX_MODEL + 1)).kind, FaultKind::WrongType);
}

#[test]
fn what_is_no_single_json_object_is_refused() {
    for (body, kind) in [
        ("", FaultKind::Empty),
        (" \r\n\t", FaultKind::Empty),
        ("\u{feff}{}", FaultKind::Encoding),
        ("[]", FaultKind::NotAnObject),
        ("\"a\"", FaultKind::NotAnObject),
        ("null", FaultKind::NotAnObject),
        ("17", FaultKind::NotAnObject),
        ("{}{}", FaultKind::Malformed),
        ("{} x", FaultKind::Malformed),
        ("{}\0", FaultKind::Malformed),
        ("{\"a\":NaN}", FaultKind::Malformed),
        ("{\"a\":1,}", FaultKind::Malformed),
        ("{\"a\" 1}", FaultKind::Malformed),
        ("{'a':1}", FaultKind::Malformed),
        ("{\"a\":\"\n\"}", FaultKind::Malformed),
        ("{\"a\":01}", FaultKind::Malformed),
        ("{\"a\":1", FaultKind::Malformed),
        ("hello", FaultKind::Malformed),
        ("{// c\n}", FaultKind::Malformed),
        (r#"{"a\u0000":1}"#, FaultKind::NulInKey),
        (r#"{"a":[{"\u0000":1}]}"#, FaultKind::NulInKey),
    ] {
        assert_eq!(fault(body).kind, kind, "{body}");
    }
    assert_eq!(fault(b"{\"a\":\"\xff\"}").kind, FaultKind::Encoding);
    read(r#"{"a":"\u0000"}"#);
}

#[test]
fn depth_is_bounded_exactly() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    read(&nested(MAX_DEPTH));
    assert_eq!(fault(nested(MAX_DEPTH + 1)).kind, FaultKind::TooDeep);
    assert_eq!(fault("[".repeat(1_000_000)).kind, FaultKind::TooDeep);
}

#[test]
fn a_fault_says_where() {
    let syntax = fault("{\n  \"model\": \"a\",\n  oops\n}");
    assert_eq!((syntax.line, syntax.column), (3, 3));
    assert_eq!(syntax.message(), "The body is not valid JSON: key must be a string (line 3, column 3).");
    let wrong = fault("{\n  \"stream\": 1}");
    assert_eq!((wrong.line, wrong.column), (2, 13));
    assert_eq!(wrong.message(), "`stream` must be true or false (line 2, column 13).");
    let twice = fault("{\"model\":\"a\",\n\"model\":\"b\"}");
    assert_eq!(twice.message(), "`model` is given more than once (line 2, column 7).");
    assert_eq!(fault(b"{\"a\":\n\"\xff\"}").line, 2);
}

#[test]
fn a_call_is_small() {
    assert!(size_of::<Call>() <= 160, "{}", size_of::<Call>());
}
