//! Very many clients behind one proxy: each has a bucket, all of them fit, and those that are idle are forgotten.
//!
//! Twenty thousand of them with the other tests; a million with `make hammer`, which also prints what they took.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::{PATIENCE, tell, time};
use crate::backend::Backend;
use crate::client::{Connection, Request};
use crate::flights::resident;
use crate::gateway::{Gateway, pool_of};

/// Connections of the proxy, and requests that are under way on each.
const CONNECTIONS: u32 = 8;
const AT_A_TIME: u32 = 64;

/// What a million may take, in bytes.
const MOST: usize = 150 << 20;

/// These clients ask once each, over one connection of the proxy.
async fn ask(gateway: SocketAddr, clients: std::ops::Range<u32>) {
    let mut connection = Connection::open(gateway).await;
    for first in clients.clone().step_by(AT_A_TIME as usize) {
        let some = first..clients.end.min(first + AT_A_TIME);
        let request = |client: u32| {
            let address = Ipv4Addr::from(Ipv4Addr::new(20, 0, 0, 0).to_bits() + client).to_string();
            Request::get("/v1/models/m").header("X-Forwarded-For", &address).bytes()
        };
        connection.send(some.clone().map(request).collect::<Vec<_>>().concat()).await;
        for client in some {
            assert_eq!(connection.answer_to("GET").await.status, 200, "client {client}");
        }
    }
}

async fn all(gateway: SocketAddr, clients: std::ops::Range<u32>) {
    let each = (clients.end - clients.start).div_ceil(CONNECTIONS);
    let some = (0..CONNECTIONS).map(|n| clients.start + n * each..clients.end.min(clients.start + (n + 1) * each));
    let tasks: Vec<_> = some.map(|some| tokio::spawn(ask(gateway, some))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_addresses_fit_and_those_that_are_idle_are_forgotten() {
    let clients = if time().as_secs() < 10 { 20_000 } else { 1_000_000 };
    let backend = Backend::start().await;
    let limits = "{ per: ip, requests: 1/h, name: kept }, { per: ip, requests: 1/s, name: fleeting }";
    let lines = format!(
        "log: {{ format: json, level: warn }}\ntrusted_proxies: [127.0.0.1]\n{}models: {{ m: {{ pool: main }} }}\nfilters:\n  - limits: [ {limits} ]\n",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&lines).await;
    // What any request needs is there before it is measured.
    all(gateway.address(), clients..clients + 2_000).await;
    let (before, began) = (resident(gateway.pid()), Instant::now());
    all(gateway.address(), 0..clients).await;
    let (took, grown) = (began.elapsed(), resident(gateway.pid()).saturating_sub(before));
    let subjects = async |limit: &str| gateway.metrics().await.sum("tidegate_limit_subjects", &[("limit", limit)]);
    assert_eq!(subjects("kept/requests").await, f64::from(clients + 2_000));
    let at_the_end = subjects("fleeting/requests").await;
    // Who has asked is known, and has nothing left.
    let again = Request::get("/v1/models/m").header("X-Forwarded-For", "20.0.0.7");
    let refused = gateway.send(&again).await.openai_error(429);
    assert!(refused["message"].as_str().unwrap().contains("kept/requests allows address 20.0.0.7 1/h"), "{refused}");
    // One after the other goes on asking; the others are forgotten where they are idle. It takes sixteen seconds to look at
    // all; with the other tests, half of them will do.
    let few = if clients < 1_000_000 { f64::from(clients) / 2.0 } else { 1_000.0 };
    let (until, mut next) = (Instant::now() + PATIENCE * 4, clients + 2_000);
    while subjects("fleeting/requests").await > few {
        assert!(Instant::now() < until, "{} are not forgotten", subjects("fleeting/requests").await);
        ask(gateway.address(), next..next + 1).await;
        next += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tell(&format!(
        "{clients} addresses in {:.1} s: {:.1} MiB more resident, {:.0} bytes each; {at_the_end} of the idle still there at the end, next to none after {:.1} s",
        took.as_secs_f64(),
        grown as f64 / 1_048_576.0,
        grown as f64 / f64::from(clients),
        (began.elapsed() - took).as_secs_f64()
    ));
    assert!(grown < MOST, "{grown} bytes more for {clients} addresses");
}
