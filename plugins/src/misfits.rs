//! Settings that do not fit their type: all that does not fit, and what is wrong with the rest all the same.
//!
//! Serde stops at the first fault. So what it stumbled over is told, something that fits is put in its place, and the
//! settings are read again, until they can be read. What is then wrong with what they mean is told too, as far as it
//! does not follow from what was put in: it must be wrong both with the stand-ins and without them.

mod steps;
#[cfg(test)]
mod tests;

use crate::filter::SettingsError;
use crate::keys::without_value;
use crate::tenants::below;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
pub(crate) use steps::apart;
use steps::{Step, beside, get, put, steps, take, within};

/// More faults of form than anyone reads at once; each costs some more readings.
const MOST_FAULTS: usize = 50;

/// How alike two names are of which one may be meant for the other.
const ALIKE: f64 = 0.8;

/// What stands in for what nothing better is known of: one of these fits most types.
fn anything() -> Vec<Value> {
    let texts = ["1", "1s", "1/s", "2100-01-01T00:00:00Z", "x"].map(Value::from);
    [json!(1), json!(true)].into_iter().chain(texts).chain([json!([]), json!({})]).collect()
}

/// Reads settings.
///
/// # Errors
/// All that does not fit.
pub(crate) fn read<S: DeserializeOwned>(settings: Value) -> Result<S, Box<Misfits>> {
    serde_path_to_error::deserialize(&settings).map_err(|error| Box::new(Misfits::of::<S>(settings, error)))
}

/// Something put where settings do not fit.
struct StandIn {
    at: Vec<Step>,
    /// What else the settings can be read with.
    instead: Instead,
}

/// What may be in the place of a stand-in.
enum Instead {
    /// Nothing at all.
    Nothing,
    /// This.
    Other(Value),
    /// Not known.
    Unknown,
}

/// Settings with all that does not fit them.
pub(crate) struct Misfits {
    /// What does not fit, each with its place in the settings as they were written.
    faults: Vec<SettingsError>,
    settings: Value,
    readable: bool,
    stand_ins: Vec<StandIn>,
    /// What nothing could stand in for and so was left out, as it was written, each with the table or list it was in.
    left_out: Vec<(String, String)>,
    /// Tables of which a setting was taken that nobody knows, as they were written.
    unknown_in: Vec<String>,
    /// Items that were left out: their list, and where they stood in it.
    items: Vec<(String, usize)>,
}

type Stumbled = serde_path_to_error::Error<serde_json::Error>;

impl Misfits {
    fn of<S: DeserializeOwned>(settings: Value, first: Stumbled) -> Self {
        let mut misfits = Self {
            faults: Vec::new(),
            settings,
            readable: false,
            stand_ins: Vec::new(),
            left_out: Vec::new(),
            unknown_in: Vec::new(),
            items: Vec::new(),
        };
        let mut next = Some(first);
        while let Some(error) = next {
            if misfits.faults.len() >= MOST_FAULTS || !misfits.mend::<S>(&error) {
                return misfits;
            }
            next = misfits.stumble::<S>();
        }
        misfits.readable = true;
        for at in 0..misfits.stand_ins.len() {
            misfits.stand_ins[at].instead = misfits.instead::<S>(&misfits.stand_ins[at].at);
        }
        misfits
    }

    fn instead<S: DeserializeOwned>(&self, at: &[Step]) -> Instead {
        let mut other = self.settings.clone();
        let now = get(&other, at).cloned();
        // A list without an item is another list.
        if matches!(at.last(), Some(Step::Key(_))) {
            take(&mut other, at);
            if S::deserialize(&other).is_ok() {
                return Instead::Nothing;
            }
        }
        for value in anything().into_iter().filter(|value| Some(value) != now.as_ref()) {
            put(&mut other, at, value.clone());
            if S::deserialize(&other).is_ok() {
                return Instead::Other(value);
            }
        }
        Instead::Unknown
    }

    fn stumble<S: DeserializeOwned>(&self) -> Option<Stumbled> {
        serde_path_to_error::deserialize::<_, S>(&self.settings).err()
    }

