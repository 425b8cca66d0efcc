//! `session`: all requests of one session to the same backend.

use super::choices::{Random, choose};
use super::prefix_affinity::tree::Tree;
use crate::balancer::{Balancer, BalancerPlugin, Candidate, Field};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use crate::json;
use crate::store::Clock;
use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

/// What belongs together goes to one backend, by rendezvous hashing: when a backend comes or goes, only its own sessions
/// move, and several gateways agree without talking. A backend that has more than its share of the requests in flight is
/// passed over for the session's next choice. Requests of no session go to the less busy of two.
#[derive(Debug)]
pub struct Session {
    by: Vec<By>,
    bound: f64,
    random: Random,
    /// Which backend gave which answer.
    answers: Tree,
    clock: Clock,
}

/// What belongs together goes to one backend, by rendezvous hashing. When a backend comes or goes, only its own sessions
/// move, and several gateways agree without talking. Requests of no session go to the less busy of two.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What names the session; the first that a request has counts. `conversation`, `previous_response_id`,
    /// `prompt_cache_key` and `user` are members of the body, `caller` is who the identity filter found, and anything else
    /// is the name of a header.
    #[schemars(length(min = 1))]
    pub by: Vec<String>,
    /// How many times its share of the requests in flight a backend may have and still be given its sessions' requests.
    #[schemars(range(min = 1.05, max = 100.0))]
    pub imbalance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        let by = ["x-session-id", "conversation", "previous_response_id", "prompt_cache_key", "user"];
        Self { by: by.map(str::to_owned).into(), imbalance: 1.5 }
    }
}

const MEMBERS: [&str; 4] = ["conversation", "previous_response_id", "prompt_cache_key", "user"];

#[derive(Debug)]
enum By {
    Member(&'static str),
    Caller,
    Header(HeaderName),
}

/// Answers whose backend is remembered, 16 bytes each.
const ANSWERS: usize = 1 << 16;

/// The member that refers to an answer.
const PREVIOUS: &str = "previous_response_id";

/// Requests in flight that are never too many for one backend.
const ALWAYS: f64 = 4.0;

/// Choices of a session before load alone decides.
const CHOICES: usize = 4;

impl Session {
    /// A number for the session, and whether it refers to an answer; none if the request belongs to none.
    fn key(&self, exchange: &Exchange) -> Option<(u64, bool)> {
        self.by.iter().find_map(|by| match by {
            By::Header(name) => exchange.headers().get(name).map(|value| (hash(value.as_bytes()), false)),
            By::Caller => {
                let caller = exchange.caller()?;
                let name = [&caller.user, &caller.key, &caller.org].into_iter().find_map(|name| name.as_deref())?;
                Some((hash(name.as_bytes()), false))
            }
            By::Member(name) => {
                exchange.call()?;
                let value = &exchange.body()[json::member(exchange.body(), name)?];
                // A conversation may be written as its id, or as a table with its id.
                let id = if value.starts_with(b"{") { &value[json::member(value, "id")?] } else { value };
                (id.starts_with(b"\"") && id.len() > 2).then(|| (hash(id), *name == PREVIOUS))
            }
        })
    }
}

/// The same on every gateway.
fn hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte)).max(1)
}

