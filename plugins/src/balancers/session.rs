//! `session`: all requests of one session to the same backend.

use super::choices::{Random, choose, mix};
use crate::balancer::{Balancer, BalancerPlugin, Candidate, Field};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use crate::json;
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

/// Requests in flight that are never too many for one backend.
const ALWAYS: f64 = 4.0;

/// Choices of a session before load alone decides.
const CHOICES: usize = 4;

impl Session {
    /// A number for the session; none if the request belongs to none.
    fn key(&self, exchange: &Exchange) -> Option<u64> {
        self.by.iter().find_map(|by| match by {
            By::Header(name) => exchange.headers().get(name).map(|value| hash(value.as_bytes())),
            By::Caller => {
                let caller = exchange.caller()?;
                let name = [&caller.user, &caller.key, &caller.org].into_iter().find_map(|name| name.as_deref())?;
                Some(hash(name.as_bytes()))
            }
            By::Member(name) => {
                exchange.call()?;
                let value = &exchange.body()[json::member(exchange.body(), name)?];
                // A conversation may be written as its id, or as a table with its id.
                let id = if value.starts_with(b"{") { &value[json::member(value, "id")?] } else { value };
                (id.starts_with(b"\"") && id.len() > 2).then(|| hash(id))
            }
        })
    }
}

/// The same on every gateway.
fn hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The session's best choices, best first, and how many there are. One pass over the members, without the backends.
fn choices(key: u64, field: &dyn Field) -> ([usize; CHOICES], usize) {
    let members = field.members();
    let mut best = [(f32::NEG_INFINITY, 0_usize); CHOICES];
    for (position, member) in members.as_slice().iter().enumerate() {
        let drawn = (mix(key ^ member.id.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 40) as f32;
        // Uniform draws to the power of 1/weight: who weighs twice as much wins twice as often.
        let score = match members.are_alike() {
            true => drawn,
            false => ((drawn + 0.5) / 16_777_216.0).ln() / member.weight as f32,
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
        let chosen = self.key(exchange).and_then(|key| {
            let (choices, count) = choices(key, field);
            let takes = |position: &usize| field.candidate(*position).is_some_and(|one| has_room(*position, &one));
            choices[..count].iter().copied().find(takes)
        });
        chosen.or_else(|| choose(&self.random, field, |_, one, _, other| one.compare(other).is_lt()))
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
        Ok(Self { by, bound: settings.imbalance, random: Random::default() })
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
    fn settings_that_cannot_be_meant_are_refused() {
        let settings = Settings { by: vec!["user".into(), "no header".into()], imbalance: 0.5 };
        let faults = Session::new(settings).unwrap_err();
        let paths: Vec<_> = faults.iter().map(|fault| &*fault.path).collect();
        assert_eq!(paths, ["imbalance", "by[1]"]);
        assert!(Session::new(Settings { by: Vec::new(), ..Settings::default() }).is_err());
    }
}
