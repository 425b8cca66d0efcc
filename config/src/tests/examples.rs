//! Every example can be used as it is, and says what it says it says.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::World;
use crate::compose::compose;
use crate::{Config, KeyPath, Loaded, Pattern};

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn example(name: &str) -> Loaded {
    let text = fs::read_to_string(path("examples").join(name)).unwrap();
    world().load(&text).unwrap_or_else(|faults| panic!("{name}: {faults}"))
}

fn world() -> World {
    let pem = "-----BEGIN CERTIFICATE-----";
    World::default()
        .var("TLS_CERT", "cert.pem")
        .var("TLS_KEY", "key.pem")
        .var("BACKEND_CA", "ca.pem")
        .var("OPERATORS_CA", "ca.pem")
        .var("ADMIN_TOKEN", "token")
        .var("KEY_PEPPER", "pepper")
        .file("cert.pem", pem)
        .file("key.pem", "-----BEGIN PRIVATE KEY-----")
        .file("ca.pem", pem)
}

fn config(name: &str) -> Config {
    example(name).config
}

#[test]
fn every_example_loads_without_a_warning() {
    let files: Vec<_> = fs::read_dir(path("examples")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for file in &files {
        let loaded = example(file.to_str().unwrap());
        assert!(loaded.warnings.is_empty(), "{file:?}: {:#?}", loaded.warnings);
    }
    assert!(files.len() >= 7);
}

#[test]
fn every_file_in_the_guide_loads_without_a_warning() {
    let guide = fs::read_to_string(path("../docs/guide-config.md")).unwrap();
    let files: Vec<_> = guide.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    for file in &files {
        let loaded = world().load(file).unwrap_or_else(|faults| panic!("{file}\n{faults}"));
        assert!(loaded.warnings.is_empty(), "{file}\n{:#?}", loaded.warnings);
    }
    assert!(files.len() >= 4);
}

#[test]
fn what_is_shown_of_an_example_can_be_loaded_again_and_shows_the_same() {
    for file in fs::read_dir(path("examples")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let shown = config(&name).masked_yaml();
        let again = world().load(&shown).unwrap_or_else(|faults| panic!("{name}: {faults}"));
        assert_eq!(again.config.masked_yaml(), shown, "{name}");
    }
}

#[test]
fn another_yaml_reader_reads_the_same() {
    let mut files: Vec<_> = fs::read_dir(path("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(path("gateway.yaml"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (mut root, misread) = compose(&text);
        assert!(misread.is_empty());
        root.as_mut().unwrap().assign_paths(KeyPath::root());
        let ours = serde_json::Value::deserialize(root.as_ref().unwrap()).unwrap();
        assert_eq!(ours, serde_yaml::from_str::<serde_json::Value>(&text).unwrap(), "{}", file.display());
    }
}

#[test]
fn one_pool_without_models_answers_everything() {
    let config = config("minimal.yaml");
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.model("anything").unwrap().targets[0].pool, "main");
}

#[test]
fn the_exact_name_wins_then_the_longest_beginning() {
    let text = "pools: { a: { backends: [http://a:1] } }\n\
                models: { \"*\": { pool: a }, \"q*\": { pool: a }, \"qwen*\": { pool: a }, qwen3: { pool: a } }\n";
    let config = super::loaded(text).config;
    let answers = |name: &str| config.model(name).unwrap().pattern.to_string();
    let answered: Vec<_> = ["qwen3", "qwen3-32b", "quux", "llama"].map(answers).into();
    assert_eq!(answered, ["qwen3", "qwen*", "q*", "*"]);
}

#[test]
fn several_pools_come_in_the_order_of_the_file_with_their_timeouts() {
    let config = config("several-pools.yaml");
    let models: Vec<_> = config.models.iter().map(|model| model.pattern.to_string()).collect();
    assert_eq!(models, ["llama-3.1-8b", "gpt-4o-mini", "qwen*", "experiment", "reasoner"]);
    assert_eq!(config.models[2].pattern, Pattern::Prefix("qwen".to_owned()));
    assert_eq!(config.models[3].targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [9, 1]);
    let small = config.pool("small").unwrap();
    let timeouts = small.timeouts.resolve(&config.timeouts);
    assert_eq!((timeouts.total.as_secs(), timeouts.first_token.as_secs()), (600, 120));
    assert_eq!(small.backends[1].max_in_flight, Some(crate::MaxInFlight::Fixed(64)));
}

#[test]
fn a_backend_key_comes_from_outside_and_is_kept_quiet() {
    let config = config("cloud-overflow-key.yaml");
    let backend = &config.pool("cloud").unwrap().backends[0];
    assert_eq!(backend.key.as_ref().unwrap().expose(), "none");
    assert_eq!((backend.name.as_str(), backend.url.authority.as_str()), ("api.example.com:443", "api.example.com"));
}
