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

fn read(text: &str) -> Result<Condition, ConditionError> {
    Condition::read(text, Terms { lists: &lists(), tenants: None })
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
        let condition = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
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
        let error = read(text).expect_err(text);
        assert!(error.at == at && error.message.contains(said), "{text}: {error}");
    }
    let deep = format!("{}stream{}", "(".repeat(40), ")".repeat(40));
    assert!(read(&deep).is_err());
}

#[test]
fn a_flag_is_on_as_the_one_furthest_down_says_and_one_that_nobody_has_is_a_slip() {
    let section = serde_json::json!({
        "acme": { "flags": { "beta": true }, "users": { "ann": {}, "bob": { "flags": { "beta": false, "new": true } } } },
        "globex": { "users": ["eve"] },
    });
    let (tenants, faults) = Tenants::read(section, &Default::default());
    assert_eq!(faults, []);
    let read = |text: &str| Condition::read(text, Terms { lists: &lists(), tenants: Some(&tenants) });
    let holds = |text: &str, user: &str| {
        let names = crate::tenants::Names { user: Some(user.into()), ..Default::default() };
        let mut exchange = testing::exchange(BODY);
        exchange.identify(Arc::new(crate::tenants::caller(Some(&tenants), &names, None).unwrap()));
        read(text).unwrap().holds(&exchange)
    };
    assert_eq!(["ann", "bob", "eve"].map(|user| holds("flag(\"beta\")", user)), [true, false, false]);
    assert_eq!(["ann", "bob", "eve"].map(|user| holds("not flag('beta') and flag('new')", user)), [false, true, false]);
    assert!(!read("flag('beta')").unwrap().holds(&testing::exchange(BODY)), "whoever is not known has none");
    let error = read("stream or flag(\"betta\")").unwrap_err();
    assert!(error.at == 15 && error.message.contains("there is beta, new"), "{error}");
    assert!(read("flag").unwrap_err().message.contains("the flag's name"));
    let none = Condition::read("flag('beta')", Terms { lists: &lists(), tenants: None });
    assert!(none.unwrap_err().message.contains("no such section"));
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
        "not ", "and ", "or ", "(", ")", "org ", "== ", "in ", "[", "]", "\"a\"", "'", ",", "stream ", "n ", "> ", "9", "1M ", "header", "flag", "é", "\u{a0}", "-",
    ]), 0..30)) {
        let text = pieces.concat();
        match read(&text) {
            Ok(condition) => { condition.holds(&exchange()); }
            Err(error) => prop_assert!(error.at <= text.len() && text.is_char_boundary(error.at)),
        }
    }
}
