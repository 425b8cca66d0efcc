use super::*;
use crate::exchange::Caller;
use crate::testing;
use proptest::prelude::*;
use std::sync::Arc;

const BODY: &str = r#"{"model":"auto","max_tokens":500,"messages":[{"role":"system","content":"be brief"},
    {"role":"user","content":[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"data:"}}]}],
    "tools":[{"type":"function"}],"response_format":{"type":"json_schema"}}"#;

fn exchange() -> Exchange {
    let mut exchange = testing::exchange_with(BODY, &[("x-tier", "gold")]);
    let name = |name: &str| Some(Arc::from(name));
    exchange.identify(Arc::new(Caller { key: name("k1"), user: name("ann"), org: name("acme"), ..Caller::default() }));
    exchange
}

fn lists() -> Lists {
    HashMap::from([("beta".to_owned(), vec!["acme".to_owned(), "globex".to_owned()])])
}

#[test]
fn a_condition_says_which_requests_are_meant() {
    let exchange = exchange();
    for (text, expected) in [
        ("has_tools", true),
        ("has_tools and not has_images", false),
        ("has_images and json_mode", true),
        ("stream", false),
        ("tools == 1 and messages >= 2 and messages < 3", true),
        ("max_tokens != 500", false),
        ("prompt_tokens > 10 and body_bytes < 1k", true),
        ("org == 'acme' and user != \"bob\"", true),
        ("org in beta", true),
        ("org not in [\"globex\"]", true),
        ("model like \"au*\" and key like 'k*'", true),
        ("team == \"x\" or team != \"x\"", true),
        ("team like \"*\" or team in beta", false),
        ("header(\"X-Tier\") == \"gold\"", true),
        ("header('x-none') like '*'", false),
        ("stream or has_tools and has_images", true),
        ("(stream or has_tools) and stream", false),
        ("not (stream or stream) and endpoint == \"chat\"", true),
    ] {
        let condition = Condition::read(text, &lists()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(condition.holds(&exchange), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_told_with_its_place() {
    for (text, at, said) in [
        ("", 0, "expected what to look at"),
        ("has_tool", 0, "there is no `has_tool`"),
        ("has_tools has_images", 10, "expected and, or"),
        ("prompt_tokens", 13, "is a number"),
        ("prompt_tokens > many", 16, "expected a number"),
        ("prompt_tokens > 8q", 16, "no number"),
        ("org > 3", 4, "is a text"),
        ("org = \"a\"", 4, "compare with =="),
        ("stream && stream", 7, "write and, or, not"),
        ("org == acme", 7, "in quotes"),
        ("org in gamma", 7, "no list `gamma`"),
        ("org in [\"a\"", 11, "expected , or ]"),
        ("(stream", 7, "expected )"),
        ("org == \"a", 7, "no end"),
        ("header(\"authorization\") == \"x\"", 7, "keys are not looked at"),
        ("header(x) == \"x\"", 7, "the header's name"),
        ("stream §", 7, "means nothing"),
    ] {
        let error = Condition::read(text, &lists()).expect_err(text);
        assert!(error.at == at && error.message.contains(said), "{text}: {error}");
    }
    let deep = format!("{}stream{}", "(".repeat(40), ")".repeat(40));
    assert!(Condition::read(&deep, &lists()).is_err());
}

#[test]
fn a_star_stands_for_anything() {
    for (text, pattern, expected) in [
        ("abc", "abc", true),
        ("abc", "ab", false),
        ("abc", "*", true),
        ("", "*", true),
        ("abc", "a*c", true),
        ("abc", "*b*", true),
        ("ab", "ab*b", false),
        ("aXbXc", "a*b*c", true),
        ("abcab", "*ab", true),
        ("abc", "**", true),
        ("abc", "*d*", false),
    ] {
        assert_eq!(like(text, pattern), expected, "{text} like {pattern}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_odd_to_be_read(pieces in prop::collection::vec(prop::sample::select(vec![
        "not ", "and ", "or ", "(", ")", "org ", "== ", "in ", "[", "]", "\"a\"", "'", ",", "stream ", "n ", "> ", "9", "1M ", "header", "é", "\u{a0}", "-",
    ]), 0..30)) {
        let text = pieces.concat();
        match Condition::read(&text, &lists()) {
            Ok(condition) => { condition.holds(&exchange()); }
            Err(error) => prop_assert!(error.at <= text.len() && text.is_char_boundary(error.at)),
        }
    }
}
