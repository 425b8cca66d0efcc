//! The life of a request, in the order it happens: [`arrive`], [`admit`], [`fetch`], [`relay`]; [`fail`] turns what
//! goes wrong into an answer, [`answer`] writes what the gateway says itself, [`finish`] settles and reports.

mod admit;
mod answer;
mod answer_head;
mod arrive;
mod ask;
mod attempt;
pub(crate) mod body;
pub(crate) mod budget;
mod cors;
mod fail;
mod fallback;
mod fetch;
mod finish;
mod headers;
mod hedge;
mod opening;
pub(crate) mod own;
mod place;
mod query;
mod relay;
pub(crate) mod renew;
mod request;
mod resume;
mod retry;
mod salt;
pub(crate) mod shadow;
mod shed;
mod socket;
mod stream;
mod tally;
mod trailers;
mod whole;
mod wishes;

use crate::core::Core;
use crate::downstream::Session;
use crate::models::{Model, Target};
use crate::networks::Lists;
use crate::snapshot::Snapshot;
use crate::telemetry::{InFlight, Record, Series};
use crate::upstream::hedge::Hedging;
use crate::upstream::{Attempt, Backend, Pool};
use answer::Answered;
use arrive::{Address, Plan};
use body::Body;
use budget::Share;
use bytes::Bytes;
use fail::{Fault, Result};
use futures_util::FutureExt;
use http::HeaderMap;
use resume::Resuming;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tally::Tally;
use tidegate_config::Timeouts;
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::exchange::Outcome;
use tidegate_plugins::multipart::ModelFinder;
use tidegate_plugins::turns::Turns;
use tidegate_plugins::{Answerer, Caller, Exchange, Reply, ResponseFilter, Source};
use wishes::Wishes;

pub(crate) use answer::unreadable_head;
pub(crate) use salt::key as salt_key;

/// One request and everything it holds on its way.
pub(crate) struct Trip<'a> {
    core: &'a Core,
    snapshot: Arc<Snapshot>,
    /// Whether the client's address lets it in, and is known at all.
    address: Address,
    exchange: Exchange,
    /// What it asks of the gateway itself.
    wishes: Wishes,
    /// How long its client waits for an answer, if it says so.
    patience: Option<Duration>,
    record: Record,
    body: Body,
    share: Share,
    /// How full the memory for bodies may be with what this request holds.
    memory: usize,
    /// Whether it is a copy, whose answer is for nobody.
    shadow: bool,
    /// Whether it renews a kept answer: then it is for the caller that its answer is for, and counts for nobody.
    renewal: bool,
    /// In whose protocol the gateway speaks to this client.
    voice: Endpoint,
    /// The backend that was asked last.
    backend: Option<Arc<Backend>>,
    /// What it shows about that backend.
    attempt: Option<Arc<Attempt>>,
    /// The model the client asked for, as it named it.
    asked: Option<Arc<str>>,
    /// The query as the backend gets it, if another than the client's.
    query: Option<String>,
    /// Whether the path is one of an API.
    known: bool,
    /// Whether the client asks for another protocol.
    upgrade: bool,
    followers: Vec<Box<dyn ResponseFilter>>,
    /// What judges the turns on a WebSocket.
    turns: Vec<Box<dyn Turns>>,
    route: Option<Route>,
    /// Where it goes if no filter sends it elsewhere: settled for a filter that wanted to know.
    settled: Option<Route>,
    /// Counts it among the route's requests that are under way.
    under_way: Option<InFlight>,
    /// Where in a form the model's name stands.
    model_in_form: Option<Range<usize>>,
    /// Whether the backend was asked for the usage of its stream, and the client did not ask.
    hides_usage: bool,
    /// Bytes by which the gateway has made the body longer than it came.
    grown: i64,
    /// Reads a form as it is sent on, so that a second model in it does not get past.
    form: Option<ModelFinder>,
    /// Whether the body could be sent once more.
    replayable: bool,
    /// The body as it was before it got a salt that is for one pool's backends only.
    unsalted: Option<(Bytes, Option<Call>)>,
    /// Whether the answer is an event stream, so that a fault can be told in it.
    streaming: bool,
    /// Whether the client has the head of an answer.
    head_sent: bool,
    /// Time spent waiting for the client to send.
    receiving: Duration,
    /// Time spent so far in the queue that it still waits in.
    in_line: Duration,
    /// What the client is told in the place of a failure. Never locked: the mutex makes it a thing that may be looked at
    /// by several, which a body in pieces is not.
    instead: Mutex<Option<Reply>>,
    /// What its stream is continued with if it breaks; none where it is not.
    resuming: Option<Box<Resuming>>,
    /// What was last settled of it, and what of that has been handed over.
    outcome: Option<Outcome>,
    tally: Option<Tally>,
    /// What follows the answer's body.
    trailers: Option<HeaderMap>,
    /// What was asked and answered, where that goes with its trace.
    #[cfg(feature = "otlp")]
    content: Option<Box<crate::telemetry::Content>>,
}

impl Trip<'_> {
    /// Whose request it counts as.
    fn account(&self) -> Option<&Arc<Caller>> {
        self.exchange.caller().filter(|_| !self.renewal)
    }
}

