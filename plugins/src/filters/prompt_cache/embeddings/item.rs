//! What requests for embeddings and their answers are made of: inputs, vectors in either encoding, and answers put
//! together of them.

use crate::json;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;
use std::ops::Range;

/// More inputs than this are asked for as a whole: nobody sends them twice.
const MOST_INPUTS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Float,
    Base64,
}

impl Encoding {
    /// The one that a request asks for; none if it is one we cannot make of another.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        match json::member(body, "encoding_format").map(|at| &body[at]) {
            None | Some(b"null" | b"\"float\"") => Some(Self::Float),
            Some(b"\"base64\"") => Some(Self::Base64),
            Some(_) => None,
        }
    }
}

/// Where the inputs stand: one text, one list of tokens, or a batch of either.
pub(super) fn inputs(body: &[u8], span: Range<usize>) -> Option<Vec<Range<usize>>> {
    if body[span.start] == b'"' {
        return Some(vec![span]);
    }
    let elements: Vec<Range<usize>> = json::elements_within(body, span.clone()).take(MOST_INPUTS + 1).collect();
    let all = |first: &[u8]| elements.iter().all(|element| first.contains(&body[element.start]));
    if elements.is_empty() {
        return None;
    }
    // A list of numbers may be long: it is one input.
    if all(b"0123456789") {
        return Some(vec![span]);
    }
    (elements.len() <= MOST_INPUTS && (all(b"\"") || all(b"["))).then_some(elements)
}

/// The data of an answer that has as many as were asked for, in the order of the inputs: by their `index`, or as they stand
/// where they have none.
pub(super) fn data(answer: &[u8], count: usize) -> Option<Vec<&[u8]>> {
    let list = json::member(answer, "data")?;
    let mut data: Vec<Option<&[u8]>> = vec![None; count];
    for (place, at) in json::elements_within(answer, list).enumerate() {
        let item = &answer[at];
        let index = json::member(item, "index").map_or(Some(place as u64), |at| json::whole_number(&item[at]))?;
        let vector = json::member(item, "embedding").map(|at| item[at.start]);
        let slot = data.get_mut(usize::try_from(index).ok()?).filter(|slot| slot.is_none())?;
        *slot = Some(item).filter(|_| matches!(vector, Some(b'[' | b'"')));
        (*slot)?;
    }
    data.into_iter().collect()
}

/// What an answer says beside its data and usage: the members of an object, without its brackets.
pub(super) fn frame(answer: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    for member in json::members(answer).filter(|member| !member.is("data") && !member.is("usage")) {
        frame.push(b'"');
        frame.extend_from_slice(member.key);
        frame.extend_from_slice(b"\":");
        frame.extend_from_slice(&answer[member.value]);
        frame.push(b',');
    }
    frame
}

pub(super) fn joined(frame: &[u8], items: &[&[u8]], usage: &[u8]) -> Vec<u8> {
    let size: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut answer = Vec::with_capacity(size + frame.len() + usage.len() + 32);
    answer.push(b'{');
    answer.extend_from_slice(frame);
    answer.extend_from_slice(b"\"data\":[");
    for (index, item) in items.iter().enumerate() {
        answer.extend_from_slice(if index > 0 { b"," } else { b"" });
        answer.extend_from_slice(item);
    }
    answer.extend_from_slice(b"],\"usage\":");
    answer.extend_from_slice(usage);
    answer.push(b'}');
    answer
}

/// A usage with `more` tokens of prompts.
pub(super) fn added(usage: &[u8], more: u64) -> Vec<u8> {
    let mut sum = vec![b'{'];
    for (index, member) in json::members(usage).enumerate() {
        let value = &usage[member.value.clone()];
        let counts = member.is("prompt_tokens") || member.is("total_tokens");
        let number = json::whole_number(value).filter(|_| counts);
        sum.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
        sum.extend_from_slice(member.key);
        sum.extend_from_slice(b"\":");
        match number {
            // Writing to a vector does not fail.
            Some(number) => drop(write!(sum, "{}", number + more)),
            None => sum.extend_from_slice(value),
        }
    }
    sum.push(b'}');
    sum
}

