//! Embeddings and reranking. A text's vector is the sum of a fixed direction for each of its words, so that
//! the same text always has the same vector and texts that share words lie near each other.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Server;
use super::asked::{Asked, Refusal, text_of, words_in};
use super::plan::Plan;

const DIMENSIONS: u64 = 256;

pub(super) fn embed(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let texts = texts(asked.required("input")?)?;
    let dimensions = match asked.count("dimensions")?.unwrap_or(DIMENSIONS) {
        wanted @ 1..=4096 => wanted,
        _ => return Err(Refusal::invalid("dimensions", "`dimensions` must be at most 4096")),
    };
    let base64 = match asked.field("encoding_format").map(|format| format.as_str()) {
        None | Some(Some("float")) => false,
        Some(Some("base64")) => true,
        Some(_) => return Err(Refusal::invalid("encoding_format", "`encoding_format` must be float or base64")),
    };
    let tokens = texts.iter().map(|text| words_in(text)).sum::<u64>();
    server.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    let row = |(index, text): (usize, &String)| {
        let vector = vector(text, dimensions);
        let embedding = if base64 { json!(STANDARD.encode(little_endian(&vector))) } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let rows: Vec<Value> = texts.iter().enumerate().map(row).collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Plan::Now(json!({"object": "list", "model": asked.model, "data": rows, "usage": usage})))
}

pub(super) fn rerank(server: &Server, asked: &Asked) -> Result<Plan, Refusal> {
    let query = text_of(asked.required("query")?);
    let Value::Array(documents) = asked.required("documents")? else {
        return Err(Refusal::invalid("documents", "`documents` must be an array"));
    };
    let wanted = vector(&query, DIMENSIONS);
    let documents: Vec<String> = documents.iter().map(text_of).collect();
    let mut scored: Vec<(usize, f32)> =
        documents.iter().enumerate().map(|(at, text)| (at, dot(&wanted, &vector(text, DIMENSIONS)))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let top = asked.count("top_n")?.and_then(|top| usize::try_from(top).ok()).unwrap_or(scored.len());
    scored.truncate(top);
    let row = |(at, score): &(usize, f32)| json!({"index": at, "relevance_score": score, "document": {"text": documents[*at]}});
    let results: Vec<Value> = scored.iter().map(row).collect();
    let tokens = words_in(&query) + documents.iter().map(|text| words_in(text)).sum::<u64>();
    server.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    Ok(Plan::Now(json!({
        "id": server.id("rerank-"), "object": "list", "model": asked.model, "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}

/// `input` is a text, a list of texts, a list of tokens, or a list of lists of tokens.
fn texts(input: &Value) -> Result<Vec<String>, Refusal> {
    let spelled = |tokens: &[Value]| tokens.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
    let wrong = || Refusal::invalid("input", "`input` must be a text or a list of texts or tokens, and not empty");
    match input {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) if items.is_empty() => Err(wrong()),
        Value::Array(items) if items.iter().all(Value::is_number) => Ok(vec![spelled(items)]),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Array(tokens) if tokens.iter().all(Value::is_number) => Ok(spelled(tokens)),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// A vector of length one.
fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    let mut sum = vec![0.0_f32; usize::try_from(dimensions).unwrap_or_default()];
    for word in text.split_whitespace() {
        let seed = hash(&word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase());
        for (place, at) in sum.iter_mut().zip(0_u64..) {
            *place += unit(seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        sum.iter_mut().for_each(|x| *x /= length);
    }
    sum
}

/// FNV-1a: the same on every machine and in every version, which the standard library's hash does not promise.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number from -1 to 1 for a seed (the finaliser of SplitMix64).
fn unit(seed: u64) -> f32 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u16::try_from((mixed ^ (mixed >> 31)) >> 48).unwrap_or_default();
    f32::from(top) / 32767.5 - 1.0
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_share_words_lie_nearer_than_texts_that_do_not() {
        let tide = vector("the tide is high", DIMENSIONS);
        let near = dot(&tide, &vector("The tide was low.", DIMENSIONS));
        let far = dot(&tide, &vector("seventeen green bicycles", DIMENSIONS));
        assert!(near > far + 0.2, "{near} {far}");
        assert!((dot(&tide, &tide) - 1.0).abs() < 1e-5);
    }
}