/// Where a request goes.
#[derive(Clone)]
struct Route {
    model: Option<Arc<Model>>,
    pool: Arc<Pool>,
    series: Arc<Series>,
    /// The model's name there, if another than the client asked for.
    send_as: Option<Arc<str>>,
    timeouts: Timeouts,
    /// When a second backend is asked; none: never.
    hedging: Option<Arc<Hedging>>,
}

impl Route {
    fn of_model(model: &Arc<Model>, target: &Target) -> Self {
        Self {
            model: Some(model.clone()),
            pool: target.pool.clone(),
            series: target.series.clone(),
            send_as: target.send_as.clone(),
            timeouts: target.timeouts,
            hedging: target.hedging.clone(),
        }
    }

    /// Who answers for `name` there.
    fn answerer(&self, name: &Arc<str>) -> Answerer {
        let model = self.send_as.as_ref().unwrap_or(name).clone();
        let revision = crate::upstream::revision::of_pool(&self.pool, &model);
        let route = self.model.as_ref().map_or_else(|| self.name().into(), |model| model.name.clone());
        Answerer { route, pool: self.pool.name.clone(), model, revision }
    }

    /// The name by which its backends know the model `name`.
    fn served<'a>(&'a self, name: &'a Arc<str>) -> &'a str {
        self.send_as.as_ref().unwrap_or(name)
    }

    /// Its name in metrics and logs.
    fn name(&self) -> &str {
        self.model.as_ref().map_or("other_paths", |model| &model.name)
    }
}

/// Answers the request that `session` has read the head of. When this returns, the answer is complete, or the
/// session is not to be used again.
pub(crate) async fn serve(core: &Core, session: &mut Session, clients: &Lists) {
    let mut trip = arrive::begin(core, core.snapshot.load_full(), session, clients);
    if core.is_draining() {
        session.close_after();
    }
    let road = AssertUnwindSafe(road(session, &mut trip)).catch_unwind().await;
    let answered = match road {
        Ok(Ok(answered)) => answered,
        Ok(Err(fault)) => answer::fault(session, &mut trip, fault).await,
        Err(_) => {
            core.metrics.panics_total.inc();
            answer::fault(session, &mut trip, Fault::ours("a panic; see the log above").closing()).await
        }
    };
    // Others have the answer; its own client did not wait for it.
    let answered = if session.is_gone() { answered.gone() } else { answered };
    if session.is_gone() {
        session.shutdown().await;
    }
    finish::finish(trip, answered);
}

/// The road of one request, from its head to the last byte of its answer.
async fn road(session: &mut Session, trip: &mut Trip<'_>) -> Result<Answered> {
    let mut plan = arrive::plan(trip)?;
    if let Plan::Reply(reply) = plan {
        return answer::reply(session, trip, reply).await;
    }
    if let Some(reply) = admit::early(session, trip).await? {
        return answered(session, trip, reply).await;
    }
    let known = shed::early(trip, &plan)?;
    let began = Instant::now();
    let read = match &mut plan {
        Plan::Nowhere(fault) => Err(std::mem::replace(fault, Fault::ClientGone)),
        Plan::Call => admit::read_call(session, trip).await,
        Plan::Form { boundary } => Box::pin(admit::read_form(session, trip, boundary)).await,
        Plan::Socket => admit::read_query(trip),
        Plan::Opaque => admit::stream_through(session, trip).await,
        Plan::Reply(_) | Plan::Models | Plan::Model(_) => Ok(()),
    };
    if matches!(plan, Plan::Call | Plan::Form { .. }) {
        trip.record.course.body(began);
    }
    #[cfg(feature = "otlp")]
    if let Some(content) = &mut trip.content {
        content.asked(trip.exchange.body());
    }
    if let Err(fault) = read {
        let reply = admit::refuse(session, trip, fault).await?;
        return answer::reply(session, trip, reply).await;
    }
    if let Some(reply) = admit::late(session, trip).await? {
        return answered(session, trip, reply).await;
    }
    if !known {
        shed::late(trip)?;
    }
    match plan {
        Plan::Models => return answer::models(session, trip, None).await,
        Plan::Model(id) => return answer::models(session, trip, Some(id)).await,
        _ => admit::route(trip)?,
    }
    // Of what the client sent, before it is made what this route's backends get.
    let copies = shadow::take(trip);
    admit::address(trip);
    // A filter may have waited long: nothing is begun for which there is no time.
    if trip.core.has_cut() {
        return Err(Fault::leaving());
    }
    socket::judges(trip);
    shadow::send(trip, copies);
    let fetched = fetch::fetch(session, trip).await?;
    relay::relay(session, trip, fetched).await
}

/// A filter has the answer. What stands for a backend's answer is for those only who may ask the backend.
async fn answered(session: &mut Session, trip: &mut Trip<'_>, mut reply: Reply) -> Result<Answered> {
    if reply.source != Source::Gateway {
        admit::route(trip)?;
    }
    if let Some(renewal) = reply.renewal.take() {
        renew::later(trip, renewal.0);
    }
    answer::reply(session, trip, reply).await
}
