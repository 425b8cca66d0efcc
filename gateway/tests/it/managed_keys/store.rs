//! The store that managed keys are in: locked, gone, full, not to be written, of another pepper, and after an end of the
//! process.

use super::*;
use crate::gateway::{command_without_rights, free_port};
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_locked_store_is_nothing_to_requests_and_works_again_when_it_is_free() {
    let rig = Rig::new("").await;
    let key = rig.keys(&["new", "--id", "one"]);
    rig.becomes(&key, 200).await;
    let mut other = Store::open(rig.file("store.db")).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    rig.metric_is("tidegate_store_up", &[], 0.0).await;
    rig.serves(&key).await;
    let refused = rig.admin("POST", "/admin/keys", &json!({ "id": "two" })).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert!(refused.json()["detail"].as_str().unwrap().contains("nothing was changed"));
    assert!(rig.gateway.log.text().contains("the store cannot be written"));
    drop(lock);
    rig.metric_is("tidegate_store_up", &[], 1.0).await;
    assert_eq!(rig.admin("POST", "/admin/keys", &json!({ "id": "two" })).await.status, 201);
    assert!(rig.metrics().await.sum("tidegate_store_errors_total", &[]) > 0.0);
}

#[tokio::test]
async fn a_store_that_goes_or_is_none_any_more_takes_no_key_with_it() {
    let rig = Rig::new("").await;
    let key = rig.keys(&["new", "--id", "one"]);
    rig.becomes(&key, 200).await;
    let (here, aside) = (rig.file("store.db"), rig.file("aside.db"));
    std::fs::rename(&here, &aside).unwrap();
    rig.metric_is("tidegate_store_up", &[], 0.0).await;
    rig.serves(&key).await;
    assert_eq!(rig.admin("GET", "/admin/keys", &Value::Null).await.status, 503);

    std::fs::write(&here, "no database at all, and long enough to be seen as none. ".repeat(50)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.serves(&key).await;

    std::fs::remove_file(&here).unwrap();
    std::fs::rename(&aside, &here).unwrap();
    rig.metric_is("tidegate_store_up", &[], 1.0).await;
    let two = rig.keys(&["new", "--id", "two"]);
    rig.becomes(&two, 200).await;
    rig.serves(&key).await;
}

/// The gateway's files grow no further than to so many bytes, as on a disk that is full; or as far as they like again.
fn may_grow_to(gateway: &Gateway, size: &str) {
    let limit = format!("--fsize={size}:");
    let set = std::process::Command::new("prlimit").args(["--pid", &gateway.pid().to_string(), &limit]).status();
    assert!(set.expect("prlimit is part of util-linux").success());
}

#[tokio::test]
async fn a_full_disk_is_nothing_to_keys_and_budgets_and_nothing_is_lost_when_there_is_room_again() {
    let budget = "  - limits: [{ per: key, requests: 10k/month }]\n";
    let mut rig = Rig::new(budget).await;
    let key = rig.keys(&["new", "--id", "one"]);
    rig.becomes(&key, 200).await;
    let left = async |rig: &Rig| {
        let seen = rig.admin("GET", "/admin/limits/key:one", &Value::Null).await.json();
        seen["buckets"][0]["left"].as_u64().unwrap()
    };
    let before = left(&rig).await;
    may_grow_to(&rig.gateway, "0");
    rig.serves(&key).await;
    rig.metric_is("tidegate_store_up", &[], 0.0).await;
    rig.serves(&key).await;
    assert_eq!(left(&rig).await, before - 40);
    let refused = rig.admin("POST", "/admin/keys", &json!({ "id": "two" })).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert!(rig.gateway.log.text().contains("the store cannot be written"), "{}", rig.gateway.log.text());
    may_grow_to(&rig.gateway, "unlimited");
    rig.metric_is("tidegate_store_up", &[], 1.0).await;
    assert_eq!(rig.admin("POST", "/admin/keys", &json!({ "id": "two" })).await.status, 201);
    rig.gateway.signal("TERM");
    assert!(rig.gateway.ended(Duration::from_secs(10)).await.success());
    let folder = std::mem::replace(&mut rig.gateway.folder, Folder::new());
    rig.gateway = Gateway::start_in(folder, &config(&rig.backend, budget), &[]).await;
    assert_eq!(left(&rig).await, before - 40);
}

/// A store with one key in a folder of its own, and that key.
fn stored_in(folder: &Folder, config: &str) -> (PathBuf, String) {
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    let config = config.replace("$ADMIN", &free_port().to_string());
    let file = folder.write("first.yaml", &config).display().to_string();
    let made = command(&["keys", "new", "--id", "one", "--config", &file]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = String::from_utf8_lossy(&made.stdout).lines().next().unwrap().to_owned();
    (folder.path().join("kept"), key)
}

#[tokio::test]
async fn a_store_that_may_only_be_read_lets_its_keys_in_and_says_that_nothing_is_kept() {
    const LIMITS: &str = "  - limits: [{ per: key, requests: 10k/month }]\n";
    for (file, directory, what) in [(0o400, 0o700, "the file"), (0o600, 0o500, "the directory"), (0o400, 0o500, "both")]
    {
        let (backend, folder) = (Backend::start().await, Folder::new());
        backend.always(Script::chat("hello"));
        let config = config(&backend, LIMITS).replace("store.db", "kept/store.db");
        let (kept, key) = stored_in(&folder, &config);
        set_permissions(kept.join("store.db"), Permissions::from_mode(file)).unwrap();
        set_permissions(&kept, Permissions::from_mode(directory)).unwrap();

        let path = folder.path().join("first.yaml").display().to_string();
        let checked = command_without_rights(&["check", &path]);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success() && said.contains("no key could be made or revoked"), "{what}: {said}");
        assert!(said.contains("at: storage.path"), "{what}: {said}");

        let rig = Rig { backend, gateway: Gateway::start_without_rights(folder, &config).await };
        rig.serves(&key).await;
        rig.metric_is("tidegate_store_up", &[], 0.0).await;
        let line =
            rig.gateway.log.line(|line| line["message"].as_str().unwrap_or_default().contains("cannot be written"));
        assert!(line.await["error"].as_str().unwrap().contains("readonly"), "{what}");
        let refused = rig.admin("POST", "/admin/keys", &json!({ "id": "two" })).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{what}: {detail}");
        assert!(detail.contains("nothing was changed") && detail.contains("readonly"), "{what}: {detail}");
        assert_eq!(rig.admin("DELETE", "/admin/keys/one", &Value::Null).await.status, 503, "{what}");
        assert_eq!(rig.admin("GET", "/admin/keys", &Value::Null).await.json()["keys"][0]["id"], "one", "{what}");

        // Once it may be written again, it is, and what somebody else has written meanwhile is seen.
        set_permissions(&kept, Permissions::from_mode(0o700)).unwrap();
        set_permissions(kept.join("store.db"), Permissions::from_mode(0o600)).unwrap();
        for file in std::fs::read_dir(&kept).unwrap() {
            set_permissions(file.unwrap().path(), Permissions::from_mode(0o600)).unwrap();
        }
        let two = rig.keys(&["new", "--id", "two"]);
        rig.becomes(&two, 200).await;
        rig.metric_is("tidegate_store_up", &[], 1.0).await;
        assert_eq!(rig.admin("POST", "/admin/keys", &json!({ "id": "three" })).await.status, 201, "{what}");
    }
}

#[tokio::test]
async fn another_pepper_is_warned_of_by_check_at_the_start_and_at_a_reload() {
    let mut rig = Rig::new("").await;
    let key = rig.keys(&["new", "--id", "one"]);
    rig.becomes(&key, 200).await;
    let (right, file) = (config(&rig.backend, ""), rig.file("gateway.yaml").display().to_string());
    let wrong = right.replace("of-the-test", "of-another-day");
    let check = || String::from_utf8_lossy(&command(&["check", &file]).stdout).into_owned();
    let warning = "1 of 1 managed keys were made with another pepper";
    assert!(!check().contains("pepper: they"), "{}", check());
    rig.gateway.rewrite(&wrong);
    let said = check();
    assert!(said.contains(warning) && said.contains("at: keys.pepper"), "{said}");
    rig.gateway.signal("HUP");
    rig.becomes(&key, 401).await;
    rig.gateway.log.line(|line| line["warning"].as_str().is_some_and(|text| text.contains(warning))).await;
    rig.gateway.signal("TERM");
    assert!(rig.gateway.ended(Duration::from_secs(10)).await.success());
    let folder = std::mem::replace(&mut rig.gateway.folder, Folder::new());
    rig.gateway = Gateway::start_in(folder, &wrong, &[]).await;
    assert!(rig.gateway.log.text().contains(warning), "{}", rig.gateway.log.text());
    // Who is given another secret is let in again.
    let again = rig.keys(&["rotate", "one"]);
    rig.becomes(&again, 200).await;
    assert!(!check().contains(warning), "{}", check());
}

#[tokio::test]
async fn without_a_store_at_the_start_keys_are_not_unknown_but_not_read_yet() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    let rubbish = folder.write("store.db", &"no database at all, and long enough to be seen as none. ".repeat(50));
    let gateway = Gateway::start_in(folder, &config(&backend, ""), &[]).await;
    let rig = Rig { backend, gateway };
    let answer = rig.gateway.send(&Request::chat("m").bearer("sk-somebodys")).await;
    assert_eq!(answer.openai_error(503)["code"], "keys_not_read");
    assert!(answer.header("retry-after").is_some());
    std::fs::remove_file(rubbish).unwrap();
    rig.becomes("sk-somebodys", 401).await;
    assert_eq!(rig.backend.count(), 0);
}

#[tokio::test]
async fn what_was_acknowledged_outlives_the_process_and_reloads() {
    let mut rig = Rig::new(TENANTS).await;
    let made = rig.admin("POST", "/admin/keys", &json!({ "user": "ann" })).await.json();
    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    // Its owner goes from the file, and with a reload the key is of no use; then comes back.
    rig.gateway.rewrite(&config(&rig.backend, "tenants: { acme: { users: [bob] } }\n"));
    rig.gateway.signal("HUP");
    rig.becomes(&key, 403).await;
    let answer = rig.gateway.send(&Request::chat("llama").bearer(&key)).await;
    assert_eq!(answer.openai_error(403)["code"], "unknown_tenant");
    rig.gateway.rewrite(&config(&rig.backend, TENANTS));
    rig.gateway.signal("HUP");
    rig.becomes(&key, 200).await;

    rig.gateway.signal("TERM");
    assert!(rig.gateway.ended(Duration::from_secs(5)).await.success());
    let folder = std::mem::replace(&mut rig.gateway.folder, Folder::new());
    rig.gateway = Gateway::start_in(folder, &config(&rig.backend, TENANTS), &[]).await;
    assert_eq!(rig.status(&key).await, 200, "{id}");
}
