use super::*;

fn watched(endpoint: Endpoint, block: &str) -> (StreamWatch, Seen) {
    let mut watch = StreamWatch::new(endpoint);
    let seen = watch.see(block.as_bytes());
    (watch, seen)
}

const CHAT: &str = r#"data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"choices":[{"delta":{"content":"{\"finish_reason\":\"stop\"}"},"finish_reason":null}],"usage":null}

data: {"choices":[{"delta":{"content":"b","x":{"finish_reason":"stop"}},"finish_reason": null}],"usage":null}

"#;
const FINISH: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

"#;

#[test]
fn a_chat_is_whole_with_its_reason_or_its_end_mark() {
    let (cut, seen) = watched(Endpoint::Chat, CHAT);
    assert!(!cut.complete() && !cut.saw_finish_reason());
    assert_eq!(seen, Seen { has_event: true, has_content: true, ..Seen::default() });
    assert!(watched(Endpoint::Chat, &format!("{CHAT}{FINISH}")).0.complete());
    let block = format!("{CHAT}data: [DONE]\n\ndata: more\n\n");
    let (done, seen) = watched(Endpoint::Chat, &block);
    assert!(done.complete() && done.saw_done());
    assert_eq!(&block[seen.done_at.unwrap()..], "data: more\n\n");
}

#[test]
fn each_of_several_choices_needs_its_reason() {
    let mut watch = StreamWatch::new(Endpoint::Chat).with_choices(2);
    watch.see(FINISH.as_bytes());
    assert!(!watch.complete());
    watch.see(FINISH.as_bytes());
    assert!(watch.complete());
}

#[test]
fn an_end_with_nothing_before_it_is_no_answer() {
    for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Other] {
        let (watch, _) = watched(endpoint, ": hi\n\ndata: [DONE]\n\n");
        assert!(watch.is_empty() && watch.saw_done() && !watch.complete());
        let (watch, _) = watched(endpoint, &format!("{CHAT}data: [DONE]\n\n"));
        assert!(!watch.is_empty() && watch.complete());
    }
}

#[test]
fn nothing_counts_behind_the_end() {
    let (mut watch, _) = watched(Endpoint::Chat, &format!("{CHAT}data: [DONE]\n\ndata: {{\"error\":{{}}}}\n\n"));
    assert_eq!(watch.see(b"data: {\"error\":{}}\n\n"), Seen { done_at: Some(0), ..Seen::default() });
    assert!(watch.complete());
}

#[test]
fn an_error_in_the_stream_is_no_completion() {
    for block in [
        "data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
        "data: {\"error\": \"x\"}\n\ndata: [DONE]\n\n",
        "event: error\ndata: {}\n\ndata: [DONE]\n\n",
    ] {
        let (watch, _) = watched(Endpoint::Chat, block);
        assert!(watch.saw_error() && watch.saw_done() && !watch.complete(), "{block}");
        let late = watched(Endpoint::Chat, &format!("{CHAT}{block}")).1;
        assert_eq!(late.failed_at, Some(CHAT.len()), "{block}");
    }
    assert!(watched(Endpoint::Messages, "data: {\"type\":\"error\"}\n\n").0.saw_error());
    let (watch, _) = watched(Endpoint::Chat, "data: {\"error\":null,\"x\":{\"error\":1},\"y\":\"error\"}\n\n");
    assert!(!watch.saw_error());
}

#[test]
fn comments_and_pings_are_no_news() {
    for block in [": ping\n\n", "event: ping\ndata: {\"type\":\"ping\"}\n\n", "\n", "id: 1\n\n"] {
        assert_eq!(watched(Endpoint::Messages, block).1, Seen::default(), "{block}");
    }
}

