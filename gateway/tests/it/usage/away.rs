//! The store is locked or gone: requests go on as before, and nothing of what was used is lost when it is back.

use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

async fn house(backend: &Backend) -> Gateway {
    backend.always(Script::chat("x"));
    Gateway::start(&format!("{}storage: {{ path: store.db }}\n", pool_of(&[backend]))).await
}

async fn asks(gateway: &Gateway, times: usize) {
    let mut connection = gateway.connect().await;
    for _ in 0..times {
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    }
}

/// Requests in the rows of the store, without those in the journal.
fn rows(gateway: &Gateway) -> i64 {
    let store = Connection::open(gateway.folder.path().join("store.db")).unwrap();
    store.query_row("SELECT coalesce(sum(requests), 0) FROM usage", [], |row| row.get(0)).unwrap()
}

async fn until_there_are(gateway: &Gateway, requests: i64) {
    let until = Instant::now() + Duration::from_secs(30);
    while rows(gateway) != requests {
        assert!(Instant::now() < until, "{} instead of {requests}:\n{}", rows(gateway), gateway.log.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_locked_store_holds_nobody_up_and_gets_all_of_it_when_it_is_free() {
    let backend = Backend::start().await;
    let gateway = house(&backend).await;
    asks(&gateway, 5).await;
    until_there_are(&gateway, 5).await;
    let mut other = Connection::open(gateway.folder.path().join("store.db")).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    asks(&gateway, 50).await;
    // Told all the same, out of the journal.
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    assert_eq!(gateway.admin("/admin/usage").await.json()["total"]["requests"], 55);
    assert_eq!(rows(&gateway), 5);
    drop(lock);
    until_there_are(&gateway, 55).await;
    assert_eq!(gateway.metrics().await.sum("tidegate_usage_records_total", &[("outcome", "journal")]), 55.0);
}

#[tokio::test]
async fn a_store_that_is_gone_gets_what_was_used_meanwhile_when_it_is_back() {
    let backend = Backend::start().await;
    let gateway = house(&backend).await;
    asks(&gateway, 3).await;
    until_there_are(&gateway, 3).await;
    let (store, aside) = (gateway.folder.path().join("store.db"), gateway.folder.path().join("aside.db"));
    std::fs::rename(&store, &aside).unwrap();
    asks(&gateway, 20).await;
    let until = Instant::now() + Duration::from_secs(20);
    while gateway.metrics().await.sum("tidegate_usage_failures_total", &[("of", "store")]) == 0.0 {
        assert!(Instant::now() < until, "the store was never missed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::rename(&aside, &store).unwrap();
    until_there_are(&gateway, 23).await;
}
