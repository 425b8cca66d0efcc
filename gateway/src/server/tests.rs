use super::*;
use crate::assemble::{Parts, assemble};
use crate::telemetry::{Format, Log, Metrics};
use std::collections::BTreeMap;
use tidegate_config::{ProcessEnvironment, Source, load};
use tidegate_plugins::filter::{Plugin, SettingsError};
use tidegate_plugins::services::Services;
use tidegate_plugins::{Exchange, Filter, Registry, ResponseFilter, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Does not survive the end of a request.
struct Brittle;

impl Plugin for Brittle {
    const NAME: &'static str = "brittle";
    type Settings = BTreeMap<String, String>;

    fn new(_: Self::Settings, _: &Services) -> Result<Self, Vec<SettingsError>> {
        Ok(Self)
    }
}

#[async_trait]
impl Filter for Brittle {
    async fn request(&self, _: &mut Exchange) -> tidegate_plugins::filter::Result<Verdict> {
        Ok(Verdict::Follow(Box::new(Self)))
    }
}

impl ResponseFilter for Brittle {
    fn end(self: Box<Self>, _: &Exchange) {
        panic!("at the very end, as this test wants it");
    }
}

fn core() -> Arc<Core> {
    let text = "filters: [{ brittle: {} }]\npools: { p: { health: off, backends: ['http://127.0.0.1:1'] } }\n";
    let source = Source { name: "test.yaml".to_owned(), text: text.to_owned() };
    let config = load(&source, &ProcessEnvironment).unwrap().config;
    let (registry, metrics) = (Registry::built_in().with::<Brittle>(), Arc::new(Metrics::new()));
    let parts = Parts { registry: &registry, metrics: &metrics, previous: None };
    let snapshot = assemble(&config, &parts).unwrap();
    let counters = (metrics.log_lines_dropped_total.clone(), metrics.log_requests_left_out_total.clone());
    let (log, _) = Log::start(Format::Json, "off", counters.0, counters.1);
    Arc::new(Core::new(Arc::new(snapshot), metrics, log))
}

#[tokio::test]
async fn a_panic_at_the_very_end_of_a_request_is_counted_and_gives_its_place_back() {
    let core = core();
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let served = tokio::spawn(Server::in_memory(core.clone(), far, None));
    near.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.await.expect("the connection's task goes on to its own end");
    assert_eq!((core.metrics.panics_total.get(), core.metrics.in_flight.get(), core.requests.now()), (1, 0, 0));
}
