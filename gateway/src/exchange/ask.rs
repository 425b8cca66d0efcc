//! Asks a model of the file on a filter's behalf: the road of a request that no client made, without its filters.

use super::own::{self, Own};
use super::{Route, Session, answer, fetch, finish, relay};
use crate::core::Core;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_plugins::ask::{Answer, Ask, Question};
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::exchange::RequestHead;
use tidegate_plugins::filter::Result;
use tidegate_plugins::{Exchange, ResponseFilter};

/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 << 10;

#[async_trait]
impl Ask for Own {
    async fn ask(&self, question: Question) -> std::result::Result<Answer, String> {
        let core = self.core().ok_or("the gateway does not serve yet")?;
        ask(&core, question).await
    }
}

async fn ask(core: &Core, question: Question) -> std::result::Result<Answer, String> {
    let snapshot = core.snapshot.load_full();
    let model = snapshot.models.resolve(&question.model).ok_or("nobody answers for this model")?;
    let mut route = Route::of_model(model, model.target());
    // A part of what the request that waits for it may take: every wait below ends with it.
    route.timeouts.total = route.timeouts.total.min(question.time);
    let mut session = Session::nobody();
    let mut trip = own::trip(core, snapshot.clone(), &mut session, exchange(&question)?);
    let (event, asker) = question.errand.names();
    trip.record.event = event;
    trip.exchange.note(asker, &*question.asker);
    let collected = Arc::new(Mutex::new(Vec::new()));
    trip.followers.push(Box::new(Collects(collected.clone())));
    own::dress(&mut trip, &route);
    trip.under_way = Some(crate::telemetry::InFlight::new(&route.series.in_flight));
    trip.route = Some(route);
    let road = async {
        let fetched = fetch::fetch(&mut session, &mut trip).await?;
        relay::relay(&mut session, &mut trip, fetched).await
    };
    let answered = match road.await {
        Ok(answered) => answered,
        Err(fault) => answer::fault(&mut session, &mut trip, fault).await,
    };
    let (status, good, usage) = (answered.status, answered.complete && answered.status == 200, trip.record.usage);
    finish::close(&mut trip, answered);
    let error = trip.record.error.clone();
    finish::report(trip);
    if !good {
        return Err(error.map_or_else(|| format!("it answered {status}"), String::from));
    }
    let body = std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Answer { body: body.into(), usage })
}

fn exchange(question: &Question) -> std::result::Result<Exchange, String> {
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let headers = HeaderMap::from_iter([json]);
    let head = RequestHead { method: Method::POST, path: "/v1/chat/completions".into(), query: None, headers };
    let mut exchange = Exchange::new(head, Endpoint::Chat, question.id.clone(), None);
    let call = Call::read(&question.body, Endpoint::Chat).map_err(|fault| fault.to_string())?;
    exchange.replace_body(question.body.clone(), Some(call));
    exchange.send_to(question.model.clone());
    if let Some(caller) = &question.caller {
        exchange.identify(caller.clone());
    }
    Ok(exchange)
}

/// Keeps the body of an answer.
struct Collects(Arc<Mutex<Vec<u8>>>);

impl ResponseFilter for Collects {
    fn chunk(&mut self, _: &mut Exchange, data: &mut Bytes, _: bool) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LONGEST.saturating_sub(all.len());
        all.extend_from_slice(&data[..data.len().min(room)]);
        Ok(())
    }
}
