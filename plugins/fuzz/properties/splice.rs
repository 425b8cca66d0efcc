use bytes::Bytes;
use serde_json::Value;
use tidegate_plugins::call::{Call, Endpoint, Key};
use tidegate_plugins::events::Events;
use tidegate_plugins::splice::{Edits, ModelRenamer, set_model};

use super::reference::Object;

const NAMES: [&str; 3] = ["m", "a \"model\"\n\u{1f600}", ""];

/// An edit changes what it is for, and leaves every other byte alone.
pub(crate) fn splice(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    if let Ok(call) = Call::read(&body, Endpoint::Chat) {
        for name in NAMES {
            a_model_is_set(&body, &call, name);
        }
        for key in Key::ALL {
            a_member_is_set(&body, &call, *key);
        }
        an_unknown_member_is_set(&body);
    }
    let renamer = ModelRenamer::new(NAMES[1]);
    the_answer_is_renamed(&renamer, data);
    the_events_are_renamed(&renamer, data);
}

fn a_model_is_set(body: &Bytes, call: &Call, name: &str) {
    let (edited, moved) = set_model(call, body, name);
    let value = serde_json::to_string(name).expect("a text");
    differs_only_at(body, &edited, call, Key::Model, &value);
    assert_eq!(moved.model(&edited).as_deref(), Some(name));
    if !name.is_empty() {
        assert_eq!(Call::read(&edited, Endpoint::Chat).as_ref(), Ok(&moved));
    }
}

fn a_member_is_set(body: &Bytes, call: &Call, key: Key) {
    let mut edits = Edits::default();
    for value in ["{}", "[1, \"}\"]"] {
        edits.set_key(call, key, value).expect("nothing else is edited");
        let edited = edits.apply(body).expect("it is this body's");
        differs_only_at(body, &edited, call, key, value);
    }
}

fn an_unknown_member_is_set(body: &Bytes) {
    let Some(Object(old)) = Object::read(body) else { panic!("a call is an object") };
    let mut edits = Edits::default();
    edits.set_member(body, 0..body.len(), "x", "true").expect("it is an object");
    let Object(new) = Object::read(&edits.apply(body).expect("it is this body's")).expect("it still is an object");
    let is_x = |(name, _): &&(String, String)| name == "x";
    assert!(new.iter().filter(is_x).all(|(_, value)| value == "true"));
    assert_eq!(new.iter().filter(is_x).count(), old.iter().filter(is_x).count().max(1));
    assert!(new.iter().filter(|member| !is_x(member)).eq(old.iter().filter(|member| !is_x(member))));
}

/// The edited body is the old one but for the one value, or for a member before the last bracket.
fn differs_only_at(body: &[u8], edited: &[u8], call: &Call, key: Key, value: &str) {
    let expected = match call.span(key) {
        Some(span) => [&body[..span.start], value.as_bytes(), &body[span.end..]].concat(),
        None => {
            let comma = if call.is_empty() { "" } else { "," };
            let member = format!("{comma}\"{}\":{value}", key.name());
            [&body[..call.end()], member.as_bytes(), &body[call.end()..]].concat()
        }
    };
    assert_eq!(edited, expected);
    let Some(Object(members)) = Object::read(edited) else { panic!("it is no object any more") };
    let given = members.iter().filter(|(name, _)| name == key.name()).map(|(_, value)| &**value);
    assert!(given.eq([value]));
}

/// A model at one of the three places is renamed, and nothing else is.
fn the_answer_is_renamed(renamer: &ModelRenamer, answer: &[u8]) {
    let renamed = renamer.rename_in_json(answer);
    if let Some(renamed) = &renamed {
        assert_eq!(renamer.rename_in_json(renamed), None);
    }
    // The renamer leaves keys with escapes alone; a model's own server does not write them.
    if answer.windows(2).any(|two| two == b"\\u") {
        return;
    }
    let Ok(mut expected) = serde_json::from_slice::<Value>(answer) else { return };
    rename(&mut expected);
    for place in ["message", "response"] {
        if let Some(inner) = expected.get_mut(place) {
            rename(inner);
        }
    }
    let actual: Value = serde_json::from_slice(renamed.as_deref().unwrap_or(answer)).expect("it still is JSON");
    assert_eq!(actual, expected);
}

fn rename(value: &mut Value) {
    if let Some(model) = value.as_object_mut().and_then(|object| object.get_mut("model"))
        && model.is_string()
    {
        *model = NAMES[1].into();
    }
}

/// Events are renamed one by one, each as an answer is.
fn the_events_are_renamed(renamer: &ModelRenamer, block: &[u8]) {
    let renamed = renamer.rename_in_events(block);
    let renamed = renamed.as_deref().unwrap_or(block);
    assert_eq!(renamer.rename_in_events(renamed), None);
    assert_eq!(Events::new(block).count(), Events::new(renamed).count());
    for (old, new) in Events::new(block).zip(Events::new(renamed)) {
        assert_eq!((old.name, old.data_lines), (new.name, new.data_lines));
        let expected = old.data.filter(|_| old.data_lines == 1).and_then(|data| renamer.rename_in_json(data));
        assert_eq!(new.data, expected.as_deref().or(old.data));
    }
}
