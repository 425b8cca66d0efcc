use super::*;
use std::collections::BTreeSet;
use std::path::Path;
use tidegate_plugins::call::Endpoint;

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// A route as the sources have it: its path, and its methods; none where a variable stands for them.
type Route = (String, Vec<&'static str>);

/// All routes of the sources below `folder`.
fn routes(folder: &Path, found: &mut Vec<Route>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routes(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.extend(routes_in(&std::fs::read_to_string(path).unwrap()));
        }
    }
}

fn routes_in(text: &str) -> Vec<Route> {
    let calls = text.split(".route(").skip(1).map(str::trim_start);
    calls
        .filter_map(|call| {
            let (path, rest) = call.strip_prefix('"')?.split_once('"')?;
            let mut depth = 1;
            let end = rest.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            })?;
            let words: Vec<&str> = rest[..end].split(|c: char| !c.is_alphanumeric() && c != '(').collect();
            let says =
                |method: &str| words.iter().any(|word| word.split_once('(').is_some_and(|(name, _)| name == method));
            Some((path.to_owned(), METHODS.into_iter().filter(|method| says(method)).collect()))
        })
        .collect()
}

/// Whether a route answers for a documented path.
fn covers((route, methods): &Route, path: &str, method: &str) -> bool {
    let is_there = match route.split_once("{*") {
        Some((before, _)) => path.starts_with(before) && path.len() > before.len(),
        None => route == path,
    };
    is_there && (methods.is_empty() || methods.contains(&method))
}

#[test]
fn each_route_of_the_admin_listener_has_its_entry_and_each_entry_its_route() {
    let mut there: Vec<Route> = crate::admin::pages().map(|page| (page.to_owned(), vec!["get"])).collect();
    routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin"), &mut there);
    assert!(there.len() > 20, "{there:?}");
    let document = admin();
    let told: Vec<(&String, &String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| (path, method)))
        .collect();
    for (path, method) in &told {
        assert!(there.iter().any(|route| covers(route, path, method)), "there is no route for {method} {path}");
    }
    for (route, methods) in &there {
        for method in if methods.is_empty() { &["any"][..] } else { &methods[..] } {
            let this: Route = (route.clone(), methods.iter().copied().filter(|known| known == method).collect());
            let is_told = told.iter().any(|(path, told)| covers(&this, path, told));
            assert!(is_told, "{method} {route} has no entry in gateway/src/openapi/admin.rs");
        }
    }
}

#[test]
fn each_endpoint_that_is_known_is_told_of_and_no_other() {
    let document = proxied();
    let paths = document["paths"].as_object().unwrap();
    let known = |path: &String| Endpoint::from_path(&path.replace("{what}", "x").replace("{model}", "m"));
    let told: BTreeSet<&str> = paths.keys().map(|path| known(path).expect(path).as_str()).collect();
    let all = [
        "audio",
        "chat",
        "completions",
        "count_tokens",
        "detokenize",
        "embeddings",
        "images",
        "messages",
        "other",
        "rerank",
        "responses",
        "tokenize",
    ];
    assert_eq!(told.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn whatever_is_referred_to_is_there_and_no_name_is_there_twice() {
    for document in [admin(), proxied()] {
        let mut names = BTreeSet::new();
        let mut todo = vec![&document];
        while let Some(value) = todo.pop() {
            if let Some(reference) = value["$ref"].as_str() {
                let at = reference.strip_prefix('#').expect("within the document");
                assert!(document.pointer(at).is_some(), "{reference}");
            }
            if let Some(name) = value["operationId"].as_str() {
                assert!(names.insert(name), "{name}");
            }
            match value {
                Value::Object(members) => todo.extend(members.values()),
                Value::Array(items) => todo.extend(items),
                _ => {}
            }
        }
    }
}
