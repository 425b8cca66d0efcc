//! `tidegate usage`: what was used, by whom, out of the store itself, whether a gateway runs or not.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tidegate::storage;
use tidegate::usage::COUNTS;
use tidegate::usage::report::{self, Answer, Asked, COST, Place, Question};

use super::say::{Paint, complain, say};
use super::{Failure, file};

/// Show what was used by whom: requests, tokens and their cost, added up over days (UTC).
#[derive(Args)]
pub(super) struct Usage {
    /// The configuration file: its `storage` and `prices`
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The store, if it is not the one that the file names
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// By what: some of org, team, user, service, key, model, cause, day [default: org,model]
    #[arg(long, value_name = "NAMES")]
    by: Option<String>,
    /// The first day: 2027-01-31, or how long ago [default: 7d]
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// The last day, the same way [default: today]
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Only this organisation; "" for requests of none
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Only this team
    #[arg(long, value_name = "NAME")]
    team: Option<String>,
    /// Only this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only this key, by its id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only this model, as the file names it
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only requests that ended so: none (well), client, validation, limit, auth, gateway, upstream_error,
    /// upstream_timeout, upstream_overload, client_gone
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// How to answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How usage is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For spreadsheets: all columns, and no total.
    Csv,
    /// For programs.
    Json,
}

impl Usage {
    pub(super) fn run(self) -> Result<(), Failure> {
        let read = self.config.as_deref().map(file::load_quietly).transpose()?;
        let config = read.map(|(loaded, _)| loaded.config);
        let storage = config.as_ref().and_then(|config| config.storage.as_ref());
        let Some(path) = self.store.or_else(|| storage.map(|storage| storage.path.clone())) else {
            let line = "which store? Name the configuration file with --config (it has to have `storage`), or the store \
                        itself with --store";
            return Err(Failure::bad_input(line));
        };
        let only = [self.org, self.team, self.user, self.service, self.key, self.model, self.cause];
        let question = Question::read(Asked { by: self.by, since: self.since, until: self.until, only });
        let question = question.map_err(Failure::bad_input)?;
        let away = |error: &dyn std::fmt::Display| Failure::could_not(format!("{}: {error}", path.display()));
        if !path.exists() {
            return Err(away(&"there is no such store; the gateway makes it when it starts"));
        }
        let connection = storage::look(&path).map_err(|error| away(&error))?;
        let place = Place::of(&path, storage.and_then(|storage| storage.usage.journal.as_deref()));
        let answer = place.answer(&connection, &question).map_err(|error| away(&storage::StorageError::from(error)))?;
        let currency = config.as_ref().map_or("", |config| config.prices.currency.as_str());
        match self.format {
            Format::Json => say(&format!("{:#}", in_json(&question, &answer, currency))),
            Format::Csv => say(&csv(&question, &answer)),
            Format::Table if answer.is_empty() => {
                complain(&format!("nothing was used from {} to {}", question.period()[0], question.period()[1]))
            }
            Format::Table => say(&table(&question, &answer, currency, Paint::on_stdout())),
        }
        Ok(())
    }
}

fn in_json(question: &Question, answer: &Answer, currency: &str) -> Value {
    let [since, until] = question.period();
    let rows: Vec<Value> = answer.iter().map(|(names, sums)| report::row_in_json(question, names, sums)).collect();
    let total = report::in_json(&report::total(answer));
    json!({ "by": question.by, "since": since, "until": until, "currency": currency, "usage": rows, "total": total })
}

/// As RFC 4180 has it.
fn csv(question: &Question, answer: &Answer) -> String {
    let quoted = |name: &str| match name.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    };
    let head = question.by.iter().chain(&COUNTS).map(|name| (*name).to_owned()).collect::<Vec<_>>().join(",");
    let line = |(names, sums): (&Vec<String>, &[i128; COUNTS.len()])| {
        names.iter().map(|name| quoted(name)).chain(cells(sums)).collect::<Vec<_>>().join(",")
    };
    std::iter::once(head).chain(answer.iter().map(line)).collect::<Vec<_>>().join("\r\n")
}

fn cells(sums: &[i128; COUNTS.len()]) -> impl Iterator<Item = String> {
    let cell = |(name, sum): (&&str, &i128)| if *name == COST { report::money(*sum) } else { sum.to_string() };
    COUNTS.iter().zip(sums).map(cell)
}

/// In columns: names to the left, numbers to the right, and the total last.
fn table(question: &Question, answer: &Answer, currency: &str, paint: Paint) -> String {
    let cost = if currency.is_empty() { COST.to_owned() } else { format!("{COST} {currency}") };
    let heads = COUNTS.iter().map(|name| match *name {
        COST => cost.clone(),
        name => name.trim_end_matches("_tokens").replace('_', " "),
    });
    let mut rows = vec![question.by.iter().map(|name| (*name).to_owned()).chain(heads).collect::<Vec<_>>()];
    let shown = |name: &String| if name.is_empty() { "-".to_owned() } else { name.escape_debug().to_string() };
    rows.extend(answer.iter().map(|(names, sums)| names.iter().map(shown).chain(cells(sums)).collect()));
    let total =
        question.by.iter().enumerate().map(|(index, _)| if index == 0 { "total".to_owned() } else { String::new() });
    rows.push(total.chain(cells(&report::total(answer))).collect());
    let names = question.by.len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names + COUNTS.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| match column < names {
            true => format!("{cell:width$}"),
            false => format!("{cell:>width$}"),
        };
        row.iter().zip(&widths).enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines[0] = paint.dim(&lines[0]);
    lines.join("\n")
}
