//! `record`: what was asked and answered, kept for those who have to know it later.
//!
//! The filter holds on to what passes, within bounds, and when the request is over hands it to a [`Sink`]: there a thread
//! of its own takes secrets out, makes a record of it and writes it. No request waits for that. Where there is no memory
//! left, the file says whether a request is answered without a record, or not at all.

mod entry;
mod redact;
mod settings;
mod summary;
#[cfg(test)]
mod tests;

use crate::condition::{Condition, Terms};
use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, ResponseFilter, Result, SettingsError, Verdict};
use crate::filters::model_route::unknown_model;
use crate::outbound::Outbound;
use crate::records::{self, Place, Sink, Slot};
use crate::reply::Refusal;
use crate::services::Services;
use async_trait::async_trait;
use bytes::Bytes;
use entry::{Begun, Entry, Told};
use http::StatusCode;
use redact::Redactor;
pub use settings::{Settings, What, WhenFull};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use summary::Summaries;

/// See the module.
pub struct Record {
    rules: Arc<Rules>,
    orgs: BTreeMap<String, What>,
    what: What,
    when: Option<Condition>,
    raw_when: Option<Condition>,
    share: crate::units::Percent,
    when_full: WhenFull,
    turn: AtomicU64,
}

/// What the answer side needs of the filter.
struct Rules {
    sink: Arc<dyn Sink>,
    redactor: Arc<Redactor>,
    summaries: Option<Summaries>,
    outbound: Arc<dyn Outbound>,
    content: usize,
}

impl Record {
    /// What is to be kept of this request.
    async fn wanted(&self, exchange: &mut Exchange) -> What {
        let org = exchange.caller().and_then(|caller| caller.org.as_deref());
        let what = org.and_then(|org| self.orgs.get(org)).copied().unwrap_or(self.what);
        // A golden-ratio walk spreads a small share evenly.
        let drawn = || self.share.has(self.turn.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let meant = match &self.when {
            Some(when) => when.holds(exchange).await,
            None => true,
        };
        if what == What::Off || !meant || !drawn() {
            return What::Off;
        }
        match &self.raw_when {
            Some(raw) if what == What::Summary && raw.holds(exchange).await => What::Full,
            _ => what,
        }
    }

    /// The most that a record of this kind takes.
    fn most(&self, what: What) -> usize {
        let bodies = if matches!(what, What::Full | What::Summary) { 2 * self.rules.content } else { 0 };
        bodies + 1024
    }
}

#[async_trait]
impl Filter for Record {
    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let what = self.wanted(exchange).await;
        if what == What::Off {
            return Ok(Verdict::Continue);
        }
        let slot = match self.when_full {
            WhenFull::Drop => None,
            WhenFull::Refuse => match self.rules.sink.reserve(self.most(what)) {
                Some(slot) => Some(slot),
                None => {
                    self.rules.sink.refused();
                    let message = "What is asked here has to be recorded, and cannot be now. Try again later.";
                    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "record_unavailable", message)
                        .retry_after(std::time::Duration::from_secs(1));
                    return Ok(Verdict::Answer(refusal.reply(exchange.endpoint(), exchange.id())));
                }
            },
        };
        let mut begun = Begun::now(what);
        if matches!(what, What::Full | What::Summary) && exchange.body().len() <= self.rules.content {
            begun.request = Some(exchange.body().clone());
        }
        Ok(Verdict::Follow(Box::new(Recording { begun, slot, rules: self.rules.clone() })))
    }
}

/// One request that leaves a record.
struct Recording {
    begun: Begun,
    slot: Option<Slot>,
    rules: Arc<Rules>,
}

impl ResponseFilter for Recording {
    fn chunk(&mut self, _: &mut Exchange, data: &mut Bytes, _: bool) -> Result<()> {
        if matches!(self.begun.what, What::Full | What::Summary) {
            self.begun.answer.add(data, self.rules.content);
        }
        Ok(())
    }

    fn end(self: Box<Self>, exchange: &Exchange) {
        let Self { begun, slot, rules } = *self;
        let what = begun.what;
        let mut entry = Entry::new(begun, exchange, rules.redactor.clone());
        let weight = entry.weight();
        let Some(mut slot) = slot.or_else(|| rules.sink.reserve(weight)) else { return rules.sink.dropped() };
        slot.shrink(weight);
        if what != What::Summary {
            let all = what == What::Full;
            let draft = move || {
                let told = if all { Told::All(entry.said()) } else { Told::Nothing };
                entry.record(told)
            };
            return rules.sink.put(slot, Box::new(draft));
        }
        let (id, caller) = (exchange.id().clone(), exchange.caller().cloned());
        let outbound = rules.outbound.clone();
        outbound.spawn(Box::pin(async move {
            let said = entry.said();
            let summary = match &rules.summaries {
                Some(summaries) => summaries.of(&said, id, caller, &*rules.sink).await,
                None => Err("nobody"),
            };
            rules.sink.put(slot, Box::new(move || entry.record(Told::Summary(summary))));
        }));
    }
}

