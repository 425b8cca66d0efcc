//! Where flights are found, by the filter that shares them: it outlives a reload that does not change the filter.

use super::Settings;
use crate::cache_key::KeyMaker;
use crate::flight::{Counts, Flights};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The flights of one filter, and the keys that they are found by.
pub struct Airspace {
    pub(super) keys: KeyMaker,
    pub(super) flights: Arc<Flights>,
}

/// The airspaces of all filters. The same for every version of the configuration.
#[derive(Default)]
pub struct Airspaces(Mutex<Vec<Known>>);

struct Known {
    settings: Settings,
    nth: usize,
    airspace: Weak<Airspace>,
}

impl Airspaces {
    /// That of the filter with these settings that has `nth` others like it above: two in one list share none, or a
    /// request would wait for itself.
    pub(super) fn open(
        &self,
        settings: &Settings,
        nth: usize,
        counts: &Arc<Counts>,
    ) -> Result<Arc<Airspace>, getrandom::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.airspace.strong_count() > 0);
        let found = known.iter().find(|known| known.nth == nth && known.settings == *settings);
        if let Some(airspace) = found.and_then(|known| known.airspace.upgrade()) {
            return Ok(airspace);
        }
        let airspace = Arc::new(Airspace { keys: KeyMaker::random(&[])?, flights: Flights::new(counts.clone()) });
        known.push(Known { settings: settings.clone(), nth, airspace: Arc::downgrade(&airspace) });
        Ok(airspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_key::Scope;

    #[test]
    fn the_same_filter_finds_its_flights_again_and_another_has_its_own() {
        let (airspaces, counts) = (Airspaces::default(), Arc::default());
        let open = |settings: &Settings, nth| airspaces.open(settings, nth, &counts).unwrap();
        let settings = Settings::default();
        let first = open(&settings, 0);
        assert!(Arc::ptr_eq(&first, &open(&settings, 0)));
        assert!(!Arc::ptr_eq(&first, &open(&settings, 1)));
        assert!(!Arc::ptr_eq(&first, &open(&Settings { scope: Scope::Key, ..settings }, 0)));
    }
}