/// The session's best choices, best first, and how many there are. One pass over the members, without the backends.
fn choices(key: u64, field: &dyn Field) -> ([usize; CHOICES], usize) {
    let members = field.members();
    let mut best = [(f32::NEG_INFINITY, 0_usize); CHOICES];
    for (position, spread) in members.spread().iter().enumerate() {
        // Both are spread already: one multiplication brings every bit of both to the top.
        let drawn = ((key ^ spread).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32;
        // Uniform draws to the power of 1/weight: who weighs twice as much wins twice as often.
        let score = match members.are_alike() {
            true => drawn,
            false => ((drawn + 0.5) / 16_777_216.0).ln() / members.as_slice()[position].weight as f32,
        };
        if score > best[CHOICES - 1].0 {
            let place = best.partition_point(|(known, _)| *known >= score);
            best[place..].rotate_right(1);
            best[place] = (score, position);
        }
    }
    (best.map(|(_, position)| position), members.len().min(CHOICES))
}

impl Balancer for Session {
    fn pick(&self, exchange: &Exchange, field: &dyn Field) -> Option<usize> {
        let has_room = |position: usize, candidate: &Candidate| {
            let fair = (field.in_flight() as f64 + 1.0) * field.members().share(position) * self.bound;
            candidate.in_flight as f64 + 1.0 <= fair.max(ALWAYS)
        };
        let takes = |position: &usize| field.candidate(*position).is_some_and(|one| has_room(*position, &one));
        let chosen = self.key(exchange).and_then(|(key, is_answer)| {
            // Who gave an answer has what it was made of.
            let gave = if is_answer { self.answers.last(key) } else { None };
            if let Some(position) = gave.and_then(|member| field.members().position(member)).filter(takes) {
                return Some(position);
            }
            let (choices, count) = choices(key, field);
            choices[..count].iter().copied().find(takes)
        });
        chosen.or_else(|| choose(&self.random, field, |_, one, _, other| one.compare(other).is_lt()))
    }

    fn answered(&self, member: u64, id: &[u8]) {
        self.answers.note(hash(id), member, self.now());
    }
}

impl Session {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl BalancerPlugin for Session {
    const NAME: &'static str = "session";
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        if !(1.05..=100.0).contains(&settings.imbalance) {
            faults.push(SettingsError::at("imbalance", "`imbalance` is 1.05 to 100 times a backend's share"));
        }
        if settings.by.is_empty() {
            let help = "leave it out for x-session-id, the conversation and the user";
            faults.push(SettingsError::at("by", "nothing would name a session").help(help));
        }
        let mut by = Vec::new();
        for (index, name) in settings.by.iter().enumerate() {
            match (MEMBERS.iter().find(|member| *member == name), HeaderName::try_from(name)) {
                (Some(member), _) => by.push(By::Member(member)),
                (None, _) if name == "caller" => by.push(By::Caller),
                (None, Ok(header)) => by.push(By::Header(header)),
                (None, Err(_)) => {
                    let message = format!("`{name}` is neither a header's name nor one of the members that are read");
                    faults.push(SettingsError::at(format!("by[{index}]"), message));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (random, answers, clock) = (Random::default(), Tree::new(ANSWERS), Clock::default());
        Ok(Self { by, bound: settings.imbalance, random, answers, clock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Backends};

    fn session() -> Session {
        Session::new(Settings::default()).unwrap()
    }

    fn of(id: usize) -> Exchange {
        testing::exchange_with(r#"{"model":"m"}"#, &[("x-session-id", &format!("s{id}"))])
    }

    fn homes(session: &Session, field: &Backends, sessions: usize) -> Vec<usize> {
        (0..sessions).map(|id| session.pick(&of(id), field).unwrap()).collect()
    }

    #[test]
    fn a_session_stays_and_sessions_spread() {
        let (session, field) = (session(), Backends::busy(&[0; 5]));
        let first = homes(&session, &field, 1000);
        assert_eq!(first, homes(&session, &field, 1000));
        for position in 0..5 {
            let count = first.iter().filter(|home| **home == position).count();
            assert!((150..250).contains(&count), "{position}: {count}");
        }
    }

    #[test]
    fn only_the_sessions_of_a_backend_that_goes_move() {
        let (session, mut field) = (session(), Backends::busy(&[0; 5]));
        let before = homes(&session, &field, 1000);
        field.closed.insert(3);
        let after = homes(&session, &field, 1000);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 3));
        assert!(!after.contains(&3));
    }

    #[test]
    fn weights_are_shares_of_the_sessions() {
        let count = |position: usize| {
            let homes = homes(&session(), &Backends::weighing(&[3, 1]), 2000);
            homes.iter().filter(|home| **home == position).count()
        };
        assert!((1400..1600).contains(&count(0)), "{}", count(0));
    }

    #[test]
    fn a_backend_with_too_much_is_passed_over_for_the_next_choice_and_always_the_same() {
        let (session, mut field) = (session(), Backends::busy(&[0; 4]));
        let home = session.pick(&of(1), &field).unwrap();
        field.list[home].in_flight = 8;
        let next = session.pick(&of(1), &field).unwrap();
        assert_ne!(next, home);
        assert!((0..20).all(|_| session.pick(&of(1), &field) == Some(next)));
        field.list.iter_mut().for_each(|one| one.in_flight = 8);
        assert_eq!(session.pick(&of(1), &field), Some(home), "where all are busy, none is too busy");
    }

    #[test]
    fn members_of_the_body_and_the_caller_name_sessions_too() {
        let key = |by: &[&str], body: &str| {
            let settings = Settings { by: by.iter().map(|name| (*name).to_owned()).collect(), ..Settings::default() };
            Session::new(settings).unwrap().key(&testing::exchange(body))
        };
        let table = key(&["conversation"], r#"{"conversation":{"id":"c1"},"messages":[]}"#);
        assert!(table.is_some());
        assert_eq!(table, key(&["conversation"], r#"{"conversation":"c1"}"#));
        assert!(key(&["user"], r#"{"model":"m","user":"u"}"#).is_some());
        assert_eq!(key(&["user"], r#"{"model":"m","user":""}"#), None);
        assert_eq!(key(&["caller"], r#"{"model":"m","user":"u"}"#), None, "nobody has said who it is");
    }

    #[test]
    fn a_request_that_refers_to_an_answer_goes_to_whoever_gave_it() {
        let (session, field) = (session(), Backends::busy(&[0; 8]));
        for turn in 0..20 {
            let id = format!(r#""resp_{turn}""#);
            session.answered(field.members().as_slice()[turn % 8].id, id.as_bytes());
            let next = testing::exchange(&format!(r#"{{"model":"m","previous_response_id":{id}}}"#));
            assert_eq!(session.pick(&next, &field), Some(turn % 8), "{turn}");
        }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let settings = Settings { by: vec!["user".into(), "no header".into()], imbalance: 0.5 };
        let faults = Session::new(settings).unwrap_err();
        let paths: Vec<_> = faults.iter().map(|fault| &*fault.path).collect();
        assert_eq!(paths, ["imbalance", "by[1]"]);
        assert!(Session::new(Settings { by: Vec::new(), ..Settings::default() }).is_err());
    }
}
