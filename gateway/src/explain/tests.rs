//! One file, and what becomes of requests under it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::{Environment, Source, load};
use tidegate_plugins::filter::FilterError;
use tidegate_plugins::{Caller, Exchange, Filter, Verdict};

use super::*;
use crate::snapshot::NamedFilter;

struct Nothing;

impl Environment for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }
    fn vars(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    fn read_file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn config_of(file: &str) -> Config {
    let source = Source { name: "test.yaml".to_owned(), text: file.to_owned() };
    load(&source, &Nothing).unwrap().config
}

fn ask(path: &str, model: Option<&str>, file: &str) -> Explanation {
    explain(&config_of(file), &Question { path: path.to_owned(), model: model.map(str::to_owned), stream: false })
}

const FILE: &str = r#"
listen: 127.0.0.1:0
filters: [{ one: {} }, { two: {} }]
timeouts: { connect: 5s, total: 10m }
models:
  gpt-4o: { pool: a, as: llama, timeouts: { total: 1m } }
  "qwen*": { pool: b }
  "qwen-2*": { split: [{ pool: a, as: m1, weight: 9 }, { pool: b, as: m2, weight: 1 }] }
pools:
  a: { timeouts: { connect: 1s, total: 2m }, backends: [http://a1:1, { url: http://a2:1, weight: 3, max_in_flight: 8 }] }
  b: { backends: [http://b1:1] }
"#;

#[test]
fn an_alias_leads_to_the_pool_under_the_name_it_has_there() {
    let told = ask("/v1/chat/completions", Some("gpt-4o"), FILE);
    assert_eq!(told.filters.iter().map(|step| step.filter.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let [target] = &told.targets[..] else { panic!("{:?}", told.targets) };
    assert_eq!((target.pool.as_str(), target.model.as_deref()), ("a", Some("llama")));
    let shares: Vec<_> = target.candidates.iter().map(|candidate| candidate.share).collect();
    assert_eq!(shares, [0.25, 0.75]);
    assert_eq!(target.candidates[1].max_in_flight, Some(tidegate_config::MaxInFlight::Fixed(8)));
    assert_eq!(told.refused, None);
}

#[test]
fn the_timeouts_are_the_models_over_the_pools_over_the_files() {
    let told = ask("/v1/chat/completions", Some("gpt-4o"), FILE).targets[0].timeouts;
    assert_eq!((told.connect.as_secs(), told.total.as_secs()), (1, 60));
    let told = ask("/v1/chat/completions", Some("qwen"), FILE).targets[0].timeouts;
    assert_eq!((told.connect.as_secs(), told.total.as_secs()), (5, 600));
}

#[test]
fn the_longest_wildcard_wins_and_the_others_are_named() {
    let told = ask("/v1/embeddings", Some("qwen-2.5"), FILE);
    let choice = told.model.unwrap();
    assert_eq!(choice.entry, "qwen-2*");
    assert!(choice.why.contains("goes before qwen*"), "{}", choice.why);
    let split: Vec<_> = told.targets.iter().map(|t| (t.pool.as_str(), t.model.as_deref(), t.share)).collect();
    assert_eq!(split, [("a", Some("m1"), 0.9), ("b", Some("m2"), 0.1)]);
}

#[test]
fn what_would_be_refused_says_why() {
    let status = |path: &str, model| ask(path, model, FILE).refused.unwrap();
    assert_eq!(status("/v1/chat/completions", None).status, 400);
    let unknown = status("/v1/chat/completions", Some("gpt-4x"));
    assert_eq!(unknown.status, 404);
    assert!(unknown.why.contains("gpt-4o"), "{}", unknown.why);
    assert_eq!(status("/v1/files", None).status, 404);
    let nowhere = ask("/nowhere", Some("gpt-4o"), FILE);
    assert_eq!(nowhere.refused.unwrap().status, 404);
    assert!(nowhere.filters.is_empty(), "no filter sees it");
}

#[test]
fn other_paths_go_to_their_pool_as_they_came() {
    let file = format!("{FILE}other_paths: {{ pool: b }}\n");
    let told = ask("/v1/files", None, &file);
    assert_eq!((told.targets[0].pool.as_str(), &told.targets[0].model), ("b", &None));
}

#[test]
fn the_list_of_models_is_the_gateways_own() {
    let told = ask("/v1/models", None, FILE);
    assert_eq!(told.route.decided_by, DecidedBy::Gateway);
    assert!(told.targets.is_empty() && told.refused.is_none());
}

#[test]
fn a_request_without_a_model_gets_the_default() {
    let told = ask("/v1/chat/completions", None, &format!("{FILE}default_model: gpt-4o\n"));
    assert!(told.model.unwrap().why.contains("default_model"));
}

/// Knows one key, `good`, which may use `gpt*`.
struct Door;

#[async_trait::async_trait]
impl Filter for Door {
    fn needs_body(&self) -> bool {
        false
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict, FilterError> {
        if exchange.headers().get("authorization").is_some_and(|key| key == "Bearer good") {
            exchange.identify(Arc::new(Caller {
                user: Some("ann".into()),
                models: Some(vec!["gpt*".into()]),
                ..Caller::default()
            }));
            return Ok(Verdict::Continue);
        }
        let refusal = tidegate_plugins::Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "Unknown key.");
        Ok(Verdict::Answer(refusal.reply(exchange.endpoint(), "id")))
    }
}

async fn ask_with(key: &str, model: &str) -> Explanation {
    let mut told = ask("/v1/chat/completions", Some(model), FILE);
    let door = |name: &str| NamedFilter { name: name.into(), filter: Arc::new(Door) };
    let config = config_of(FILE);
    identify(&mut told, &config, &[door("one"), door("two")], &Sent { key: Some(key.to_owned()), ..Sent::default() })
        .await;
    told
}

#[tokio::test]
async fn a_key_is_judged_by_the_filters_themselves() {
    let told = ask_with("good", "gpt-4o").await;
    assert_eq!(told.caller.unwrap().user.as_deref(), Some("ann"));
    assert_eq!((told.refused, told.targets.len(), told.filters.len()), (None, 1, 2));
}

#[tokio::test]
async fn a_wrong_key_ends_at_the_filter_that_refuses_it() {
    let told = ask_with("bad", "gpt-4o").await;
    let refused = told.refused.unwrap();
    assert_eq!((refused.status, refused.why.as_str()), (401, "one says: Unknown key."));
    assert_eq!((told.targets.len(), told.filters.len()), (0, 1));
    assert!(told.model.is_none(), "it never came to the model");
}

#[tokio::test]
async fn a_key_that_may_not_use_the_model_is_told_so() {
    let told = ask_with("good", "qwen").await;
    assert_eq!(told.refused.unwrap().status, 403);
    assert!(told.targets.is_empty());
}

#[test]
fn where_it_overflows_to_and_when_a_second_backend_is_asked_is_told() {
    let file = "models:
  m: { pool: a, fallback: [b], overflow_after: 2s }
pools:
  a: { hedge: { whole: 10s }, backends: [http://a:1] }
  b: { discover: { srv: \"http://_llm._tcp.b\", server: 127.0.0.1:8600 } }
";
    let told = ask("/v1/chat/completions", Some("m"), file);
    assert_eq!((told.overflow_after.as_deref(), told.fallback.len()), (Some("2s"), 1));
    let hedge = told.targets[0].hedge.as_ref().unwrap();
    assert_eq!(hedge.whole.map(|after| after.to_string()).as_deref(), Some("10s"));
    let told = ask("/v1/chat/completions", Some("x"), "pools:\n  b: { discover: { srv: \"http://_llm._tcp.b\" } }\n");
    assert_eq!(told.targets[0].discovered.as_deref(), Some("the SRV records of http://_llm._tcp.b"));
}
