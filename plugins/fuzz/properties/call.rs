use serde_json::Value;
use tidegate_plugins::call::{Call, CallFault, Endpoint, FaultKind, Key, MAX_DEPTH};
use tidegate_plugins::json;

use super::reference::{self, Object};

/// A body is read as `serde_json` reads it, or refused for a reason that is there.
pub(crate) fn call(body: &[u8]) {
    let reference = Object::read(body);
    members_are_the_same(body, reference.as_ref());
    match (Call::read(body, Endpoint::Chat), reference) {
        (Ok(call), Some(Object(members))) => agrees(&call, body, &members),
        (Ok(_), None) => panic!("read what is no JSON object"),
        (Err(fault), reference) => is_there(&fault, body, reference.as_ref()),
    }
    let _ = (json::key_with_nul(body), json::deeper_than(body, 3), json::members(body).count());
    let _ = json::elements_within(body, 0..body.len()).count();
}

fn members_are_the_same(body: &[u8], reference: Option<&Object>) {
    let Some(Object(members)) = reference else { return };
    let stepped = json::members(body).map(|member| {
        let key = json::unquoted(member.key).expect("a key of valid JSON").into_owned();
        (key, String::from_utf8(body[member.value].to_vec()).expect("a part of a text"))
    });
    assert!(stepped.eq(members.iter().cloned()));
}

fn agrees(call: &Call, body: &[u8], members: &[(String, String)]) {
    assert!(reference::depth(body) <= MAX_DEPTH);
    assert!(!serde_json::from_slice(body).is_ok_and(|body| has_nul_in_key(&body)));
    let is_escaped =
        |member: json::Member<'_>| member.key.contains(&b'\\') && Key::ALL.iter().any(|key| member.is(key.name()));
    assert!(!json::members(body).any(is_escaped));
    assert_eq!(call.is_empty(), members.is_empty());
    assert_eq!(body[call.end()], b'}');
    assert!(body[call.end() + 1..].trim_ascii().is_empty());
    for key in Key::ALL {
        let mut given = members.iter().filter(|(name, _)| folded(name) == key.name());
        let value = given.next().map(|(name, value)| {
            assert_eq!(name, key.name());
            value.as_bytes()
        });
        assert_eq!(given.next(), None);
        assert_eq!(call.span(*key).map(|span| &body[span]), value);
    }
    let value = |key: &str| {
        let (_, value) = members.iter().find(|(name, _)| name == key)?;
        serde_json::from_str::<Value>(value).ok()
    };
    assert_eq!(call.model(body).as_deref(), value("model").as_ref().and_then(|model| model.as_str()));
    assert_eq!(call.stream, value("stream").is_some_and(|stream| stream == true));
    let options = call.span(Key::StreamOptions).and_then(|span| Object::read(&body[span]));
    let include_usage = options.and_then(|Object(options)| {
        let (_, value) = options.into_iter().find(|(name, _)| name == "include_usage")?;
        value.parse().ok()
    });
    assert_eq!(call.include_usage, include_usage);
    if let Some(limit) = value("max_tokens").and_then(|limit| limit.as_u64()) {
        assert!(call.max_tokens >= Some(limit));
    }
}

fn has_nul_in_key(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul_in_key(value)),
        Value::Array(elements) => elements.iter().any(has_nul_in_key),
        _ => false,
    }
}

fn is_there(fault: &CallFault, body: &[u8], reference: Option<&Object>) {
    assert!(fault.line >= 1 && fault.message().len() < 200);
    let text = std::str::from_utf8(body);
    let members = reference.map_or(&[][..], |object| &object.0);
    let there = match fault.kind {
        FaultKind::Empty => body.trim_ascii().is_empty(),
        FaultKind::Encoding => text.is_err() || body.starts_with(b"\xef\xbb\xbf"),
        FaultKind::Malformed => reference.is_none() || within_options(fault, members),
        FaultKind::NotAnObject => reference.is_none(),
        FaultKind::TooDeep => reference::depth(body) > MAX_DEPTH,
        FaultKind::NulInKey => text.is_ok_and(|text| text.contains("\\u0000")),
        FaultKind::WrongType => members.iter().any(|(name, _)| Some(&**name) == fault.param),
        // What is behind the fault need not be JSON.
        FaultKind::Ambiguous => {
            reference.is_none() || is_ambiguous(fault, body, members) || within_options(fault, members)
        }
        FaultKind::MissingModel | FaultKind::TooLarge => false,
    };
    assert!(there, "{fault:?}");
}

fn within_options(fault: &CallFault, members: &[(String, String)]) -> bool {
    fault.param == Some("stream_options") && members.iter().any(|(name, _)| name == "stream_options")
}

fn is_ambiguous(fault: &CallFault, body: &[u8], members: &[(String, String)]) -> bool {
    let same = |name: &str| Some(&*folded(name)) == fault.param;
    let given: Vec<_> = members.iter().filter(|(name, _)| same(name)).collect();
    let is_escaped = json::members(body)
        .any(|member| member.key.contains(&b'\\') && same(&json::unquoted(member.key).unwrap_or_default()));
    given.len() > 1 || is_escaped || given.iter().any(|(name, _)| Some(&**name) != fault.param)
}

fn folded(name: &str) -> String {
    name.to_lowercase().replace('\u{17f}', "s")
}
