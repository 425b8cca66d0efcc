use serde_json::Value;
use tidegate_plugins::cache_key::write_canonical;
use tidegate_plugins::call::{Call, Endpoint};

/// Whatever is read as a call has a canonical form, which is the same without blanks and with the members the other way
/// round, and another if a member is missing.
pub(crate) fn canonical(body: &[u8]) {
    let form = form(body);
    if Call::read(body, Endpoint::Chat).is_err() {
        return;
    }
    let form = form.expect("what is read has a form");
    assert_eq!(self::form(&packed(body)).as_ref(), Some(&form));
    // `Value` keeps one of several members of a name, and of numbers what a float can hold.
    let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(body) else { return };
    let given = tidegate_plugins::json::members(body).count();
    let text = |name: &String| serde_json::to_string(name).expect("a text");
    if given == members.len() && !members.is_empty() && has_plain_numbers(body) {
        let spelt = |members: &mut dyn Iterator<Item = (&String, &Value)>| {
            let members: Vec<_> = members.map(|(name, value)| format!("{}:{value}", text(name))).collect();
            format!("{{{}}}", members.join(","))
        };
        let (forth, back) = (spelt(&mut members.iter()), spelt(&mut members.iter().rev()));
        assert_eq!(self::form(forth.as_bytes()), self::form(back.as_bytes()));
        let fewer = spelt(&mut members.iter().skip(1));
        assert_ne!(self::form(fewer.as_bytes()), self::form(forth.as_bytes()));
    }
}

fn form(json: &[u8]) -> Option<Vec<u8>> {
    // The guards that stand before it.
    let guarded = tidegate_plugins::json::deeper_than(json, 128).is_none();
    let mut form = Vec::new();
    (guarded && write_canonical(json, 0, &|_| false, &mut form)).then_some(form)
}

/// Without the blanks between values.
fn packed(json: &[u8]) -> Vec<u8> {
    let (mut packed, mut in_string, mut escaped) = (Vec::new(), false, false);
    for byte in json {
        if in_string || !byte.is_ascii_whitespace() {
            packed.push(*byte);
        }
        if *byte == b'"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && *byte == b'\\' && !escaped;
    }
    packed
}

fn has_plain_numbers(json: &[u8]) -> bool {
    !json.windows(2).any(|pair| pair[0].is_ascii_digit() && matches!(pair[1], b'.' | b'e' | b'E')) && json.len() < 4096
}