impl Plugin for Record {
    const NAME: &'static str = "record";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = judged(&settings, services);
        let terms =
            Terms { lists: &settings.lists, tenants: services.tenants.as_deref(), classifiers: &services.classifiers };
        let mut condition = |name: &str, text: &Option<String>| {
            let read = text.as_deref().map(|text| Condition::read(text, terms)).transpose();
            read.unwrap_or_else(|error| {
                faults.push(SettingsError::at(name, error.to_string()));
                None
            })
        };
        let when = condition("when", &settings.when);
        let raw_when = condition("raw_when", &settings.raw_when);
        let redactor = Redactor::new(&settings.redact).unwrap_or_else(|errors| {
            faults.extend(errors);
            Redactor::default()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        let open = services.shared.records.open(&place(&settings, services));
        let sink = open.map_err(|error| vec![SettingsError::at("to", format!("this cannot be written: {error}"))])?;
        let rules = Rules {
            sink,
            redactor: Arc::new(redactor),
            summaries: settings
                .summary
                .as_ref()
                .map(|of| Summaries::new(of, &settings.name, services.shared.asks.clone())),
            outbound: services.shared.outbound.clone(),
            content: usize::try_from(settings.content.0).unwrap_or(usize::MAX),
        };
        Ok(Self {
            rules: Arc::new(rules),
            orgs: settings.orgs,
            what: settings.what,
            when,
            raw_when,
            share: settings.share,
            when_full: settings.when_full,
            turn: AtomicU64::new(0),
        })
    }
}

/// What is wrong with settings that can be told without opening anything.
fn judged(settings: &Settings, services: &Services) -> Vec<SettingsError> {
    let mut faults = Vec::new();
    let sums_up = settings.what == What::Summary || settings.orgs.values().any(|what| *what == What::Summary);
    match &settings.summary {
        Some(summary) => {
            faults.extend(unknown_model(&services.models, &summary.model, "summary.model"));
            if summary.in_flight == 0 || summary.words == 0 || summary.timeout.0.is_zero() {
                faults.push(SettingsError::at("summary", "with a bound of 0 nothing would ever be summed up"));
            }
        }
        None if sums_up => faults.push(
            SettingsError::at("summary", "nobody writes the summaries").help("such as `summary: { model: small }`"),
        ),
        None => {}
    }
    if settings.share.is_nothing() {
        faults.push(SettingsError::at("share", "nothing would ever be kept").help("leave the filter out"));
    }
    // A record that can never be reserved would be refused, or dropped, each time.
    if settings.memory.0 < 2 * settings.content.0 + 1024 {
        faults.push(SettingsError::at("memory", "this is not enough for one record: twice `content` and a little"));
    }
    let nothing = match &settings.to {
        settings::To::Files(files) => files.size.0 == 0 || files.every.0.is_zero(),
        settings::To::Sqlite(_) => false,
    };
    if nothing {
        faults.push(SettingsError::at("to.files", "with a bound of 0 each record would have a file of its own"));
    }
    if settings.keep.as_ref().is_some_and(|keep| keep.0.is_zero()) {
        faults.push(SettingsError::at("keep", "nothing would be kept"));
    }
    if settings.keep_bytes.as_ref().is_some_and(|bytes| bytes.0 == 0) {
        faults.push(SettingsError::at("keep_bytes", "nothing would be kept"));
    }
    // It is a part of names of files.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if settings.name.is_empty() || settings.name.len() > 64 || !settings.name.bytes().all(plain) {
        faults.push(SettingsError::at("name", "a name has up to 64 letters, digits, `_` and `-`"));
    }
    faults
}

/// What the hashes of a chain are made with, from what the file says.
pub fn chain_key(key: &str) -> [u8; 32] {
    blake3::derive_key("tidegate 2026-11-21 chain of records", key.as_bytes())
}

fn place(settings: &Settings, services: &Services) -> records::To {
    let place = match &settings.to {
        settings::To::Files(files) => Place::Files {
            path: services.files.locate(&files.path),
            size: files.size.0,
            every: files.every.0,
            compress: files.compress,
        },
        settings::To::Sqlite(sqlite) => Place::Sqlite { path: services.files.locate(&sqlite.path) },
    };
    let key = |key: &String| chain_key(key);
    let chain = settings.chain.as_ref().map(|chain| records::Chain { key: chain.key.as_ref().map(key) });
    records::To {
        name: settings.name.as_str().into(),
        place,
        memory: usize::try_from(settings.memory.0).unwrap_or(usize::MAX),
        keep: settings.keep.as_ref().map(|keep| keep.0),
        keep_bytes: settings.keep_bytes.as_ref().map(|bytes| bytes.0),
        chain,
    }
}
