//! Who sends fifty times its share delays itself: by the clock on the wall, with a backend that takes so many requests at
//! once and as long for each.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::backend::{Backend, Script};
use crate::client::{Connection, Request};
use crate::gateway::Gateway;

const SLOTS: usize = 8;
const SERVICE: Duration = Duration::from_millis(100);
const ORGANISATIONS: usize = 10;
/// Requests that an organisation keeps going if it keeps to its share: more, together, than there are places.
const SHARE: usize = 2;
const TIME: Duration = Duration::from_secs(4);

/// Sends one request after the other, and tells how long each waited, in milliseconds.
async fn keep_going(mut connection: Connection, organisation: usize, until: Instant) -> Vec<u64> {
    let name = format!("o{organisation}");
    let request = Request::chat("m").header("x-org-id", &name).header("x-user-id", &name);
    let mut waits = Vec::new();
    while Instant::now() < until {
        let answer = connection.exchange(&request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        waits.push(answer.header("x-tidegate-queue-ms").map_or(0, |wait| wait.parse().unwrap()));
    }
    waits
}

/// The median wait of all organisations but the first, while the first keeps so many requests going.
async fn median(of_the_first: usize) -> u64 {
    let backend = Backend::start().await;
    backend.always(Script::new().pause(SERVICE).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let text = format!(
        "trusted_proxies: [127.0.0.1]\nfilters: [{{ trusted_headers: {{}} }}]\npools:\n  main:\n    health: off\n    backends: [{{ url: {}, max_in_flight: {SLOTS} }}]\n",
        backend.url()
    );
    let gateway = Gateway::start(&text).await;
    let until = Instant::now() + TIME;
    let clients = (0..ORGANISATIONS).flat_map(|organisation| {
        let count = if organisation == 0 { of_the_first } else { SHARE };
        std::iter::repeat_n(organisation, count)
    });
    let all = join_all(
        clients
            .map(async |organisation| (organisation, keep_going(gateway.connect().await, organisation, until).await)),
    );
    let all = all.await;
    assert_eq!(backend.most_in_flight(), SLOTS);
    let others = all.into_iter().filter(|(organisation, _)| *organisation > 0);
    // The first of each came before anybody knew whose turn it is.
    let mut waits: Vec<u64> = others.flat_map(|(_, waits)| waits.into_iter().skip(1)).collect();
    waits.sort_unstable();
    waits[waits.len() / 2]
}

/// So often the clock may have been another test's.
const TRIES: usize = 3;

#[tokio::test]
async fn the_median_wait_of_the_others_rises_by_less_than_a_fifth() {
    // In turns: after so long one of the places is free.
    let turn = SERVICE.as_millis() as u64 / SLOTS as u64;
    let mut seen = Vec::new();
    while seen.len() < TRIES {
        let (before, after) = (median(SHARE).await, median(50 * SHARE).await);
        if after <= before + before / 5 + turn {
            return;
        }
        seen.push((before, after));
    }
    panic!("ms before, and while one sends 50 times its share: {seen:?}");
}
