//! `tidegate keys list|show|revoke|rotate`: the keys in the store. A gateway that runs takes changes over within a second.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tidegate::storage::keys as stored;
use tidegate_plugins::keys::Record;
use tidegate_plugins::when::When;

use super::super::say::{Paint, complain, say};
use super::super::{Failure, Format};
use super::place::{Place, away, one};

/// List the keys in the store.
#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show one key in the store: all but its secret, which nobody has.
#[derive(Args)]
pub(super) struct Show {
    /// Its id
    id: String,
    #[command(flatten)]
    place: Place,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// End a key for good.
#[derive(Args)]
pub(super) struct Revoke {
    /// Its id
    id: String,
    #[command(flatten)]
    place: Place,
}

/// Give a key another secret, and print that once. The one before still works for a while.
#[derive(Args)]
pub(super) struct Rotate {
    /// Its id
    id: String,
    #[command(flatten)]
    place: Place,
    /// How long the secret before still works: 1h, or 0s [default: `keys.overlap` of the file, 1d]
    #[arg(long, value_parser = tidegate_config::parse_duration, value_name = "TIME")]
    overlap: Option<Duration>,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.place.rules()?;
        let (connection, path) = rules.open()?;
        let records = stored::all(&connection).map_err(|error| away(path, &error.into()))?;
        match self.format {
            Format::Json => {
                say(&format!("{:#}", records.iter().map(tidegate::admin::shown_key).collect::<Value>()));
            }
            Format::Human if records.is_empty() => complain("there are no keys; tidegate keys new makes one"),
            Format::Human => say(&table(&records)),
        }
        Ok(())
    }
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.place.rules()?;
        let (connection, path) = rules.open()?;
        let found = stored::get(&connection, &self.id).map_err(|error| away(path, &error.into()))?;
        let shown = tidegate::admin::shown_key(&one(&self.id, "", found)?);
        match self.format {
            Format::Json => say(&format!("{shown:#}")),
            Format::Human => shown.as_object().into_iter().flatten().for_each(|(name, value)| {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                say(&format!("{} {text}", Paint::on_stdout().dim(format!("{name:>9}"))));
            }),
        }
        Ok(())
    }
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.place.rules()?;
        rules.change(&self.id, "", |transaction| stored::revoke(transaction, &self.id, When::now()))?;
        complain(&format!("{} lets nobody in any more, within a second", self.id));
        Ok(())
    }
}

impl Rotate {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.place.rules()?;
        let (new, now) = (rules.generate()?, When::now());
        let (sealed, until) = (new.sealed(), When::from_now(self.overlap.unwrap_or(rules.overlap)));
        let refused = "this key was revoked; tidegate keys new makes another";
        rules.change(&self.id, refused, |transaction| stored::rotate(transaction, &self.id, &sealed, now, until))?;
        say(new.secret());
        let what = format!("This is the only time it is shown. The one before works until {until}.");
        complain(&format!("\n{}", Paint::on_stderr().dim(what)));
        Ok(())
    }
}

/// One line a key, in columns.
fn table(records: &[Record]) -> String {
    let head = ["id", "state", "owner", "created", "expires"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(records.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(record: &Record) -> [String; 5] {
    let key = &record.key;
    let owner = [&key.org, &key.team, &key.user, &key.service].into_iter().flatten().cloned().collect::<Vec<_>>();
    let expires = key.expires.map_or_else(String::new, |expires| expires.to_string());
    let state = record.state(When::now()).name().to_owned();
    [key.id.clone(), state, owner.join("/"), record.created.to_string(), expires]
}