/// One item of an answer, at its place in it, in the encoding that was asked for. None if it cannot be had so.
pub(super) fn item(kept: &[u8], index: usize, encoding: Encoding) -> Option<Vec<u8>> {
    let mut told = Vec::with_capacity(kept.len() + 16);
    let mut has_index = false;
    for member in json::members(kept) {
        let value = &kept[member.value.clone()];
        told.extend_from_slice(if told.is_empty() { b"{\"" } else { b",\"" });
        told.extend_from_slice(member.key);
        told.extend_from_slice(b"\":");
        if member.is("index") {
            has_index = true;
            drop(write!(told, "{index}"));
        } else if member.is("embedding") {
            match (encoding, value[0]) {
                (Encoding::Float, b'[') | (Encoding::Base64, b'"') => told.extend_from_slice(value),
                (Encoding::Float, _) => told.extend_from_slice(&as_floats(value)?),
                (Encoding::Base64, _) => told.extend_from_slice(&as_base64(value)?),
            }
        } else {
            told.extend_from_slice(value);
        }
    }
    if told.is_empty() {
        return None;
    }
    if !has_index {
        drop(write!(told, ",\"index\":{index}"));
    }
    told.push(b'}');
    Some(told)
}

fn as_floats(text: &[u8]) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    let floats: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    (rest.is_empty() && floats.iter().all(|float| float.is_finite())).then(|| serde_json::to_vec(&floats).ok())?
}

fn as_base64(list: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(list.len() / 2);
    for number in json::elements_within(list, 0..list.len()) {
        let number: f32 = std::str::from_utf8(&list[number]).ok()?.parse().ok()?;
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    Some(format!("\"{}\"", STANDARD.encode(bytes)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn inputs_are_found_however_they_are_given() {
        let found = |body: &str| {
            let at = json::member(body.as_bytes(), "input").expect("it is there");
            inputs(body.as_bytes(), at)
                .map(|inputs| inputs.into_iter().map(|at| body[at].to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(found(r#"{"input":"a"}"#).unwrap(), ["\"a\""]);
        assert_eq!(found(r#"{"input":["a", "b"]}"#).unwrap(), ["\"a\"", "\"b\""]);
        assert_eq!(found(r#"{"input":[1, 2]}"#).unwrap(), ["[1, 2]"]);
        assert_eq!(found(r#"{"input":[[1,2],[3]]}"#).unwrap(), ["[1,2]", "[3]"]);
        for none in [r#"{"input":[]}"#, r#"{"input":["a",[1]]}"#, r#"{"input":[{"text":"a"}]}"#, r#"{"input":7}"#] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn floats_and_base64_are_made_of_each_other(numbers in proptest::collection::vec(-1e3_f32..1e3, 0..8)) {
            let floats = serde_json::to_vec(&numbers).unwrap();
            let base64 = as_base64(&floats).unwrap();
            prop_assert_eq!(as_floats(&base64).unwrap(), floats);
        }
    }

    #[test]
    fn what_is_no_vector_is_not_told_as_one() {
        assert_eq!(as_floats(b"\"AAA=\""), None);
        assert_eq!(as_floats(b"\"?\""), None);
        assert_eq!(as_floats(b"\"AADAfw==\""), None, "not a number");
        assert_eq!(as_base64(b"[\"a\"]"), None);
    }

    #[test]
    fn unknown_fields_stay_and_the_place_changes() {
        let told = item(br#"{"object":"embedding","index":0,"x":1.0,"embedding":[1.5]}"#, 3, Encoding::Base64).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told, json!({"object": "embedding", "index": 3, "x": 1.0, "embedding": "AADAPw=="}));
    }

    #[test]
    fn an_answer_with_fewer_vectors_than_inputs_is_none() {
        assert_eq!(data(br#"{"data":[{"embedding":[1]}]}"#, 2), None);
        assert_eq!(data(br#"{"data":[{"index":1,"embedding":[1]}]}"#, 1), None);
        assert_eq!(data(br#"{"data":[{"index":0,"embedding":{}}]}"#, 1), None);
        assert_eq!(data(br#"{"data":[{"index":1,"embedding":[1]},{"index":1,"embedding":[2]}]}"#, 2), None);
        let turned = br#"{"data":[{"index":1,"embedding":[1]},{"index":0,"embedding":[2]}]}"#;
        assert!(data(turned, 2).unwrap()[0].ends_with(b"[2]}"), "by their index");
        assert_eq!(data(br#"{"data":[{"index":0,"embedding":[1]}]}"#, 1).unwrap().len(), 1);
    }
}
