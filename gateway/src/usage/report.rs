//! What was used, added up for whoever asks: the rows of the store, and what the journals have that it does not.

use super::keeper::{day_of, today};
use super::line::{self, COUNTS, NAMES, Sums, Whose};
use super::place::{self, Piece};
use crate::storage::usage as stored;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tidegate_plugins::prices::NANOS;
use tidegate_plugins::when::When;

/// What usage can be told by.
pub const BY: [&str; 8] = ["org", "team", "user", "service", "key", "model", "cause", "day"];

/// The name of [`BY`] that is no column of names.
const DAY: &str = "day";

/// What it is told by, and since when, where nobody says.
const BY_DEFAULT: &str = "org,model";
const SINCE_DEFAULT: &str = "7d";

/// What is asked for, as people write it.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Out of [`BY`], with commas between.
    pub by: Option<String>,
    /// The first day: `2027-01-31`, or so long ago: `7d`.
    pub since: Option<String>,
    /// The last day, the same way.
    pub until: Option<String>,
    /// For each of [`NAMES`]: only where it is this. Empty: where there is none.
    pub only: [Option<String>; NAMES.len()],
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Out of [`BY`], each once.
    pub by: Vec<&'static str>,
    /// The first day and the last, counted from 1970-01-01 (UTC).
    pub days: (u32, u32),
    /// Only where a name (its place in [`NAMES`]) is this.
    pub only: Vec<(usize, String)>,
}

/// Where the store is, and its journals.
#[derive(Debug, Clone)]
pub struct Place {
    base: Option<PathBuf>,
    store: PathBuf,
}

/// The sums of each that was asked for, by their names in the order of the question.
pub type Answer = BTreeMap<Vec<String>, [i128; COUNTS.len()]>;

/// What a piece of a journal says.
type Said = (String, Piece, HashMap<Whose, Sums>);

impl Place {
    /// The store at `path`, whose journals are below `base` if the file says so.
    pub fn of(path: &Path, base: Option<&Path>) -> Self {
        Self { base: base.map(Path::to_owned), store: path.to_owned() }
    }

    /// Answers a question. What is being recorded in this very moment may be in it or not, and is never in it twice.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn answer(&self, connection: &Connection, question: &Question) -> rusqlite::Result<Answer> {
        // In this order: what leaves the journal meanwhile is in the store by then.
        let folders = place::believed(self.base.as_deref(), &self.store).unwrap_or_default();
        let said: Vec<Said> = folders.iter().flat_map(|folder| read(folder)).collect();
        let transaction = connection.unchecked_transaction()?;
        let mut answer = Answer::new();
        let asked = stored::Asked { by: &question.by, days: question.days, only: &question.only };
        stored::sums(&transaction, &asked, |mut names, sums| {
            for (name, text) in question.by.iter().zip(&mut names) {
                if *name == DAY {
                    *text = text.parse().map_or_else(|_| text.clone(), day);
                }
            }
            answer.insert(names, sums);
        })?;
        for (journal, piece, sums) in said {
            let through = stored::through(&transaction, &journal)?.unwrap_or(0);
            if u64::try_from(through).is_ok_and(|through| through < piece.to) {
                sums.iter().for_each(|(whose, sums)| question.add(&mut answer, whose, sums));
            }
        }
        answer.retain(|_, sums| *sums != [0; COUNTS.len()]);
        Ok(answer)
    }
}

