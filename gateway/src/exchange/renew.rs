//! Fetches an answer for no client: a newer one, behind the back of a kept one that was given although its time was over.
//!
//! Few at a time, and no more wait than a short queue holds: beyond that a renewal is left out, and the next request for
//! the same answer tries again. Each is a request of the gateway's own, with a line in the log and its place in the
//! metrics; no limits are asked about it, and it counts as nobody's.

use super::{Route, Trip, admit, answer, fetch, finish, own, relay};
use crate::core::Core;
use crate::downstream::Session;
use crate::snapshot::Snapshot;
use crate::telemetry::RequestId;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_plugins::{Exchange, ResponseFilter};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

/// Renewals that are fetched at one time.
const AT_ONCE: usize = 8;

/// Renewals that may wait.
const WAITING: usize = 64;

/// A request to be made for no client.
pub(crate) struct Renewal {
    snapshot: Arc<Snapshot>,
    exchange: Exchange,
    route: Route,
    follower: Box<dyn ResponseFilter>,
}

/// Renewals that wait.
pub(crate) struct Renewals {
    sender: Sender<Renewal>,
    receiver: Mutex<Option<Receiver<Renewal>>>,
}

impl Default for Renewals {
    fn default() -> Self {
        let (sender, receiver) = channel(WAITING);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

/// Has an answer fetched for `follower`, some time soon, to the request that `trip` is about.
pub(super) fn later(trip: &Trip<'_>, follower: Box<dyn ResponseFilter>) {
    let Some(route) = trip.route.clone() else { return };
    let exchange = trip.exchange.again(RequestId::new().to_string().into());
    let renewal = Renewal { snapshot: trip.snapshot.clone(), exchange, route, follower };
    // No room: the follower is dropped, and knows by that.
    let _ = trip.core.renewals.sender.try_send(renewal);
}

/// Fetches what waits, until dropped.
pub(crate) async fn run(core: &Arc<Core>) {
    let receiver = core.renewals.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut receiver) = receiver else { return };
    let mut running = JoinSet::new();
    while let Some(renewal) = receiver.recv().await {
        while running.len() >= AT_ONCE {
            running.join_next().await;
        }
        let core = core.clone();
        running.spawn(async move { renew(&core, renewal).await });
    }
}

async fn renew(core: &Core, renewal: Renewal) {
    let Renewal { snapshot, exchange, route, follower } = renewal;
    let mut session = Session::nobody();
    let mut trip = own::trip(core, snapshot, &mut session, exchange);
    (trip.settled, trip.renewal) = (Some(route), true);
    trip.exchange.note("cache", "renewal");
    trip.followers.push(follower);
    let road = async {
        admit::route(&mut trip)?;
        admit::address(&mut trip);
        let fetched = fetch::fetch(&mut session, &mut trip).await?;
        relay::relay(&mut session, &mut trip, fetched).await
    };
    let answered = match road.await {
        Ok(answered) => answered,
        Err(fault) => answer::fault(&mut session, &mut trip, fault).await,
    };
    finish::finish(trip, answered);
}