    /// Tells a fault and takes it out of the way; false if nothing can be done about it.
    fn mend<S: DeserializeOwned>(&mut self, error: &Stumbled) -> bool {
        let at = steps(error.path(), &self.settings);
        let said = error.inner().to_string();
        let named = |what: &str| said.strip_prefix(what)?.split('`').next().map(str::to_owned);
        if let Some(name) = named("missing field `") {
            return self.fill_in::<S>(&at, name, &said);
        }
        let fault = SettingsError::at(self.written(&at), without_value(&said));
        if let Some(name) = named("unknown field `").filter(|name| at.last() == Some(&Step::Key(name.clone()))) {
            self.mean::<S>(&at, &name, fault, &expected(&said));
            return true;
        }
        self.faults.push(fault);
        let Some(wrong) = get(&self.settings, &at).cloned() else { return false };
        self.stands_in::<S>(&at, stand_ins(&wrong, &said)) || self.leave_out(&at)
    }

    /// For a setting that nobody knows: what was probably meant for another one stands there, if it can.
    fn mean<S: DeserializeOwned>(&mut self, at: &[Step], name: &str, fault: SettingsError, known: &[String]) {
        let near = nearest(name, known);
        let help = near.as_ref().map(|near| format!("did you mean `{near}`?"));
        self.faults.push(SettingsError { help, ..fault });
        let (wrong, table) = (take(&mut self.settings, at), &at[..at.len() - 1]);
        let meant = near.map(|near| [table, &[Step::Key(near)]].concat());
        let meant = meant.filter(|meant| get(&self.settings, meant).is_none());
        if !meant.zip(wrong).is_some_and(|(meant, wrong)| self.stands_in::<S>(&meant, vec![wrong])) {
            self.unknown_in.push(self.written(table));
        }
    }

    /// For a setting that must be there and is not.
    fn fill_in<S: DeserializeOwned>(&mut self, table: &[Step], name: String, said: &str) -> bool {
        let written = self.written(table);
        // What is missing because it was taken out, or is there under another name, has been told.
        if !self.unknown_in.contains(&written) && !self.left_out.iter().any(|(_, of)| *of == written) {
            self.faults.push(SettingsError::at(written, said));
        }
        let at = [table, &[Step::Key(name)]].concat();
        self.stands_in::<S>(&at, anything()) || self.leave_out(table)
    }

    /// Puts the first of these there that fits.
    fn stands_in<S: DeserializeOwned>(&mut self, at: &[Step], candidates: Vec<Value>) -> bool {
        let before = get(&self.settings, at).cloned();
        for candidate in candidates {
            if !put(&mut self.settings, at, candidate) {
                return false;
            }
            if self.stumble::<S>().is_none_or(|error| !steps(error.path(), &self.settings).starts_with(at)) {
                self.stand_ins.push(StandIn { at: at.to_vec(), instead: Instead::Unknown });
                return true;
            }
        }
        match before {
            Some(before) => drop(put(&mut self.settings, at, before)),
            None => drop(take(&mut self.settings, at)),
        }
        false
    }

    /// False if it is all there is.
    fn leave_out(&mut self, at: &[Step]) -> bool {
        let Some((last, holder)) = at.split_last() else { return false };
        let (place, holder) = (self.written(at), self.written(holder));
        if take(&mut self.settings, at).is_none() {
            return false;
        }
        self.stand_ins.retain(|stand_in| !stand_in.at.starts_with(at));
        if let Step::Item(index) = last {
            self.items.push((holder.clone(), self.place(&holder, *index)));
            self.items.sort();
        }
        self.left_out.push((place, holder));
        true
    }

    /// The path in the settings as they were written.
    fn written(&self, at: &[Step]) -> String {
        at.iter().fold(String::new(), |path, step| match step {
            Step::Key(name) => below(&path, name),
            Step::Item(index) => format!("{path}[{}]", self.place(&path, *index)),
        })
    }

