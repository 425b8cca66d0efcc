use super::*;
use crate::call::{Call, Endpoint};
use crate::usage::Usage;
use bytes::Bytes;

const PLAIN: &str = r#"{"model":"m","messages":[{"role":"user","content":"q"}],"stream":true}"#;

fn plain(body: &str, endpoint: Endpoint) -> bool {
    is_plain(&Call::read(body.as_bytes(), endpoint).unwrap(), body.as_bytes())
}

/// `PLAIN` with another member.
fn with(member: &str) -> String {
    PLAIN.replace("\"stream\"", &format!("{member},\"stream\""))
}

#[test]
fn a_request_for_text_is_plain_and_any_other_is_not() {
    assert!(plain(PLAIN, Endpoint::Chat));
    for same in [
        r#""n":1"#,
        r#""tools":[]"#,
        r#""tools":null"#,
        r#""response_format":{"type":"text"}"#,
        r#""logprobs":false"#,
        r#""top_logprobs":0"#,
        r#""seed":7,"stop":["x"],"temperature":0"#,
        r#""continue_final_message":false"#,
    ] {
        assert!(plain(&with(same), Endpoint::Chat), "{same}");
    }
    for odd in [
        r#""n":2"#,
        r#""tools":[{}]"#,
        r#""functions":[{}]"#,
        r#""response_format":{"type":"json_object"}"#,
        r#""response_format":{"type":"json_schema","json_schema":{}}"#,
        r#""logprobs":true"#,
        r#""modalities":["text","audio"]"#,
        r#""guided_json":{"a":1}"#,
        r#""grammar":"root ::= x""#,
        r#""best_of":2"#,
        r#""continue_final_message":true"#,
    ] {
        assert!(!plain(&with(odd), Endpoint::Chat), "{odd}");
    }
    let begun = r#"{"role":"user","content":"q"},{"role":"assistant","content":"a"}"#;
    assert!(!plain(&PLAIN.replace(r#"{"role":"user","content":"q"}"#, begun), Endpoint::Chat));
    assert!(!plain(PLAIN.replace("true", "false").as_str(), Endpoint::Chat));
    assert!(!plain(r#"{"model":"m","messages":[],"stream":true}"#, Endpoint::Messages));
    assert!(plain(r#"{"model":"m","prompt":"q","stream":true}"#, Endpoint::Completions));
    for odd in [r#""prompt":["q"]"#, r#""prompt":[1]"#, r#""prompt":"q","echo":true"#, r#""prompt":"q","suffix":"s""#] {
        assert!(!plain(&format!(r#"{{"model":"m",{odd},"stream":true}}"#), Endpoint::Completions), "{odd}");
    }
}

fn chat(delta: &str) -> String {
    format!(
        "data: {{\"id\":\"a\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n"
    )
}

fn says(text: &str) -> String {
    chat(&format!("{{\"content\":{}}}", crate::json::quoted(text)))
}

fn given(texts: &[&str]) -> Given {
    let mut given = Given::new(Endpoint::Chat, 1 << 10);
    given.take(chat(r#"{"role":"assistant","content":""}"#).as_bytes());
    texts.iter().for_each(|text| given.take(says(text).as_bytes()));
    given
}

#[test]
fn what_was_given_is_the_text_and_nothing_but_text_can_be_continued() {
    let mut given = given(&["a\"b", "\u{e9} \n"]);
    given.take(b": comment\n\ndata: {\"choices\":[],\"usage\":{}}\n\n");
    assert_eq!((given.text(), given.sent(), given.tokens()), ("a\"b\u{e9} \n", "a\"b\u{e9}", 2));
    assert!(given.has_begun() && given.loss().is_none() && !given.is_finished());
    for odd in [
        chat(r#"{"tool_calls":[{"index":0}]}"#),
        chat(r#"{"content":"x","reasoning_content":"y"}"#),
        chat(r#"{"refusal":"no"}"#),
        chat(r#"{"content":"\ud800"}"#),
        chat(r#"{"content":[{"type":"text"}]}"#),
        says("x").replace("\"index\":0", "\"index\":1"),
        says("x").replace("\"finish_reason\"", "\"logprobs\":{\"content\":[]},\"finish_reason\""),
        says("x").replace("\"choices\"", "\"x\":1,\ndata: \"choices\""),
        "data: [1]\n\n".to_owned(),
    ] {
        let mut given = self::given(&["x"]);
        given.take(odd.as_bytes());
        assert_eq!(given.loss(), Some(Loss::NotText), "{odd}");
    }
    for plain in [r#"{"content":"x","tool_calls":[],"refusal":null}"#, r#"{"content":null}"#, "{}"] {
        let mut given = self::given(&["x"]);
        given.take(chat(plain).as_bytes());
        assert_eq!(given.loss(), None, "{plain}");
    }
}

#[test]
fn a_text_that_is_too_long_is_not_kept() {
    let mut given = Given::new(Endpoint::Chat, 4);
    given.take(says("abcd").as_bytes());
    assert_eq!(given.loss(), None);
    given.take(says("e").as_bytes());
    assert_eq!((given.loss(), given.weight(), given.text()), (Some(Loss::TooLong), 0, ""));
}

fn rest_of(body: &str, endpoint: Endpoint, given: &Given, with_fields: bool) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let call = Call::read(&bytes, endpoint).unwrap();
    let how = Continuation { with_fields, tokens: given.tokens() };
    let rest = continued(&call, &bytes, given, how).unwrap();
    Call::read(&rest, endpoint).unwrap();
    String::from_utf8(rest.to_vec()).unwrap()
}

#[test]
fn the_rest_is_asked_for_with_the_text_as_the_last_message() {
    let given = given(&["a\"", "b "]);
    let body = r#"{ "messages" : [ {"role":"user","content":"q"} ] ,"max_tokens": 9,"seed":1.0, "stop":["x"],"stream":true,"model":"m"}"#;
    let last = r#" ,{"role":"assistant","content":"a\"b"}]"#;
    let shorter = body.replace(" ] ", &format!("{last} ")).replace(": 9", ": 7");
    assert_eq!(rest_of(body, Endpoint::Chat, &given, false), shorter);
    let fields = r#""m","continue_final_message":true,"add_generation_prompt":false}"#;
    assert_eq!(rest_of(body, Endpoint::Chat, &given, true), shorter.replace(r#""m"}"#, fields));
    let told = PLAIN.replace("\"stream\"", "\"add_generation_prompt\":true,\"stream\"");
    let rest = rest_of(&told, Endpoint::Chat, &given, true);
    assert_eq!((rest.matches("add_generation_prompt").count(), rest.contains("prompt\":false")), (1, true));
}

#[test]
fn what_asks_for_the_end_only_asks_for_one_token() {
    let given = given(&["a", "b"]);
    for (length, left) in [("max_tokens", 1), ("max_completion_tokens", 1), ("min_tokens", 0)] {
        let rest = rest_of(&with(&format!("\"{length}\":2")), Endpoint::Chat, &given, false);
        assert!(rest.contains(&format!("\"{length}\":{left},")), "{rest}");
    }
}

#[test]
fn a_prompt_is_made_longer_by_the_very_text() {
    let mut given = Given::new(Endpoint::Completions, 64);
    given.take(b"data: {\"choices\":[{\"text\":\"a\\\" \",\"index\":0}]}\n\n");
    let rest = rest_of(r#"{"prompt":"q\n","model":"m","stream":true}"#, Endpoint::Completions, &given, true);
    assert_eq!(rest, r#"{"prompt":"q\na\" ","model":"m","stream":true}"#);
}

#[test]
fn where_nothing_was_said_the_request_stays_as_it_was() {
    for texts in [&[][..], &[" \n"]] {
        assert_eq!(rest_of(PLAIN, Endpoint::Chat, &given(texts), true), PLAIN);
    }
}

/// What the client reads of a second stream.
fn joined(seam: &mut Seam, given: &Given, block: &str) -> Result<String, Repeats> {
    let block = seam.join(given, &Bytes::copy_from_slice(block.as_bytes()))?;
    Ok(String::from_utf8(block.to_vec()).unwrap())
}

/// The texts that a client reads, from what the second backend says in these pieces.
fn read(given: &Given, pieces: &[&str]) -> Result<Vec<String>, Repeats> {
    let mut seam = Seam::new(given, Usage::default(), None);
    let mut all = String::new();
    for piece in pieces {
        all += &joined(&mut seam, given, &says(piece))?;
    }
    all += &joined(&mut seam, given, "data: [DONE]\n\n")?;
    let mut read = Given::new(Endpoint::Chat, 1 << 10);
    let events = all.split_inclusive("\n\n").filter(|event| !event.contains("DONE"));
    Ok(events
        .map(|event| {
            let before = read.text().len();
            read.take(event.as_bytes());
            read.text()[before..].to_owned()
        })
        .collect())
}

#[test]
fn the_second_stream_takes_the_names_of_the_first_and_loses_its_role() {
    let given = given(&["a"]);
    let mut seam = Seam::new(&given, Usage::default(), None);
    let other = |event: String| {
        event.replace("\"a\"", "\"b\"").replace("\"created\":1", "\"system_fingerprint\":\"f\",\"created\":2")
    };
    let role = other(chat(r#"{"role":"assistant","content":""}"#));
    assert_eq!(joined(&mut seam, &given, &role), Ok(String::new()));
    let expected = says("x").replace("\"created\"", "\"system_fingerprint\":null,\"created\"");
    assert_eq!(joined(&mut seam, &given, &other(says("x"))), Ok(expected.clone()));
    for delta in [r#"{"role":"assistant","content":"x"}"#, r#"{"content":"x" , "role":"assistant"}"#] {
        assert_eq!(joined(&mut seam, &given, &other(chat(delta))).as_ref(), Ok(&expected));
    }
    for same in [": c\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n", "data: [DONE]\n\n"] {
        assert_eq!(joined(&mut seam, &given, same), Ok(same.to_owned()));
    }
}

#[test]
fn a_blank_at_the_seam_comes_once() {
    for (first, second, expected) in [
        ("a ", &[" b"][..], &["b"][..]),
        ("a ", &["b"], &["b"]),
        ("a", &[" b"], &[" b"]),
        ("a\n\n", &["\n", "\n", "b"], &["b"]),
        ("a\n\n", &["\nb"], &["b"]),
        ("a\n", &["\n\nb"], &["\nb"]),
        ("a ", &["\nb"], &["\nb"]),
        ("a ", &[" ", " b"], &[" b"]),
    ] {
        assert_eq!(read(&given(&[first]), second).unwrap(), expected, "{first:?} {second:?}");
    }
}

#[test]
fn what_is_said_again_in_one_piece_is_left_out() {
    let given = given(&["The quick", " brown fox "]);
    assert_eq!(read(&given, &["The quick brown fox", " jumps"]).unwrap(), ["jumps"]);
    assert_eq!(read(&given, &["The quick brown fox jumps", " over"]).unwrap(), ["jumps", " over"]);
}

#[test]
fn what_only_begins_alike_is_held_until_that_is_seen() {
    let given = given(&["The quick", " brown fox"]);
    assert_eq!(read(&given, &["The", " quick", " dog"]).unwrap(), ["The", " quick", " dog"]);
    assert_eq!(read(&given, &["The", " quick"]).unwrap(), ["The", " quick"], "at its end");
}

#[test]
fn what_is_said_again_piece_by_piece_proves_nothing() {
    assert_eq!(read(&given(&["The quick", " brown fox"]), &["The", " quick", " brown fox"]), Err(Repeats));
    // A text that repeats itself goes on so.
    let loops = given(&["la la la ", "la la la ", "la la"]);
    assert_eq!(read(&loops, &[" la la la", " la"]).unwrap().concat(), " la la la la");
    assert_eq!(read(&loops, &["la la la ", "la la la ", "la la", "!"]).unwrap().concat(), "la la la la la la la la!");
    // And a short one may by chance.
    assert_eq!(read(&given(&["ha"]), &["ha", "!"]).unwrap(), ["ha", "!"]);
}

fn usage(prompt: u64, completion: u64, cached: u64) -> String {
    format!(
        "data: {{\"id\":\"a\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}}}\n\n",
        prompt + completion
    )
}

#[test]
fn tokens_are_added_up_once() {
    let given = given(&["a", "b", "c"]);
    let mut counted = Seam::new(&given, Usage::default(), None);
    assert_eq!(joined(&mut counted, &given, &usage(13, 4, 5)), Ok(usage(10, 7, 5)));
    assert!(counted.has_counted());
    let told = Usage { prompt: Some(9), completion: Some(5), ..Usage::default() };
    let mut told = Seam::new(&given, told, None);
    assert_eq!(joined(&mut told, &given, &usage(14, 4, 12)), Ok(usage(9, 9, 9)));
    assert!(!told.has_counted());
    // Nothing was sent to be continued, so all of it is the second's.
    let nothing = self::given(&[]);
    let mut nothing_before = Seam::new(&nothing, Usage::default(), None);
    assert_eq!(joined(&mut nothing_before, &nothing, &usage(13, 4, 5)), Ok(usage(13, 4, 5)));
}

#[test]
fn an_answer_that_is_full_gets_its_end_and_no_more() {
    let given = given(&["a", "b"]);
    let mut seam = Seam::new(&given, Usage::default(), Some(2));
    assert_eq!(joined(&mut seam, &given, &says("c")), Ok(String::new()));
    let stop = says("").replace("null", "\"stop\"");
    assert_eq!(joined(&mut seam, &given, &stop), Ok(says("").replace("null", "\"length\"")));
    assert_eq!(joined(&mut seam, &given, &usage(12, 1, 0)), Ok(usage(10, 2, 0)));
}
