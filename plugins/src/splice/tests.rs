use super::*;
use crate::call::Endpoint;

fn call(body: &str) -> Call {
    Call::read(body.as_bytes(), Endpoint::Chat).unwrap()
}

fn applied(edits: &Edits, body: &str) -> String {
    let edited = edits.apply(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
    String::from_utf8(edited.to_vec()).unwrap()
}

#[test]
fn a_new_model_changes_its_bytes_only() {
    let body = "{ \"n\":1.0e0,\t\"model\" : \"a\\u0062\" , \"x\":[1, 2]}\n";
    let (edited, _) = set_model(&call(body), &Bytes::from_static(body.as_bytes()), "new \"one\"\n");
    assert_eq!(edited, "{ \"n\":1.0e0,\t\"model\" : \"new \\\"one\\\"\\n\" , \"x\":[1, 2]}\n");
}

#[test]
fn a_call_moves_along_with_its_body() {
    for body in [r#"{"prompt":"a","model":"mm","n":1,"messages":[]} "#, r#"{"prompt":"a"}"#, "{}"] {
        let (edited, moved) = set_model(&call(body), &Bytes::from_static(body.as_bytes()), "other");
        assert_eq!(moved, Call::read(&edited, Endpoint::Chat).unwrap(), "{body}");
        assert_eq!(moved.model(&edited).unwrap(), "other");
        let (again, moved) = set_model(&moved, &edited, "o");
        assert_eq!(moved, Call::read(&again, Endpoint::Chat).unwrap(), "{body}");
    }
}

#[test]
fn missing_members_are_added_at_the_end_each_once() {
    for (body, expected) in [
        ("{ }", "{ \"model\":\"m\",\"stream_options\":{\"include_usage\":true}}"),
        ("{\"a\":{}} ", "{\"a\":{},\"model\":\"m\",\"stream_options\":{\"include_usage\":true}} "),
    ] {
        let call = call(body);
        let mut edits = Edits::default();
        edits.set_key(&call, Key::Model, "1").unwrap();
        edits.set_key(&call, Key::StreamOptions, "null").unwrap();
        edits.set_key(&call, Key::Model, "\"m\"").unwrap();
        edits.set_key(&call, Key::StreamOptions, "{\"include_usage\":true}").unwrap();
        assert_eq!(applied(&edits, body), expected);
    }
}

#[test]
fn a_last_value_and_a_member_behind_it_do_not_meet() {
    let body = "{\"model\":\"a\"}";
    let mut edits = Edits::default();
    edits.set_key(&call(body), Key::Stream, "true").unwrap();
    edits.set_key(&call(body), Key::Model, "\"b\"").unwrap();
    assert_eq!(applied(&edits, body), "{\"model\":\"b\",\"stream\":true}");
}

#[test]
fn a_member_of_any_object_can_be_set() {
    let body = r#"{"stream_options":{ "x":1 },"seed":1,"s\u0065ed":2}"#;
    let options = call(body).span(Key::StreamOptions).unwrap();
    let mut edits = Edits::default();
    edits.set_member(body.as_bytes(), options, "include_usage", "true").unwrap();
    edits.set_member(body.as_bytes(), 0..body.len(), "seed", "7").unwrap();
    edits.set_member(body.as_bytes(), 0..body.len(), "user", "\"u\"").unwrap();
    let expected = r#"{"stream_options":{ "x":1 ,"include_usage":true},"seed":7,"s\u0065ed":7,"user":"u"}"#;
    assert_eq!(applied(&edits, body), expected);
    assert_eq!(edits.set_member(body.as_bytes(), 36..37, "a", "1"), Err(SpliceFault::NotAnObject));
}

#[test]
fn edits_that_reach_into_each_other_are_refused() {
    let mut edits = Edits::default();
    edits.replace(2..6, "x").unwrap();
    assert_eq!(edits.replace(4..8, "y"), Err(SpliceFault::Overlap));
    assert_eq!(edits.insert(4, "y"), Err(SpliceFault::Overlap));
    edits.insert(2, "<").unwrap();
    edits.insert(6, ">").unwrap();
    edits.insert(2, "<").unwrap();
    assert_eq!(applied(&edits, "01234567"), "01<<x>67");
    edits.replace(1..7, "-").unwrap();
    assert_eq!(applied(&edits, "01234567"), "0-7");
    assert_eq!(edits.apply(&Bytes::from_static(b"0123")), Err(SpliceFault::Overlap));
}

#[test]
fn no_edit_costs_no_copy() {
    let body = Bytes::from_static(b"{}");
    assert_eq!(Edits::default().apply(&body).unwrap().as_ptr(), body.as_ptr());
}