    /// Where an item of a list stood before others, which stood before it, were left out.
    fn place(&self, list: &str, index: usize) -> usize {
        let gone = self.items.iter().filter(|(of, _)| of == list);
        gone.fold(index, |index, (_, gone)| if *gone <= index { index + 1 } else { index })
    }

    /// The same for a path in words.
    fn as_written(&self, path: &str) -> String {
        let mut lists: Vec<&str> = self.items.iter().map(|(list, _)| &**list).collect();
        lists.sort_by_key(|list| (list.len(), *list));
        lists.dedup();
        lists.into_iter().fold(path.to_owned(), |path, list| {
            let item = || {
                let (index, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
                Some(format!("{list}[{}]{rest}", self.place(list, index.parse().ok()?)))
            };
            item().unwrap_or(path)
        })
    }

    /// The settings with something else in the place of what stands in for others, mostly nothing.
    pub(crate) fn rest<S: DeserializeOwned>(&self) -> Option<S> {
        let mut settings = self.readable.then(|| self.settings.clone())?;
        for StandIn { at, instead } in &self.stand_ins {
            match instead {
                Instead::Nothing => drop(take(&mut settings, at)),
                Instead::Other(value) => drop(put(&mut settings, at, value.clone())),
                Instead::Unknown => {}
            }
        }
        S::deserialize(&settings).ok()
    }

    /// All that is wrong: with what `judge` finds, as far as it is wrong whatever the rest says.
    pub(crate) fn judged<S: DeserializeOwned>(mut self, judge: impl Fn(S) -> Vec<SettingsError>) -> Vec<SettingsError> {
        let with = self.readable.then(|| S::deserialize(&self.settings).ok()).flatten();
        if let (Some(with), Some(without)) = (with, self.rest()) {
            let (found, always) = (judge(with), judge(without));
            let found = found.into_iter().filter(|fault| always.contains(fault));
            let found: Vec<_> = found.filter_map(|fault| self.told(fault)).collect();
            self.faults.extend(found);
        }
        self.faults
    }

    /// A fault of the rest, with its place as it was written; none if it may be one of what was put in or left out.
    fn told(&self, fault: SettingsError) -> Option<SettingsError> {
        let path = self.as_written(&fault.path);
        let stand_ins = self.stand_ins.iter().all(|stand_in| {
            let (place, table) = (self.written(&stand_in.at), self.written(&stand_in.at[..stand_in.at.len() - 1]));
            let tried = !matches!(stand_in.instead, Instead::Unknown);
            // Empty is as good as absent: then it was not tried what this sets right in what holds it.
            let full =
                get(&self.settings, &stand_in.at).is_some_and(|value| *value != json!([]) && *value != json!({}));
            let above = !within(&place, &path) || tried && full;
            !within(&path, &place) && above && (tried || !beside(&path, &table))
        });
        let left_out = self.left_out.iter().all(|(place, table)| apart(&path, place) && !beside(&path, table));
        let known = self.unknown_in.iter().all(|table| !within(table, &path));
        (stand_ins && left_out && known).then_some(SettingsError { path, ..fault })
    }
}

/// The words that serde says it would take.
fn expected(said: &str) -> Vec<String> {
    let Some((_, words)) = said.split_once("expected ") else { return Vec::new() };
    words.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What may stand in for a value: the same spelt otherwise, a word that is known here, or anything.
fn stand_ins(wrong: &Value, said: &str) -> Vec<Value> {
    let otherwise = match wrong {
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Number(_) | Value::Bool(_) => Some(wrong.to_string().into()),
        _ => None,
    };
    let listed = (!wrong.is_array()).then(|| json!([wrong]));
    let words = expected(said).into_iter().map(Value::from);
    otherwise.into_iter().chain(listed).chain(words).chain(anything()).collect()
}

fn nearest(name: &str, known: &[String]) -> Option<String> {
    let likeness = |known: &String| strsim::jaro_winkler(name, known);
    let near = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(near) > ALIKE).then(|| near.clone())
}
