//! The properties that the fuzz targets check, on the committed corpora and on bytes that proptest makes up.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use tidegate_plugins::filters::prompt_cache::stored::sealed;

#[path = "../fuzz/properties/mod.rs"]
mod properties;

/// Answers as they are kept, without mark and hash.
const KEPT: &[&[u8]] = &[include_bytes!("../fuzz/corpus/stored/whole"), include_bytes!("../fuzz/corpus/stored/events")];

/// Each beginning of each, each bit, each version.
#[test]
fn nothing_but_a_whole_kept_answer_of_this_version_is_read() {
    for payload in KEPT {
        let written = sealed(payload);
        for at in 0..written.len() {
            (0..8).for_each(|bit| properties::stored_whole(&written, at, bit, at as u8));
        }
        (0..=u8::MAX).for_each(|version| properties::stored_whole(&written, 0, 0, version));
    }
}

fn corpus(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files =
        folder.read_dir().expect("the corpus is committed").map(|entry| entry.expect("it can be listed").path());
    let checked = files.map(|file| property(&std::fs::read(file).expect("it can be read"))).count();
    assert!(checked > 0, "{} is empty", folder.display());
}

#[test]
fn the_corpus_of_calls() {
    corpus("call", properties::call);
}

#[test]
fn the_corpus_of_splices() {
    corpus("splice", properties::splice);
}

#[test]
fn the_corpus_of_events() {
    corpus("events", properties::events);
}

#[test]
fn the_corpus_of_multipart() {
    corpus("multipart", properties::multipart);
}

#[test]
fn the_corpus_of_canonical_forms() {
    corpus("canonical", properties::canonical);
}

#[test]
fn the_corpus_of_forms() {
    corpus("forms", properties::forms);
}

#[test]
fn the_corpus_of_kept_answers() {
    corpus("stored", properties::stored);
}

#[test]
fn the_corpus_of_tokens() {
    corpus("token", properties::token);
}

/// Texts of pieces that matter to a reader, so that its corners are met more often than bytes at random meet them.
fn of(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(select(pieces), 0..most).prop_map(|pieces| pieces.concat())
}

/// Objects, mostly well-formed, with the keys we read and some that look like them.
fn object() -> impl Strategy<Value = String> {
    const KEYS: &[&str] = &[
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "input",
        "tools",
        "message",
        "response",
        "usage",
        "x",
        "Model",
        "mod\\u0065l",
        "include_usage",
        "\\u0000",
        "\\\"",
        "error",
        "choices",
        "temperature",
        "",
    ];
    const VALUES: &[&str] = &[
        "1",
        "true",
        "null",
        "\"m\"",
        "\"\"",
        "\"\\\"model\\\":\\\"m\\\"\"",
        "\"é\\u00e9\\ud83d\\ude00\"",
        "[]",
        "{}",
        "-1.50e0",
        "[1, {\"model\":\"m\"}, \"]\"]",
        "{\"include_usage\":true}",
        "{\"model\" : \"m\",\"usage\":{}}",
        "\"\\u0000\"",
    ];
    let blank = || select(&["", " ", "\n", "\t \r\n"][..]);
    let member = (blank(), select(KEYS), blank(), blank(), select(VALUES), blank());
    let text = member.prop_map(|(a, key, b, c, value, d)| format!("{a}\"{key}\"{b}:{c}{value}{d}"));
    let members = proptest::collection::vec(text, 0..6).prop_map(|members| members.join(","));
    (blank(), members, select(&["}", "} ", "}\n", ",}", "", "}}", "]"][..]))
        .prop_map(|(a, members, end)| format!("{a}{{{members}{end}"))
}

const JSON: &[&str] =
    &["{", "}", "[", "]", "\"", "\\", ":", ",", "model", "\"model\"", "\"x\"", "1", " ", "\\u0000", "é", "null"];
const STREAM: &[&str] = &[
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "data: ",
    "data",
    ":",
    "event: ",
    "error",
    "ping",
    "message_stop",
    "message_start",
    "content_block_delta",
    "[DONE]",
    "data: [DONE]\n\n",
    "response.completed",
    "response.failed",
    "x",
    "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}",
    "{\"choices\":[{\"finish_reason\":null,\"delta\":{\"role\":\"a\"}}]}",
    "{\"error\":{}}",
    "{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
    "{\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":3}}}",
    "{\"type\":\"message_stop\"}",
    "{\"type\":\"error\"}",
    "\"error\"",
    "{\"model\":\"m\"}",
    "id: 1\n",
    ": c\n",
];
const FORM: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "--XX",
    "--XX\r\n",
    "\r\n--XX\r\n",
    "\r\n--XX--\r\n",
    "-",
    "--",
    "X",
    "m",
    " ",
    "Content-Disposition: form-data; name=\"model\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"x\"; filename=\"a\"\r\n\r\n",
    "content-disposition:form-data;name=model\r\n",
    "Content-Type: a\r\n",
    "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--XX",
];

const TOKEN: &[&str] = &[
    ".",
    "..",
    "=",
    "A",
    "ey",
    "\n",
    "{",
    "}",
    "\"",
    "{\"keys\":[",
    "]}",
    "{\"kty\":\"oct\",\"k\":\"AAAA\"}",
    "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
    ",",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJIUzI1NiJ9",
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ",
    "eyJhbGciOiJFZERTQSJ9",
    "eyJhbGciOiJFUzI1NiJ9",
    "eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InMiLCJleHAiOjk5OTk5OTk5OTl9",
    "eyJpc3MiOiJ4In0",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
];

proptest! {
    #[test]
    fn any_object_is_read_as_it_is_or_refused_for_a_reason(body in object()) {
        properties::call(body.as_bytes());
    }

    #[test]
    fn any_text_is_read_as_it_is_or_refused_for_a_reason(body in of(JSON, 24)) {
        properties::call(body.as_bytes());
    }

    #[test]
    fn any_object_has_one_form_however_it_is_written(body in object()) {
        properties::canonical(body.as_bytes());
    }

    #[test]
    fn any_stream_is_told_in_its_other_form_or_not_at_all(stream in of(STREAM, 24)) {
        properties::forms(stream.as_bytes());
    }

    #[test]
    fn any_edit_leaves_every_other_byte_alone(body in object()) {
        properties::splice(body.as_bytes());
    }

    #[test]
    fn any_stream_is_renamed_event_by_event(stream in of(STREAM, 24)) {
        properties::splice(stream.as_bytes());
    }

    #[test]
    fn any_stream_is_the_same_however_it_is_cut(stream in of(STREAM, 16)) {
        properties::events(stream.as_bytes());
    }

    #[test]
    fn any_form_is_the_same_however_it_is_cut(form in of(FORM, 12)) {
        properties::multipart(form.as_bytes());
    }

    #[test]
    fn any_bytes_are_a_kept_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        properties::stored(&bytes);
    }

    #[test]
    fn a_kept_answer_is_read_whole_and_as_it_was_or_not(payload in select(KEPT), at in any::<usize>(), bit in any::<u32>(), version in any::<u8>()) {
        properties::stored_whole(&sealed(payload), at, bit, version);
    }
}

proptest! {
    // Each case builds filters.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_credential_lets_in_without_the_secret(pieces in of(TOKEN, 12)) {
        properties::token(pieces.as_bytes());
    }
}
