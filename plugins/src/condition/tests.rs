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
    Condition::read(text, Terms { lists: &lists(), tenants: None, classifiers: &Classifiers::default() })
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
        assert_eq!(condition.judge(&exchange).unwrap(), expected, "{text}");
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
    let none = Classifiers::default();
    let read =
        |text: &str| Condition::read(text, Terms { lists: &lists(), tenants: Some(&tenants), classifiers: &none });
    let holds = |text: &str, user: &str| {
        let names = crate::tenants::Names { user: Some(user.into()), ..Default::default() };
        let mut exchange = testing::exchange(BODY);
        exchange.identify(Arc::new(crate::tenants::caller(Some(&tenants), &names, None).unwrap()));
        read(text).unwrap().judge(&exchange).unwrap()
    };
    assert_eq!(["ann", "bob", "eve"].map(|user| holds("flag(\"beta\")", user)), [true, false, false]);
    assert_eq!(["ann", "bob", "eve"].map(|user| holds("not flag('beta') and flag('new')", user)), [false, true, false]);
    assert!(!read("flag('beta')").unwrap().judge(&testing::exchange(BODY)).unwrap(), "whoever is not known has none");
    let error = read("stream or flag(\"betta\")").unwrap_err();
    assert!(error.at == 15 && error.message.contains("there is beta, new"), "{error}");
    assert!(read("flag").unwrap_err().message.contains("the flag's name"));
    let error = super::tests::read("flag('beta')").unwrap_err();
    assert!(error.message.contains("no such section"));
}

fn classifiers() -> Classifiers {
    let settings = serde_json::json!({ "task": { "model": "small", "labels": ["easy", "hard"], "otherwise": "hard" } });
    let (classifiers, faults) = Classifiers::read(settings, &["small".into()], &crate::services::Shared::default());
    assert_eq!(faults, []);
    classifiers
}

#[tokio::test]
async fn a_classifier_is_asked_once_and_only_where_nothing_else_decides() {
    let classifiers = classifiers();
    let read = |text: &str| {
        Condition::read(text, Terms { lists: &lists(), tenants: None, classifiers: &classifiers }).unwrap()
    };
    for (text, decided) in [
        ("class(\"task\") == \"easy\" and stream", Some(false)),
        ("class(\"task\") == \"easy\" or has_tools", Some(true)),
        ("not (class('task') in ['easy', 'hard'] and stream)", Some(true)),
        ("class('task') == 'easy' and has_tools", None),
        ("class('task') not in ['easy'] or stream", None),
    ] {
        assert_eq!(read(text).judge(&exchange()).ok(), decided, "{text}");
    }
    let mut exchange = exchange();
    // There is no model here to be asked: it is what the file says for that.
    assert!(!read("class('task') == 'easy' and has_tools").holds(&mut exchange).await);
    assert!(read("class('task') != 'easy' and class('task') == 'hard'").holds(&mut exchange).await);
    assert_eq!(exchange.take_notes(), [("class", "task=hard".to_owned())]);
}

#[test]
fn a_class_that_is_never_given_is_a_fault_of_the_file() {
    let classifiers = classifiers();
    for (text, at, said) in [
        ("class('tusk') == 'easy'", 6, "has no `tusk`: there is task"),
        ("class('task') == 'harsh'", 17, "gives no class `harsh`: there is easy, hard"),
        ("class('task') in ['easy', 'x']", 26, "no class `x`"),
        ("class('task') in beta", 14, "no class `acme`"),
        ("class('task') like 'e*'", 14, "ask class(\"task\") =="),
        ("class", 5, "the classifier's name"),
        ("class('task')", 13, "ask class"),
    ] {
        let terms = Terms { lists: &lists(), tenants: None, classifiers: &classifiers };
        let error = Condition::read(text, terms).expect_err(text);
        assert!(error.at == at && error.message.contains(said), "{text}: {error}");
    }
    assert!(read("class('task') == 'a'").unwrap_err().message.contains("there is none"));
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
        "not ", "and ", "or ", "(", ")", "org ", "== ", "in ", "[", "]", "\"a\"", "'", ",", "stream ", "n ", "> ", "9", "1M ", "header", "flag", "class", "é", "\u{a0}", "-",
    ]), 0..30)) {
        let text = pieces.concat();
        match read(&text) {
            Ok(condition) => { condition.judge(&exchange()).unwrap(); }
            Err(error) => prop_assert!(error.at <= text.len() && text.is_char_boundary(error.at)),
        }
    }
}
