//! What is asked of usage, by the command line and the admin listener, and what is said to those who ask for what is not.

use serde_json::Value;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Folder, Gateway, command, pool_at, pool_of};

const FILTERS: &str = "trusted_proxies: [127.0.0.1]
storage: { path: store.db }
prices: { currency: EUR, models: { \"*\": { prompt: 1000000 } } }
filters:
  - trusted_headers: { user: x-user, org: x-org, team: null }
";

/// Names that spreadsheets, terminals and query strings take for something else.
const ODD: &str = "a,\"b\" &c";

async fn used() -> Gateway {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let gateway = Gateway::start(&format!(
        "{}models: {{ m: {{ pool: main }}, n: {{ pool: main }} }}\n{FILTERS}",
        pool_of(&[&backend])
    ))
    .await;
    for (model, user, org) in [("m", "ann", "acme"), ("n", "ann", "acme"), ("m", "bob", "acme"), ("m", "cid", ODD)] {
        let request = Request::chat(model).header("x-user", user).header("x-org", org);
        assert_eq!(gateway.send(&request).await.status, 200);
    }
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    gateway
}

fn asked(gateway: &Gateway, arguments: &[&str]) -> (String, String, Option<i32>) {
    let file = gateway.folder.path().join("gateway.yaml").display().to_string();
    let output = command(&[&["usage", "--config", &file], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[tokio::test]
async fn usage_is_told_as_a_table_as_csv_and_as_json_by_whatever_is_asked() {
    let gateway = used().await;
    let (table, _, _) = asked(&gateway, &[]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["org", "model", "requests"], "{table}");
    assert!(lines.iter().any(|line| line[..3] == ["acme", "m", "2"] && *line.last().unwrap() == "6.00"), "{table}");
    assert!(
        lines.last().unwrap()[..2] == ["total", "4"] && *lines.last().unwrap().last().unwrap() == "12.00",
        "{table}"
    );

    let (csv, _, _) = asked(&gateway, &["--by", "org,user", "--since", "1d", "--format", "csv"]);
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(
        rows[0],
        "org,user,requests,again,estimated,prompt_tokens,cached_tokens,completion_tokens,saved_prompt_tokens,saved_completion_tokens,cost"
    );
    assert!(
        rows.contains(&"\"a,\"\"b\"\" &c\",cid,1,0,0,3,0,5,0,0,3.00")
            && rows.contains(&"acme,ann,2,0,0,6,0,10,0,0,6.00"),
        "{csv}"
    );
    assert_eq!(rows.len(), 4);

    let (json, _, _) = asked(&gateway, &["--by", "user", "--org", "acme", "--model", "m", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let names: Vec<_> = json["usage"].as_array().unwrap().iter().map(|row| row["user"].clone()).collect();
    assert_eq!((names, &json["total"]["prompt_tokens"]), (vec!["ann".into(), "bob".into()], &6.into()));
    assert_eq!(json["currency"], "EUR");
    let (nothing, said, code) = asked(&gateway, &["--until", "2020-01-31", "--since", "2020-01-01"]);
    assert_eq!((&*nothing, code), ("", Some(0)));
    assert!(said.contains("2020-01-01"), "{said}");
}

#[tokio::test]
async fn the_admin_listener_tells_the_same_page_by_page() {
    let gateway = used().await;
    let first = gateway.admin("/admin/usage?by=org,user&since=1d&limit=2").await.json();
    let rows = first["usage"].as_array().unwrap();
    assert_eq!((&rows[0]["org"], &rows[1]["user"], rows.len()), (&ODD.into(), &"ann".into(), 2));
    assert_eq!((&first["total"]["requests"], &first["total"]["cost"]), (&4.into(), &12.0.into()));
    let next = first["next"].as_str().unwrap().replace('\u{1f}', "%1f");
    let last = gateway.admin(&format!("/admin/usage?by=org,user&since=1d&limit=2&after={next}")).await.json();
    assert_eq!((last["usage"].as_array().unwrap().len(), &last["next"]), (1, &Value::Null));
    assert_eq!(last["usage"][0]["user"], "bob");
    let odd = gateway.admin("/admin/usage?by=day&org=a,%22b%22%20%26c").await.json();
    assert_eq!((&odd["usage"][0]["requests"], &odd["usage"][0]["day"]), (&1.into(), &odd["until"]));
    for (query, expected) in [
        ("by=colour", "org, team, user"),
        ("since=yesterday", "7d"),
        ("since=1d&until=7d", "before"),
        ("limit=0", "1 to 1000"),
        ("colour=red", "colour"),
    ] {
        let answer = gateway.admin(&format!("/admin/usage?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")), "{query}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(expected), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn who_asks_for_what_is_not_there_is_told_what_to_do() {
    let gateway = used().await;
    for (arguments, code, expected) in [
        (&["--by", "colour"][..], 2, "org, team, user"),
        (&["--since", "soon"], 2, "7d"),
        (&["--format", "yaml"], 2, "table, csv, json"),
        (&["--store", "/nowhere/store.db"], 1, "no such store"),
    ] {
        let (_, said, exit) = asked(&gateway, arguments);
        assert!(exit == Some(code) && said.contains(expected), "{arguments:?}: {exit:?} {said}");
    }
    let output = command(&["usage"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--config"));

    let backend = Backend::start().await;
    let without = Gateway::before(&backend).await;
    let answer = without.admin("/admin/usage").await;
    assert!(answer.status == 404 && answer.json()["detail"].as_str().unwrap().contains("storage"), "{}", answer.text());
}

#[test]
fn a_journal_on_a_disk_and_other_settings_that_make_no_sense_are_faults_of_the_file() {
    let folder = Folder::new();
    for (usage, expected) in [
        ("journal: /proc", "not in memory"),
        ("journal: nowhere", "no directory"),
        ("keep: 1h", "at least one day"),
        ("rows: 0", "1 or more"),
        ("colour: red", "colour"),
    ] {
        let text = format!("storage: {{ path: store.db, usage: {{ {usage} }} }}\n{}", pool_at(&["http://127.0.0.1:1"]));
        let file = folder.write("gateway.yaml", &text);
        let output = command(&["check", &file.display().to_string()]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{usage}: {said}");
    }
}
