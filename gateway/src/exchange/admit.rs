//! The filters are asked, in the order of the file, and the request's model becomes a route.

use super::arrive::short;
use super::body::{self, Body};
use super::fail::{Fault, Result, Wait};
use super::{Route, Session, Trip, fetch, query, salt};
use crate::models::Models;
use crate::snapshot::MeasuredFilter;
use crate::telemetry::{Cause, InFlight, Judged, Laps};
use http::StatusCode;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::AskUsage;
use tidegate_plugins::call::{Call, CallFault, Endpoint, Key};
use tidegate_plugins::keys::mask;
use tidegate_plugins::{Refusal, Reply, Verdict};
use tidegate_plugins::{filter, splice};

/// Asks the filters that do not need the body.
///
/// # Errors
/// A filter's own fault.
pub(super) async fn early(session: &mut Session, trip: &mut Trip<'_>) -> Result<Option<Reply>> {
    let snapshot = trip.snapshot.clone();
    let mut laps = Laps::begin();
    for named in &snapshot.early {
        if named.filter.needs_route() {
            settle(trip);
        }
        let verdict = named.filter.request(&mut trip.exchange).await;
        if let Some(reply) = take(session, trip, named, &mut laps, verdict)? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// Asks the other filters. They may wait long, for another request's answer even: the client is watched meanwhile.
///
/// # Errors
/// A filter's own fault, that the client has left, or that its patience or the time for draining is over.
pub(super) async fn late(session: &mut Session, trip: &mut Trip<'_>) -> Result<Option<Reply>> {
    let snapshot = trip.snapshot.clone();
    let patience = trip.patience.unwrap_or(A_DAY);
    let until = (trip.record.started + patience, Wait::Client);
    let mut laps = Laps::begin();
    for named in &snapshot.late {
        if named.filter.needs_route() {
            settle(trip);
        }
        let asked = named.filter.request(&mut trip.exchange);
        let verdict = fetch::wait(trip.core, session, until, asked).await;
        let verdict = verdict.inspect_err(|_| judged(trip, named, Judged::Left, &mut laps))?;
        if let Some(reply) = take(session, trip, named, &mut laps, verdict)? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// Asks those of the other filters that count requests about one that is refused: nobody knocks for free. Their answer
/// stands in place of the refusal.
///
/// # Errors
/// The refusal, or a filter's own fault.
pub(super) async fn refuse(session: &mut Session, trip: &mut Trip<'_>, fault: Fault) -> Result<Reply> {
    if !matches!(fault, Fault::Told { cause: Cause::Validation | Cause::Auth, .. }) {
        return Err(fault);
    }
    let snapshot = trip.snapshot.clone();
    let mut laps = Laps::begin();
    for named in snapshot.late.iter().filter(|named| named.filter.counts_refused()) {
        let verdict = named.filter.request(&mut trip.exchange).await;
        if let Some(reply) = take(session, trip, named, &mut laps, verdict)? {
            return Ok(reply);
        }
    }
    Err(fault)
}

/// How long a client waits that does not say so: longer than anything here takes.
const A_DAY: Duration = Duration::from_secs(86_400);

fn take(
    session: &mut Session,
    trip: &mut Trip<'_>,
    named: &MeasuredFilter,
    laps: &mut Laps,
    verdict: filter::Result<Verdict>,
) -> Result<Option<Reply>> {
    let said = match &verdict {
        Ok(Verdict::Continue) => Judged::Continue,
        Ok(Verdict::Follow(_)) => Judged::Follow,
        Ok(Verdict::Answer(_)) => Judged::Answer,
        Err(_) => Judged::Fault,
    };
    judged(trip, named, said, laps);
    match verdict.map_err(|error| Fault::ours(format!("filter {}: {error}", named.name)))? {
        Verdict::Continue => {}
        Verdict::Follow(follower) => {
            if let Some(audience) = follower.audience() {
                session.share(audience);
            }
            trip.followers.push(follower);
        }
        Verdict::Answer(reply) => return Ok(Some(reply)),
    }
    Ok(None)
}

/// A filter has said this.
fn judged(trip: &mut Trip<'_>, named: &MeasuredFilter, judged: Judged, laps: &mut Laps) {
    let lap = laps.lap();
    named.series.judged(judged, lap);
    trip.record.course.filter(&named.series.name, judged, lap);
}

/// Reads the body as a call, and the model from it.
///
/// # Errors
/// What is wrong with the body.
pub(super) async fn read_call(session: &mut Session, trip: &mut Trip<'_>) -> Result<()> {
    let bytes = body::read_whole(session, trip).await?;
    let endpoint = trip.exchange.endpoint();
    // A chunked body that is no JSON may have been cut short by a chunk size that two servers read differently: what
    // follows on the connection is not to be trusted as a request.
    let chunked = trip.exchange.headers().contains_key(http::header::TRANSFER_ENCODING);
    let (call, outline) = body::large(bytes.len(), || Call::outlined(&bytes, endpoint)).map_err(|fault| {
        let fault = Fault::call(&fault);
        if chunked { fault.closing() } else { fault }
    })?;
    let model: Option<Arc<str>> = call.model(&bytes).map(|model| model.as_ref().into());
    trip.record.stream = call.stream;
    trip.exchange.replace_body(bytes, Some(call));
    trip.exchange.outline_as(outline);
    let optional = !trip.exchange.endpoint().needs_model();
    ask_for(trip, model, optional)
}

/// Reads a form up to its model.
///
/// # Errors
/// What is wrong with the form.
pub(super) async fn read_form(session: &mut Session, trip: &mut Trip<'_>, boundary: &str) -> Result<()> {
    let model = body::read_form(session, trip, boundary).await?;
    let Some(model) = model else { return Err(Fault::call(&CallFault::missing_model())) };
    ask_for(trip, Some(model.into()), false)
}

/// Takes the model from the query, as the realtime API has it.
///
/// # Errors
/// If it is not there.
pub(super) fn read_query(trip: &mut Trip<'_>) -> Result<()> {
    let query = trip.exchange.head().query.as_deref().unwrap_or_default();
    let model = query::model(query)?;
    let Some(model) = model else { return Err(Fault::call(&CallFault::missing_model())) };
    ask_for(trip, Some(model), false)
}

/// Leaves the body to be streamed as it comes.
///
/// # Errors
/// If the client has left.
pub(super) async fn stream_through(session: &mut Session, trip: &mut Trip<'_>) -> Result<()> {
    if matches!(trip.body, Body::Unread) {
        if super::arrive::expects_continue(trip) {
            session.write_continue().await.map_err(|_| Fault::ClientGone)?;
        }
        trip.body = Body::Streamed { held: VecDeque::new(), more: true };
    }
    Ok(())
}

fn ask_for(trip: &mut Trip<'_>, model: Option<Arc<str>>, optional: bool) -> Result<()> {
    let model = model.or_else(|| trip.snapshot.models.default.clone());
    match model {
        Some(model) => {
            trip.record.model_asked = Some(mask(short(&model)).into());
            trip.asked = Some(model.clone());
            trip.exchange.send_to(model);
            Ok(())
        }
        // Endpoints such as /tokenize name no model where a server has only one: so may ours.
        None if optional => match only_model(trip) {
            Some(model) => {
                trip.exchange.send_to(model);
                Ok(())
            }
            None => Err(Fault::call(&CallFault::missing_model())),
        },
        None => Err(Fault::call(&CallFault::missing_model())),
    }
}

/// The name to route by when a request names none and only one pool could answer.
fn only_model(trip: &Trip<'_>) -> Option<Arc<str>> {
    let first = trip.snapshot.models.iter().next()?;
    let mut targets = trip.snapshot.models.iter().flat_map(|model| &model.targets);
    let pool = &targets.next()?.pool;
    targets.all(|target| Arc::ptr_eq(&target.pool, pool)).then(|| first.name.clone())
}

/// Finds who would answer, for a filter that wants to know. What stands in the way is said later, by [`route`], unless a
/// filter sends the request elsewhere before.
fn settle(trip: &mut Trip<'_>) {
    let Some(name) = trip.exchange.model().cloned().filter(|_| trip.exchange.answerer().is_none()) else { return };
    if !may_use(trip, &name) {
        return;
    }
    let snapshot = trip.snapshot.clone();
    let Some(model) = snapshot.models.resolve(&name) else { return };
    let route = Route::of_model(model, model.target());
    trip.exchange.settle_on(Arc::new(route.answerer(&name)));
    trip.settled = Some(route);
}

/// Whether the caller may have what it asks for. Where a filter sends that is the file's own decision, and none of the
/// caller's.
fn may_use(trip: &Trip<'_>, name: &str) -> bool {
    let asked = trip.asked.as_deref().unwrap_or(name);
    trip.exchange.caller().is_none_or(|caller| caller.may_use(asked))
}

/// Finds who answers.
///
/// # Errors
/// 403 if the caller may not use the model, 404 if nobody answers for it.
pub(super) fn route(trip: &mut Trip<'_>) -> Result<()> {
    let snapshot = trip.snapshot.clone();
    let Some(name) = trip.exchange.model().cloned() else {
        // What these paths carry is not read, so it cannot be told which model they ask for.
        if trip.exchange.caller().is_some_and(|caller| caller.models.is_some()) {
            let message = "This key may use certain models only, and not paths on which the model cannot be told.";
            return Err(Fault::refused(Refusal::new(StatusCode::FORBIDDEN, "model_not_allowed", message)));
        }
        let other = snapshot.other_paths.as_ref().ok_or_else(|| Fault::ours("no model and no pool for other paths"))?;
        let (pool, series) = (other.pool.clone(), other.series.clone());
        let timeouts = pool.timeouts;
        trip.under_way = Some(InFlight::new(&series.in_flight));
        trip.route = Some(Route { model: None, pool, series, send_as: None, timeouts, hedging: None });
        return Ok(());
    };
    if !may_use(trip, &name) {
        let asked = trip.asked.as_deref().unwrap_or(&name);
        let message = format!("This key may not use the model '{}'.", short(asked));
        return Err(Fault::refused(Refusal::new(StatusCode::FORBIDDEN, "model_not_allowed", message).param("model")));
    }
    let Some(model) = snapshot.models.resolve(&name) else {
        return Err(unknown_model(trip, &name));
    };
    let settled = trip.settled.take().filter(|_| trip.exchange.answerer().is_some());
    let route = settled.unwrap_or_else(|| Route::of_model(model, model.target()));
    trip.record.model_served = Some(mask(route.served(&name)).into());
    trip.under_way = Some(InFlight::new(&route.series.in_flight));
    trip.route = Some(route);
    Ok(())
}

/// Makes the request what the backends of its route are asked. What is answered without them needs none of it.
pub(super) fn address(trip: &mut Trip<'_>) {
    let Some(route) = trip.route.clone().filter(|route| route.model.is_some()) else { return };
    dress(trip, &route);
    if let Some(served) = &route.send_as {
        super::body::rename_in_form(trip, served);
    }
    if trip.upgrade {
        trip.query = rename_in_query(trip, &route);
    }
}

/// Makes of a call what the backends of `route` are to get.
pub(super) fn dress(trip: &mut Trip<'_>, route: &Route) {
    rename(trip, route);
    ask_usage(trip, route);
}

/// Puts the name the backend knows into the body, and changes nothing else. Also where a filter chose the model.
pub(super) fn rename(trip: &mut Trip<'_>, route: &Route) {
    salt::take_out(trip);
    name(trip, route);
    salt::put_in(trip, route);
}

fn name(trip: &mut Trip<'_>, route: &Route) {
    let (Some(call), Some(model)) = (trip.exchange.call(), trip.exchange.model()) else { return };
    let served = route.send_as.as_ref().unwrap_or(model);
    let body = trip.exchange.body();
    if call.span(Key::Model).is_none() && !trip.exchange.endpoint().needs_model() {
        return;
    }
    if call.model(body).is_some_and(|named| named == **served) {
        return;
    }
    let (renamed, call) = splice::set_model(call, body, served);
    trip.exchange.replace_body(renamed, Some(call));
}

/// Asks what the stream will have cost, where somebody here wants to know and the client did not ask.
fn ask_usage(trip: &mut Trip<'_>, route: &Route) {
    let asks = match route.pool.usage {
        AskUsage::Auto => trip.exchange.needs_usage(),
        AskUsage::Ask => true,
        AskUsage::Off => false,
    };
    let Some(call) = trip.exchange.call().filter(|_| asks) else { return };
    if matches!(call.endpoint, Endpoint::Chat | Endpoint::Completions)
        && let Some((body, call)) = splice::ask_usage(call, trip.exchange.body())
    {
        trip.exchange.replace_body(body, Some(call));
        trip.hides_usage = true;
    }
}

/// The query with the name the backend knows.
fn rename_in_query(trip: &Trip<'_>, route: &Route) -> Option<String> {
    let (query, served) = (trip.exchange.head().query.as_deref()?, route.send_as.as_deref()?);
    let encode = |served| percent_encoding::utf8_percent_encode(served, percent_encoding::NON_ALPHANUMERIC);
    let renamed = query.split('&').map(|pair| match pair.starts_with("model=") {
        true => format!("model={}", encode(served)),
        false => pair.to_owned(),
    });
    Some(renamed.collect::<Vec<_>>().join("&"))
}

/// 404 with the names it may have meant, among those the caller may use.
fn unknown_model(trip: &Trip<'_>, name: &str) -> Fault {
    let may_use = |known: &&str| trip.exchange.caller().is_none_or(|caller| caller.may_use(known));
    let known = trip.snapshot.models.iter().map(|model| &*model.name).filter(may_use);
    let near = Models::near(name, known);
    let hint = match near.is_empty() {
        true => " GET /v1/models lists what there is.".to_owned(),
        false => format!(" Did you mean '{}'?", near.join("', '")),
    };
    let message = format!("The model '{}' does not exist here.{hint}", short(name));
    Fault::refused(Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model"))
}
