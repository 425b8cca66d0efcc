use super::*;
use crate::testing::exchange_with;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn form(json: &str) -> Vec<u8> {
    let mut form = Vec::new();
    assert!(write_canonical(json.as_bytes(), 0, &|_| false, &mut form), "{json}");
    form
}

fn answerer() -> Answerer {
    Answerer { route: "m".into(), pool: "p".into(), model: "m".into(), revision: 0 }
}

fn key_of(body: &str, headers: &[(&str, &str)]) -> CacheKey {
    let exchange = exchange_with(body, headers);
    KeyMaker::new(b"secret", &[]).key(&exchange, &answerer(), Tenant::Org("o")).expect("it has a key")
}

#[test]
fn what_means_the_same_has_one_form() {
    let same = [
        (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" :[ true , null ],\n\"a\":1.0 }"),
        (r#""\u00e9\/\n\ud83d\ude00""#, "\"é/\\u000a😀\""),
        (r#"["\"\\\b\f\n\r\t"]"#, r#"["\u0022\u005C\u0008\u000c\u000a\u000D\u0009"]"#),
        (r#"["\u001f","/"]"#, r#"["\u001F","\/"]"#),
        (r#"{"\u0061":1}"#, r#"{"a":1}"#),
        ("1", "1.0"),
        ("1", "1e0"),
        ("100", "1E+2"),
        ("100", "0.1e3"),
        ("0.5", "5e-1"),
        ("0.5", "0.50"),
        ("0", "-0"),
        ("0", "0.0e7"),
        ("-120", "-1.2e2"),
        ("9007199254740993", "9007199254740993.0"),
    ];
    for (one, other) in same {
        assert_eq!(form(one), form(other), "{one} {other}");
    }
}

#[test]
fn what_means_something_else_has_another_form() {
    let different = [
        ("[1,2]", "[2,1]"),
        ("[[1],2]", "[[1,2]]"),
        ("[12]", "[1,2]"),
        (r#""\n""#, r#""\\n""#),
        (r#"["\u0001",""]"#, r#"["\\\u0001",""]"#),
        (r#"["a","b"]"#, r#"["a\",\"b"]"#),
        ("1", "\"1\""),
        ("null", "0"),
        ("\"null\"", "null"),
        ("{}", "[]"),
        ("[]", "[[]]"),
        ("{\"a\":null}", "{}"),
        ("{\"a\":\"b\"}", "{\"ab\":\"\"}"),
        ("{\"a\":1,\"a\":2}", "{\"a\":2,\"a\":1}"),
        ("{\"a\":1,\"a\":2}", "{\"a\":2}"),
        ("9007199254740993", "9007199254740992"),
        ("1e400", "1e401"),
        ("1e99999999999999999999", "1e99999999999999999998"),
        ("0.1", "0.10000000000000001"),
        ("1", "-1"),
        ("10", "1"),
        (r#""\ud800""#, r#""\ud801""#),
        (r#""\ud800""#, r#""\ufffd""#),
        (r#""\\u0061""#, "\"a\""),
    ];
    for (one, other) in different {
        assert_ne!(form(one), form(other), "{one} {other}");
    }
}

#[test]
fn a_value_within_a_document_has_the_form_it_has_alone() {
    let json = r#"{"a":["x",[1,{"b":[]}],2.50,{}]}"#;
    for (start, value) in [(6, "\"x\""), (10, r#"[1,{"b":[]}]"#), (23, "2.5"), (28, "{}")] {
        let mut within = Vec::new();
        assert!(write_canonical(json.as_bytes(), start, &|_| false, &mut within), "{value}");
        assert_eq!(within, form(value));
    }
}

#[test]
fn a_half_document_has_no_form() {
    for json in
        ["{", "[1", "{\"a\"}", "{\"a\":}", "[1 2]", "{\"a\":1 \"b\":2}", "-", "1.e", "\"\\x\"", "\"\\u12\"", "", "x"]
    {
        assert!(!write_canonical(json.as_bytes(), 0, &|_| false, &mut Vec::new()), "{json}");
    }
}

#[test]
fn depth_costs_no_more_than_length() {
    // Read level by level this would be 128 times 4 MB.
    let text = "x".repeat(4 << 20);
    let nested = format!("{}\"{text}\"{}", "{\"a\":".repeat(127), "}".repeat(127));
    let begun = std::time::Instant::now();
    form(&nested);
    assert!(begun.elapsed().as_millis() < 1500, "{:?}", begun.elapsed());
}

/// Read anew for each other, this key would cost ten gigabytes of copies.
#[test]
fn a_long_key_with_escapes_costs_no_more_than_its_length() {
    let long = format!("m{}", "\\n".repeat(256 << 10));
    let names = |first: char| (0..20_000).map(move |number| format!("\"{first}{number:05}\":{number}"));
    let members: Vec<String> = std::iter::once(format!("\"{long}\":0")).chain(names('n')).chain(names('a')).collect();
    let other: Vec<&str> = members.iter().rev().map(String::as_str).collect();
    assert_eq!(form(&format!("{{{}}}", members.join(","))), form(&format!("{{{}}}", other.join(","))));
}

#[test]
fn what_cannot_change_the_answer_does_not_change_the_key() {
    let plain = key_of(r#"{"model":"m","messages":[]}"#, &[]);
    let moot = r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true},"user":"u",
        "metadata":{"a":"b"},"store":true,"request_id":"r"}"#;
    assert_eq!(key_of(moot, &[("x-request-id", "1"), ("authorization", "Bearer x")]), plain);
}

#[test]
fn metadata_counts_where_the_answer_repeats_it_and_everywhere_below_the_top() {
    assert!(!is_moot(crate::call::Endpoint::Responses, "metadata"));
    let one = key_of(r#"{"model":"m","messages":[{"user":"a"}]}"#, &[]);
    assert_ne!(key_of(r#"{"model":"m","messages":[{"user":"b"}]}"#, &[]), one);
}

#[test]
fn who_asks_who_answers_and_headers_that_tell_change_the_key() {
    let body = r#"{"model":"m","messages":[]}"#;
    let exchange = exchange_with(body, &[]);
    let maker = KeyMaker::new(b"secret", &[]);
    let of = |answerer: &Answerer, tenant| maker.key(&exchange, answerer, tenant).expect("it has a key");
    let plain = of(&answerer(), Tenant::Org("o"));
    let mut keys = vec![
        plain,
        of(&answerer(), Tenant::Org("p")),
        of(&answerer(), Tenant::Key("o")),
        of(&answerer(), Tenant::User("o")),
        of(&answerer(), Tenant::Everybody),
        of(&Answerer { pool: "q".into(), ..answerer() }, Tenant::Org("o")),
        of(&Answerer { model: "n".into(), ..answerer() }, Tenant::Org("o")),
        of(&Answerer { revision: 1, ..answerer() }, Tenant::Org("o")),
        key_of(body, &[("anthropic-beta", "a")]),
        key_of(body, &[("anthropic-version", "a")]),
        KeyMaker::new(b"other", &[]).key(&exchange, &answerer(), Tenant::Org("o")).expect("it has a key"),
    ];
    assert_eq!(key_of(body, &[]), plain);
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all);
}

#[test]
fn a_stranger_has_no_tenant_unless_all_share() {
    let nobody = Caller::default();
    for scope in [Scope::Org, Scope::Key, Scope::User] {
        assert_eq!(scope.tenant(None), None);
        assert_eq!(scope.tenant(Some(&nobody)), None);
    }
    assert_eq!(Scope::Global.tenant(None), Some(Tenant::Everybody));
    let keyed = Caller { key: Some("k".into()), user: Some("u".into()), ..Caller::default() };
    assert_eq!(Scope::Org.tenant(Some(&keyed)), Some(Tenant::Key("k")));
    assert_eq!(Scope::User.tenant(Some(&keyed)), Some(Tenant::User("u")));
    let owned = Caller { org: Some("o".into()), ..keyed };
    assert_eq!(Scope::Org.tenant(Some(&owned)), Some(Tenant::Org("o")));
}

/// Any JSON, small.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5_i32..5).prop_map(Value::from),
        (-1e6..1e6).prop_map(|number: f64| json!(number)),
        "[a-c\"\\\\é\u{1f600}\n]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]{0,2}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A request's body: the fields that are known, and some that are not.
fn body() -> impl Strategy<Value = Map<String, Value>> {
    let field = proptest::sample::select(
        &[
            "messages",
            "tools",
            "temperature",
            "seed",
            "top_p",
            "stop",
            "n",
            "logprobs",
            "max_tokens",
            "x_unknown",
            "response_format",
        ][..],
    );
    proptest::collection::btree_map(field, value(), 0..6)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Writes the same document in another way: members the other way round, blanks, strings in escapes, numbers in powers.
fn respelt(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            out.push_str("{ ");
            for (index, (name, value)) in members.iter().rev().enumerate() {
                out.push_str(if index > 0 { "\t,\n" } else { "" });
                respelt(&Value::from(name.as_str()), out);
                out.push_str(" : ");
                respelt(value, out);
            }
            out.push_str(" }");
        }
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index > 0 { " , " } else { "" });
                respelt(element, out);
            }
            out.push_str("\n]");
        }
        Value::String(text) => {
            out.push('"');
            text.encode_utf16().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            out.push('"');
        }
        Value::Number(number) if number.as_i64() == Some(0) => out.push_str("-0.0"),
        Value::Number(number) if number.is_i64() => out.push_str(&format!("{number}00.0e-2")),
        other => out.push_str(&other.to_string()),
    }
}

/// Whether two numbers that are written differently are the same number.
fn plainly(value: &Value) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(plainly).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), plainly(value))).collect())
        }
        Value::Number(number) => match number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15) {
            Some(float) => json!(float as i64),
            None => value.clone(),
        },
        other => other.clone(),
    }
}

