//! The clock on the wall is set while the gateway runs: rates do not notice, budgets keep what is spent.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Folder, Gateway, pool_of};

const HOUR: i64 = 3600;

/// A gateway whose wall clock can be set.
struct House {
    gateway: Gateway,
    /// What has to be added to the real time for it to be noon.
    noon: i64,
}

impl House {
    async fn new(backend: &Backend, limits: &str) -> Self {
        let folder = Folder::new();
        let (library, wall) = (folder.path().join("clock.so"), folder.path().join("wall"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(built.unwrap().success());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let noon = 12 * HOUR - now % (24 * HOUR);
        std::fs::write(&wall, noon.to_string()).unwrap();
        let config = format!("{}filters:\n  - limits: [ {limits} ]\n", pool_of(&[backend]));
        let [library, wall] = [library, wall].map(|path| path.display().to_string());
        let gateway = Gateway::start_in(folder, &config, &[("LD_PRELOAD", &*library), ("WALL", &*wall)]).await;
        Self { gateway, noon }
    }

    /// Sets the clock to so many hours after noon.
    fn set(&self, hours: i64) {
        let (file, new) = (self.gateway.folder.path().join("wall"), self.gateway.folder.path().join("wall.new"));
        std::fs::write(&new, (self.noon + hours * HOUR).to_string()).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn status(&self, id: &str) -> u16 {
        self.gateway.send(&Request::chat("m").header("x-request-id", id)).await.status
    }

    async fn left(&self, at: usize) -> i64 {
        let buckets = self.gateway.admin("/admin/limits/global").await.json();
        buckets["buckets"][at]["left"].as_i64().unwrap()
    }
}

#[tokio::test]
async fn an_hour_ahead_or_back_opens_and_blocks_nobody() {
    let backend = Backend::start().await;
    backend.handle(|_| Script::chat("x"));
    let limits = "{ per: global, requests: 10/h, burst: 3 }, { per: global, requests: 100/day, name: day }";
    let house = House::new(&backend, limits).await;
    assert_eq!(house.status("at-noon").await, 200);
    for (hours, id, left) in [(1, "ahead", 1), (-1, "back", 0)] {
        house.set(hours);
        assert_eq!(house.status(id).await, 200, "{id}: there was one left");
        let time = house.gateway.log.request(id).await["time"].as_str().unwrap().to_owned();
        assert!(time.contains(&format!("T{}:", 12 + hours)), "the gateway's clock was not set: {time}");
        assert_eq!(house.left(0).await, left, "{id}: an hour's worth came back, or went");
    }
    for hours in [-1, 0, 1] {
        house.set(hours);
        assert_eq!(house.status("refused").await, 429, "{hours}");
    }
    assert_eq!(house.left(1).await, 97, "the budget of the day has lost what was spent");
}

#[tokio::test]
async fn a_budget_is_not_opened_twice_by_a_clock_that_goes_over_midnight_and_back() {
    let backend = Backend::start().await;
    backend.handle(|_| Script::chat("x"));
    let house = House::new(&backend, "{ per: global, requests: 2/day }").await;
    house.set(11);
    assert_eq!([house.status("a").await, house.status("b").await, house.status("c").await], [200, 200, 429]);
    house.set(13);
    assert_eq!([house.status("d").await, house.status("e").await, house.status("f").await], [200, 200, 429]);
    house.set(11);
    assert_eq!(house.status("g").await, 429, "the day that was opened early is spent");
    house.set(14);
    assert_eq!(house.status("h").await, 429, "as it is when it comes");
    house.set(37);
    assert_eq!(house.status("i").await, 200, "the next one is open");
}