impl Question {
    /// Reads what somebody asks.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(asked: Asked) -> Result<Self, String> {
        let mut by = Vec::new();
        for name in asked.by.as_deref().unwrap_or(BY_DEFAULT).split(',').map(str::trim).filter(|name| !name.is_empty())
        {
            let known = BY.iter().find(|known| **known == name);
            let known = *known.ok_or_else(|| format!("`by` is some of {}, not `{name}`", BY.join(", ")))?;
            if !by.contains(&known) {
                by.push(known);
            }
        }
        let since =
            first_day(asked.since.as_deref().unwrap_or(SINCE_DEFAULT)).map_err(|error| format!("`since`: {error}"))?;
        let until = asked.until.as_deref().map(first_day).transpose().map_err(|error| format!("`until`: {error}"))?;
        let until = until.unwrap_or_else(today);
        if since > until {
            return Err(format!("`until` ({}) is before `since` ({})", day(until), day(since)));
        }
        let only = asked.only.into_iter().enumerate();
        let only = only.filter_map(|(name, text)| Some((name, text?))).collect();
        Ok(Self { by, days: (since, until), only })
    }

    /// The first day and the last, as people write them.
    pub fn period(&self) -> [String; 2] {
        [day(self.days.0), day(self.days.1)]
    }

    fn add(&self, answer: &mut Answer, whose: &Whose, more: &Sums) {
        let is_asked = self.only.iter().all(|(name, text)| *whose.names[*name] == **text);
        if !is_asked || !(self.days.0..=self.days.1).contains(&whose.day) {
            return;
        }
        let name = |by: &&'static str| match NAMES.iter().position(|name| name == by) {
            Some(at) => whose.names[at].to_string(),
            None => day(whose.day),
        };
        let sums = answer.entry(self.by.iter().map(name).collect()).or_insert([0; COUNTS.len()]);
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += i128::from(*more));
    }
}

/// What all journals of a store say. A file that goes meanwhile is in the store, or a part of another: then all are looked
/// at again.
fn read(of_store: &Path) -> Vec<Said> {
    for _ in 0..8 {
        match try_read(of_store) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && of_store.exists() => {}
            read => return read.unwrap_or_default(),
        }
    }
    Vec::new()
}

fn try_read(of_store: &Path) -> io::Result<Vec<Said>> {
    let mut said = Vec::new();
    for (journal, folder) in place::journals(of_store)? {
        for piece in place::pieces(&folder)? {
            let mut sums = HashMap::new();
            line::read(&fs::read(&piece.path)?, &mut sums);
            said.push((journal.clone(), piece, sums));
        }
    }
    Ok(said)
}

/// Adds up all of an answer.
pub fn total(answer: &Answer) -> [i128; COUNTS.len()] {
    answer.values().fold([0; COUNTS.len()], |mut total, sums| {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        total
    })
}

/// Sums for programs: numbers by name. The cost is in the file's currency.
pub fn in_json(sums: &[i128; COUNTS.len()]) -> Value {
    let number = |name, sum: i128| match name {
        COST => Value::from(sum as f64 / NANOS as f64),
        _ => Value::from(i64::try_from(sum).unwrap_or(i64::MAX)),
    };
    COUNTS.iter().zip(sums).map(|(name, sum)| ((*name).to_owned(), number(*name, *sum))).collect()
}

/// One of an answer for programs: the names it is told by, null where there is none, and its sums.
pub fn row_in_json(question: &Question, names: &[String], sums: &[i128; COUNTS.len()]) -> Value {
    let mut row = in_json(sums);
    for (by, name) in question.by.iter().zip(names) {
        row[*by] = if name.is_empty() { Value::Null } else { name.as_str().into() };
    }
    row
}

/// The one of [`COUNTS`] that is money.
pub const COST: &str = "cost";

/// Money with all its digits, two of them behind the point at least.
pub fn money(nanos: i128) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / u128::from(NANOS), nanos % u128::from(NANOS));
    let shortest = text.trim_end_matches('0').len().max(text.len() - 7);
    text[..shortest].to_owned()
}

/// A day, or the day so long ago.
fn first_day(text: &str) -> Result<u32, String> {
    if let Ok(ago) = tidegate_config::parse_duration(text) {
        let then = When::now().unix().saturating_sub(i64::try_from(ago.as_secs()).unwrap_or(i64::MAX));
        return Ok(day_of(then));
    }
    let moment = When::parse(text);
    moment
        .map(|moment| day_of(moment.unix()))
        .map_err(|_| format!("expected a day (2027-01-31) or how long ago (7d), not `{text}`"))
}

/// A day as people write it.
fn day(day: u32) -> String {
    let moment = When::from_unix(i64::from(day) * 86_400).to_string();
    moment.split('T').next().unwrap_or_default().to_owned()
}
