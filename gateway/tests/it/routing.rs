//! Rules that choose the model: by what a request is, by who sends it, by weight.

use crate::backend::Backend;
use crate::client::Request;
use crate::gateway::{Gateway, Key, command, pool_at};

fn config(small: &Backend, large: &Backend, rules: &str, more: &str) -> String {
    let (small, large) = (small.url(), large.url());
    format!(
        "pools:\n  small: {{ health: off, backends: [{small}] }}\n  large: {{ health: off, backends: [{large}] }}\n\
         models:\n  small: {{ pool: small, as: tiny }}\n  large: {{ pool: large }}\n\
         filters:\n{more}  - model_route:\n      lists: {{ beta: [acme] }}\n      rules:\n{rules}"
    )
}

#[tokio::test]
async fn a_request_goes_where_its_features_say_and_is_answered_under_the_name_it_asked_for() {
    let (small, large) = (Backend::start().await, Backend::start().await);
    let rules = "        - { when: has_tools or prompt_tokens > 100, model: large }\n        - { model: small }\n";
    let gateway = Gateway::start(&config(&small, &large, rules, "")).await;
    let long = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(200));
    for (body, at_large) in [
        (r#"{"model":"auto","messages":[]}"#.to_owned(), false),
        (r#"{"model":"auto","messages":[],"tools":[{"type":"function"}]}"#.to_owned(), true),
        (long, true),
    ] {
        let (backend, served) = if at_large { (&large, "large") } else { (&small, "tiny") };
        let before = backend.count();
        let request = Request::post("/v1/chat/completions", body.clone()).header("x-request-id", "routed");
        let answer = gateway.send(&request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = backend.seen(before).await;
        assert_eq!(seen.model(), served);
        // Nothing but the name is another.
        let sent = String::from_utf8(seen.body.to_vec()).unwrap();
        assert_eq!(sent.replace(&format!("\"{served}\""), "\"auto\""), body);
    }
    assert_eq!((small.count(), large.count()), (1, 2));
    assert!(gateway.log.request("routed").await.to_string().contains("routed_by"));
}

#[tokio::test]
async fn a_key_may_ask_for_a_name_and_be_sent_where_the_file_says() {
    let (small, large) = (Backend::start().await, Backend::start().await);
    let (acme, other) = (Key::new("a"), Key::new("b"));
    let keys = format!(
        "  - api_key:\n      keys:\n        - {{ id: a, hash: {}, org: acme, models: [auto] }}\n        - {{ id: b, hash: {}, org: other, models: [auto] }}\n",
        acme.hash, other.hash
    );
    let rules = "        - { when: org in beta, model: large }\n        - { when: model == \"auto\", model: small }\n";
    let gateway = Gateway::start(&config(&small, &large, rules, &keys)).await;
    assert_eq!(gateway.send(&Request::chat("auto").bearer(&acme.key)).await.status, 200);
    assert_eq!((small.count(), large.count()), (0, 1));
    assert_eq!(gateway.send(&Request::chat("auto").bearer(&other.key)).await.status, 200);
    assert_eq!((small.count(), large.count()), (1, 1));
    // But not for a model that it was not given.
    let error = gateway.send(&Request::chat("large").bearer(&other.key)).await.openai_error(403);
    assert_eq!(error["code"], "model_not_allowed");
}

#[tokio::test]
async fn a_feature_is_on_for_an_organisation_and_off_for_one_of_its_users() {
    let (small, large) = (Backend::start().await, Backend::start().await);
    let keys =
        ["user: ann", "user: bob", "user: eve", "user: eve, flags: { beta: true }"].map(|is| (is, Key::new("k")));
    let mut more = "  - api_key:\n      keys:\n".to_owned();
    for (index, (is, key)) in keys.iter().enumerate() {
        more += &format!("        - {{ id: k{index}, hash: {}, {is} }}\n", key.hash);
    }
    let rules = "        - { when: flag(\"beta\"), model: large }\n        - { model: small }\n";
    let tenants = "tenants:\n  acme: { flags: { beta: true }, users: { ann: {}, bob: { flags: { beta: false } } } }\n  \
                   globex: { users: [eve] }\n";
    let gateway = Gateway::start(&(tenants.to_owned() + &config(&small, &large, rules, &more))).await;
    for ((is, key), at_large) in keys.iter().zip([1, 0, 0, 1]) {
        let before = large.count();
        assert_eq!(gateway.send(&Request::chat("auto").bearer(&key.key)).await.status, 200);
        assert_eq!(large.count() - before, at_large, "{is}");
    }
}

#[test]
fn check_points_at_what_is_wrong_in_a_condition() {
    let folder = crate::gateway::Folder::new();
    let rules = "filters:\n  - model_route:\n      rules:\n        - { when: has_toys, model: m }\n        - { when: flag(\"betta\"), model: m }\n        - { when: stream, model: none }\n";
    let models = "models: { m: { pool: main } }\n";
    let file = folder.write(
        "gateway.yaml",
        &format!(
            "{}{models}tenants: {{ acme: {{ flags: {{ beta: true }} }} }}\n{rules}",
            pool_at(&["http://127.0.0.1:1"])
        ),
    );
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("there is no `has_toys` to look at")
            && said.contains("nobody in `tenants` has a flag `betta`: there is beta")
            && said.contains("the file has no model 'none'"),
        "{said}"
    );
}

#[test]
fn explain_knows_the_names_that_only_rules_know() {
    let folder = crate::gateway::Folder::new();
    let file = "listen: 127.0.0.1:0\npools:\n  p: { backends: [\"http://127.0.0.1:1\"] }\n  q: { backends: [\"http://127.0.0.1:2\"] }\n\
        models:\n  small: { pool: p, as: tiny }\n  large: { pool: q, fallback: [{ pool: p, as: tiny }] }\nfilters:\n  - model_route:\n      rules:\n\
        \x20       - { name: heavy, when: model == \"auto\" and has_tools, model: large }\n\
        \x20       - { name: canary, when: model == \"auto\", split: { small: 95, large: 5 }, sticky: { header: x-s } }\n";
    let file = folder.write("gateway.yaml", file).display().to_string();
    let tools = r#"{"model":"auto","messages":[],"stream":true,"tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let tools = folder.write("tools.json", tools).display().to_string();
    let nameless = folder.write("nameless.json", r#"{"messages":[]}"#).display().to_string();
    let explain = |more: &[&str]| {
        let output = command(&[&["explain", "--config", &*file, "--format", "json"], more].concat());
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let pools = |told: &serde_json::Value| {
        let share = |target: &serde_json::Value| (target["share"].as_f64().unwrap() * 100.0).round();
        let targets = told["targets"].as_array().unwrap().iter();
        targets.map(|target| (target["pool"].as_str().unwrap().to_owned(), share(target))).collect::<Vec<_>>()
    };
    let told = explain(&["--model", "auto"]);
    assert_eq!(
        (pools(&told), &told["refused"]),
        (vec![("q".into(), 5.0), ("p".into(), 95.0)], &serde_json::Value::Null)
    );
    // The body says which model, and that it is a stream.
    for more in [vec!["--body", &*tools], vec!["--body", &*tools, "--model", "auto"]] {
        let told = explain(&more);
        assert_eq!((pools(&told), &told["request"]["stream"]), (vec![("q".into(), 100.0)], &true.into()));
        assert_eq!(told["fallback"].as_array().unwrap().len(), 1, "{told}");
        assert!(told["model"]["why"].as_str().unwrap().contains("a filter sends it there"), "{told}");
    }
    let one = explain(&["--model", "auto", "--header", "x-s: me"]);
    assert_eq!((pools(&one).len(), pools(&one)[0].1), (1, 100.0), "who is known goes one way: {one}");
    assert_eq!(explain(&["--body", &nameless])["refused"]["status"], 400);
    assert_eq!(explain(&["--model", "nobody"])["refused"]["status"], 404);
    assert_eq!(pools(&explain(&["--model", "small"])), [("p".into(), 100.0)]);
}