fn with_model(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut body = fields.clone();
    body.insert("model".to_owned(), json!("m"));
    body
}

proptest! {
    #[test]
    fn a_request_spelt_another_way_has_the_same_key(fields in body()) {
        let body = Value::Object(with_model(&fields));
        let mut other = String::new();
        respelt(&body, &mut other);
        // Names that the gateway reads itself must stand as they are, so the names at the top are left alone.
        let Value::Object(members) = &body else { unreachable!() };
        let mut top = Vec::new();
        for (name, value) in members.iter().rev() {
            let mut text = String::new();
            respelt(value, &mut text);
            top.push(format!(" \"{name}\" :{}", if name == "model" { value.to_string() } else { text }));
        }
        prop_assert_eq!(key_of(&body.to_string(), &[]), key_of(&format!("{{{}}}", top.join(",")), &[]));
        prop_assert_eq!(form(&body.to_string()), form(&other));
    }

    #[test]
    fn no_other_value_of_any_field_leaves_the_key_alone(fields in body(), name in "messages|tools|temperature|seed|system|x_[a-z]|stop", new in value()) {
        let mut changed = fields.clone();
        let old = changed.insert(name, new.clone());
        let same = old.is_some_and(|old| plainly(&old) == plainly(&new));
        let keys = [fields, changed].map(|fields| key_of(&Value::Object(with_model(&fields)).to_string(), &[]));
        prop_assert_eq!(keys[0] == keys[1], same);
    }

    #[test]
    fn only_equal_documents_have_equal_forms(one in value(), other in value()) {
        prop_assert_eq!(form(&one.to_string()) == form(&other.to_string()), plainly(&one) == plainly(&other));
    }

    #[test]
    fn any_change_within_a_document_changes_its_form(value in value(), index in any::<prop::sample::Index>()) {
        let text = value.to_string();
        let at = index.index(text.len());
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
        if let Ok(Ok(changed)) = std::str::from_utf8(&bytes).map(serde_json::from_str::<Value>)
            && !text.contains('e') && !text.contains('.')
        {
            let same = plainly(&changed) == plainly(&value);
            prop_assert_eq!(form(&text) == form(std::str::from_utf8(&bytes).unwrap()), same);
        }
    }
}
