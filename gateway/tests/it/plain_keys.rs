//! A key that somebody wrote into the file, where only its hash may stand: told how to mend it, and shown nowhere.

use crate::backend::Backend;
use crate::client::{Connection, Request};
use crate::gateway::{Folder, Gateway, Key, command, pool_of};

const POOLS: &str = "pools: { main: { backends: [\"http://127.0.0.1:1\"] } }\n";

#[test]
fn check_says_how_to_mend_it_in_whatever_place_and_shows_it_in_none() {
    let (key, folder) = (Key::new("a").key, Folder::new());
    folder.write("list.yaml", &format!("- {key}\n"));
    folder.write("entries.yaml", &format!("- {{ id: a, hash: {key} }}\n"));
    for settings in [
        format!("{{ keys: [ {key} ] }}"),
        format!("{{ keys: {key} }}"),
        key.clone(),
        format!("{{ keys: {{ {key}: ann }} }}"),
        format!("{{ keys: [ {{ {key}: ann }} ] }}"),
        format!("\n      keys:\n        - {key}\n"),
        format!("{{ keys: [ {{ id: a, hash: {{ plain: {key} }} }} ] }}"),
        format!("{{ keys: [ {{ id: a, hash: {key} }} ] }}"),
        format!("{{ keys: [ {{ id: {key}, hash: \"{}\" }} ] }}", "0".repeat(64)),
        format!("{{ {key}: ann }}"),
        "{ keys_file: list.yaml }".to_owned(),
        "{ keys_file: entries.yaml }".to_owned(),
    ] {
        let file = folder.write("gateway.yaml", &format!("{POOLS}filters:\n  - api_key: {settings}\n"));
        for format in ["human", "json"] {
            let output = command(&["check", &file.display().to_string(), "--format", format]);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(!said.contains(&key), "{said}");
            for words in ["here stands a key itself", "`tidegate keys hash`", "`tidegate keys new`"] {
                assert!(said.contains(words), "{settings}: {said}");
            }
        }
    }
    // Also where no filter reads it, and where the file is none.
    for text in [
        format!("{POOLS}{key}: 1\n"),
        format!("{POOLS}tenants: {{ {key}: {{ no: 1 }} }}\n"),
        format!("{POOLS}a: [{key}"),
    ] {
        let file = folder.write("gateway.yaml", &text);
        let output = command(&["check", &file.display().to_string()]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code() == Some(2) && !said.contains(&key), "{said}");
    }
}

#[tokio::test]
async fn a_reload_shows_it_neither_in_the_log_nor_in_its_answer() {
    let (backend, key) = (Backend::start().await, Key::new("a").key);
    let gateway = Gateway::start(&pool_of(&[&backend])).await;
    gateway.rewrite(&format!("{}filters:\n  - api_key: {{ keys: [ {key} ] }}\n", pool_of(&[&backend])));
    let request = Request::new("POST", "/admin/reload").header("connection", "close");
    let answer = Connection::open(gateway.admin_address()).await.exchange(&request).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("here stands a key itself") && !answer.text().contains(&key), "{}", answer.text());
    gateway.log.line(|line| line["message"].as_str().is_some_and(|said| said.contains("refused"))).await;
    let log = gateway.log.text();
    assert!(log.contains("here stands a key itself") && !log.contains(&key), "{log}");
}