#[test]
fn a_role_is_no_token_and_a_token_beside_a_role_is_one() {
    let counted = |deltas: &[&str]| {
        let event = |delta: &&str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
        watched(Endpoint::Chat, &deltas.iter().map(event).collect::<String>()).0.content_events()
    };
    let nothing = r#"{"role":"assistant","content":"","refusal":null,"tool_calls":[]}"#;
    assert_eq!(counted(&[nothing]), 0);
    assert_eq!(counted(&[nothing, r#"{"content":"a"}"#, nothing]), 1);
    let each = r#"{"role":"assistant","content":"a"}"#;
    assert_eq!(counted(&[each; 20]), 20);
    assert_eq!(counted(&[r#"{"role":"assistant","content":null,"reasoning_content":"a"}"#]), 1);
    assert_eq!(counted(&[r#"{"role":"assistant","tool_calls":[{"index":0}]}"#]), 1);
    let closing = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta},\"finish_reason\":\"stop\"}}]}}\n\n");
    assert_eq!(watched(Endpoint::Chat, &closing(r#"{"content":""}"#)).0.content_events(), 0);
    assert_eq!(watched(Endpoint::Chat, &closing(r#"{"content":"a"}"#)).0.content_events(), 1);
}

#[test]
fn pieces_are_counted_until_the_backend_says_better() {
    assert_eq!(watched(Endpoint::Chat, ": nothing yet\n\n").0.usage(), None);
    let (mut watch, _) = watched(Endpoint::Chat, &format!("{CHAT}{FINISH}"));
    assert_eq!(watch.usage(), Some(Usage { completion: Some(2), estimated: true, ..Usage::default() }));
    watch.see(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\n");
    assert_eq!(watch.usage(), Some(Usage { prompt: Some(3), completion: Some(5), ..Usage::default() }));
}

#[test]
fn a_stream_of_messages_is_whole_with_its_stop_and_adds_up_its_usage() {
    let begun = r#"event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1}}}

event: content_block_delta
data: {"type":"content_block_delta","delta":{"text":"a"}}

data: {"type":"content_block_delta","delta":{"text":"b"}}

"#;
    let (mut watch, _) = watched(Endpoint::Messages, begun);
    assert!(!watch.complete());
    let cut = Usage { prompt: Some(30), completion: Some(2), cached_prompt: Some(5), reasoning: None, estimated: true };
    assert_eq!(watch.usage(), Some(cut));
    watch.see(b"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n");
    let stop = "data: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(watch.see(stop.as_bytes()), Seen { has_event: true, done_at: Some(stop.len()), ..Seen::default() });
    assert!(watch.complete());
    assert_eq!(watch.usage(), Some(Usage { completion: Some(15), estimated: false, ..cut }));
}

#[test]
fn a_stream_of_responses_ends_in_one_of_three_ways() {
    for (name, complete) in [("completed", true), ("incomplete", true), ("failed", false)] {
        let block = format!(
            "event: response.output_text.delta\ndata: {{}}\n\n\
             event: response.{name}\ndata: {{\"response\":{{\"usage\":{{\"output_tokens\":4}}}}}}\n\n"
        );
        let (watch, seen) = watched(Endpoint::Responses, &block);
        assert_eq!((watch.complete(), watch.saw_done(), seen.done_at), (complete, true, Some(block.len())));
        assert_eq!((watch.content_events(), watch.usage().unwrap().completion), (1, Some(4)));
    }
    assert!(!watched(Endpoint::Responses, "event: response.created\ndata: {}\n\n").0.complete());
}

#[test]
fn a_stream_with_unknown_marks_is_taken_at_its_word() {
    assert!(watched(Endpoint::Audio, "data: {\"type\":\"speech.audio.delta\"}\n\n").0.complete());
}

/// As if each event were the first of its stream that looks as it does.
fn watched_apart(events: &[String]) -> StreamWatch {
    let mut watch = StreamWatch::new(Endpoint::Chat);
    for event in events {
        watch.texts = Texts::default();
        watch.see(event.as_bytes());
    }
    watch
}

proptest::proptest! {
    #[test]
    fn events_that_are_alike_are_understood_as_if_they_were_not(
        which in proptest::collection::vec(0..14_usize, 1..40),
        cuts in proptest::collection::vec(1..4_usize, 40),
    ) {
        let delta = |delta: &str, more: &str| {
            format!("data: {{\"id\":\"x\",\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":null}}]{more}}}\n\n")
        };
        let text = |text: &str| delta(&format!("\"content\":\"{text}\""), "");
        let events: Vec<String> = which.iter().map(|which| match which {
            0..4 => text(["a", " bcd", "", "\\\"error\\\": \\\\"][*which]),
            4 => text("{\\\"content\\\":\\\"x\\\"}"),
            5 => delta("\"reasoning_content\":\"r\"", ""),
            6 => delta("\"reasoning_content\":\"s\"", ",\"usage\":null"),
            7 => delta("\"role\":\"assistant\",\"content\":\"\"", ""),
            8 => delta("\"content\":\"x\"", ",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}"),
            9 => text("a").replace("null", "\"stop\""),
            10 => text("broken\n\ndata: {\"error\":{\"message\":\"no\"},\"content\":\"x"),
            11 => text("a").replace("null", "\"content_filter\""),
            12 => ": ping\n\n".into(),
            _ => text("a").replace("\n\n", "\r\n\r\n"),
        }).collect();
        let mut watch = StreamWatch::new(Endpoint::Chat);
        let (mut rest, mut cuts) = (&events[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (block, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            watch.see(block.concat().as_bytes());
            rest = behind;
        }
        let apart = watched_apart(&events);
        let told = |watch: &StreamWatch| (watch.content_events(), watch.end(), watch.usage(), watch.saw_error(), watch.finish_reasons);
        proptest::prop_assert_eq!(told(&watch), told(&apart));
    }
}

#[test]
fn what_brings_nothing_but_text_is_known_once_two_have() {
    let text = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let mut watch = StreamWatch::new(Endpoint::Chat);
    let only_text: Vec<bool> =
        ["a", "b", "c", "d\\n\\\"e\\\"", "", "f\\\\"].map(|word| watch.see(text(word).as_bytes()).only_text).into();
    assert_eq!(only_text, [false, false, true, true, true, true]);
    assert_eq!(watch.content_events(), 6);
    assert!(watch.see([text("g"), text("h")].concat().as_bytes()).only_text);
    assert!(!watch.see([text("g"), "data: {}\n\n".into()].concat().as_bytes()).only_text);
    assert!(!watch.see(text("broken\n").as_bytes()).only_text);
    assert!(!watch.see(b"").only_text);
    let mut same = StreamWatch::new(Endpoint::Chat);
    assert_eq!(["z"; 3].map(|word| same.see(text(word).as_bytes()).only_text), [false, false, true]);
    // Another form is learnt, however many there were of the first.
    let other = |word: &str| text(word).replace("content", "reasoning_content");
    let only_text = ["a", "b", "c"].map(|word| watch.see(other(word).as_bytes()).only_text);
    assert_eq!(only_text, [false, false, true]);
}

#[test]
fn an_answer_that_a_filter_has_cut_short_is_known_in_each_protocol() {
    let messages = |reason: &str| {
        let delta = format!("event: message_delta\ndata: {{\"delta\":{{\"stop_reason\":\"{reason}\"}}}}\n\n");
        watched(Endpoint::Messages, &format!("{delta}event: message_stop\ndata: {{}}\n\n"))
            .0
            .end()
            .unwrap()
            .was_filtered
    };
    assert!(messages("content_filter") && !messages("end_turn"));
    let responses = |reason: &str| {
        let end =
            format!("event: response.incomplete\ndata: {{\"incomplete_details\":{{\"reason\":\"{reason}\"}}}}\n\n");
        watched(Endpoint::Responses, &end).0.end().unwrap().was_filtered
    };
    assert!(responses("content_filter") && !responses("max_output_tokens"));
    let chat = |reason: &str| watched(Endpoint::Chat, &FINISH.replace("stop", reason)).0.end().unwrap().was_filtered;
    assert!(chat("content_filter") && !chat("stop"));
}
