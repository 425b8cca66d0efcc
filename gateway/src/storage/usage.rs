//! What was used by whom: one row for each day, caller, model and outcome, and how far each journal is in them.

use super::Table;
use crate::usage::{COUNTS, NAMES, Sums, Whose};
use rusqlite::{CachedStatement, Connection, OptionalExtension, ToSql, Transaction, params, params_from_iter};

/// Where it is kept. The columns are those of [`NAMES`] and [`COUNTS`]; money is in thousand millionths.
pub(super) const TABLE: Table = Table {
    name: "usage",
    migrations: &["
        CREATE TABLE usage (
            day INTEGER NOT NULL, org TEXT NOT NULL, team TEXT NOT NULL, user TEXT NOT NULL, service TEXT NOT NULL,
            key TEXT NOT NULL, model TEXT NOT NULL, cause TEXT NOT NULL,
            requests INTEGER NOT NULL, again INTEGER NOT NULL, estimated INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
            saved_prompt_tokens INTEGER NOT NULL, saved_completion_tokens INTEGER NOT NULL, cost INTEGER NOT NULL,
            PRIMARY KEY (day, org, team, user, service, key, model, cause)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE usage_days (day INTEGER PRIMARY KEY, rows INTEGER NOT NULL) STRICT;
        CREATE TABLE usage_journals (
            id TEXT PRIMARY KEY, through INTEGER NOT NULL, at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
    "],
};

/// The name in the place of those that a day has no rows for.
pub(crate) const OTHERS: &str = "(others)";

/// In [`NAMES`]: what is given up first where a day has too many rows. All else that is up to callers follows.
const OF_ONE: [usize; 3] = [2, 3, 4];
const OF_ANY: [usize; 6] = [0, 1, 2, 3, 4, 5];

/// How long a journal is remembered, of which nothing more comes.
const JOURNAL: i64 = 30 * 86_400;

/// Adds a part of a journal, unless it is there already: it may be tried as often as it takes.
pub(crate) fn fold(
    transaction: &Transaction<'_>,
    journal: &str,
    to: u64,
    rows: &[(Whose, Sums)],
    most: u32,
    now: i64,
) -> rusqlite::Result<()> {
    let to = i64::try_from(to).unwrap_or(i64::MAX);
    if through(transaction, journal)?.is_some_and(|through| through >= to) {
        return Ok(());
    }
    for (whose, sums) in rows {
        add(transaction, whose, sums, most)?;
    }
    let mut write = transaction.prepare_cached("INSERT OR REPLACE INTO usage_journals VALUES (?1, ?2, ?3)")?;
    write.execute(params![journal, to, now]).map(drop)
}

/// How far a journal is in the rows.
pub(crate) fn through(connection: &Connection, journal: &str) -> rusqlite::Result<Option<i64>> {
    let mut read = connection.prepare_cached("SELECT through FROM usage_journals WHERE id = ?1")?;
    read.query_row([journal], |row| row.get(0)).optional()
}

/// Forgets the days before `first`.
pub(crate) fn forget(transaction: &Transaction<'_>, first: u32) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM usage WHERE day < ?1", [first])?;
    transaction.execute("DELETE FROM usage_days WHERE day < ?1", [first])?;
    transaction.execute("DELETE FROM usage_journals WHERE at < unixepoch() - ?1", [JOURNAL]).map(drop)
}

/// What columns are told by, of which days, and whose alone.
pub(crate) struct Asked<'a> {
    pub(crate) by: &'a [&'static str],
    pub(crate) days: (u32, u32),
    pub(crate) only: &'a [(usize, String)],
}

/// Adds up rows. Each sum comes as two, its upper bits and its lower: no sum of them overflows.
pub(crate) fn sums(
    connection: &Connection,
    asked: &Asked<'_>,
    mut each: impl FnMut(Vec<String>, [i128; COUNTS.len()]),
) -> rusqlite::Result<()> {
    let columns: String = asked.by.iter().map(|name| format!("{name}, ")).collect();
    let counts: Vec<_> = COUNTS.iter().map(|name| format!("sum({name} >> 32), sum({name} & 4294967295)")).collect();
    let only = asked.only.iter().enumerate();
    let only: String = only.map(|(index, (name, _))| format!(" AND {} = ?{}", NAMES[*name], index + 3)).collect();
    // Without a row there is no sum either.
    let group = if asked.by.is_empty() {
        "HAVING count(*) > 0".to_owned()
    } else {
        format!("GROUP BY {}", asked.by.join(", "))
    };
    let select = format!("SELECT {columns}{} FROM usage WHERE day BETWEEN ?1 AND ?2{only} {group}", counts.join(", "));
    let days: [&dyn ToSql; 2] = [&asked.days.0, &asked.days.1];
    let names = asked.only.iter().map(|(_, name)| -> &dyn ToSql { name });
    let mut select = connection.prepare(&select)?;
    let mut rows = select.query(params_from_iter(days.into_iter().chain(names)))?;
    while let Some(row) = rows.next()? {
        let by = asked.by.len();
        let text = |at| match row.get_ref(at)? {
            rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
            other => other
                .as_str()
                .map(str::to_owned)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, other.data_type(), Box::new(error))),
        };
        let names = (0..by).map(text).collect::<rusqlite::Result<_>>()?;
        let mut sums = [0; COUNTS.len()];
        for (index, sum) in sums.iter_mut().enumerate() {
            let (upper, lower): (i64, i64) = (row.get(by + 2 * index)?, row.get(by + 2 * index + 1)?);
            *sum = (i128::from(upper) << 32) + i128::from(lower);
        }
        each(names, sums);
    }
    Ok(())
}

fn add(transaction: &Transaction<'_>, whose: &Whose, sums: &Sums, most: u32) -> rusqlite::Result<()> {
    if update(transaction, whose, sums)? {
        return Ok(());
    }
    let rows = "SELECT rows FROM usage_days WHERE day = ?1";
    let rows: Option<u32> = transaction.prepare_cached(rows)?.query_row([whose.day], |row| row.get(0)).optional()?;
    let rows = rows.unwrap_or(0);
    if rows < most {
        return insert(transaction, whose, sums);
    }
    let of_one = without(whose, &OF_ONE);
    if update(transaction, &of_one, sums)? {
        return Ok(());
    }
    if rows < most.saturating_add(most / 8) {
        return insert(transaction, &of_one, sums);
    }
    let of_any = without(whose, &OF_ANY);
    if update(transaction, &of_any, sums)? { Ok(()) } else { insert(transaction, &of_any, sums) }
}

fn without(whose: &Whose, names: &[usize]) -> Whose {
    let mut without = whose.clone();
    for name in names {
        if !without.names[*name].is_empty() {
            without.names[*name] = OTHERS.into();
        }
    }
    without
}

fn update(transaction: &Transaction<'_>, whose: &Whose, sums: &Sums) -> rusqlite::Result<bool> {
    // Far from where a sum of two could overflow.
    let update = transaction.prepare_cached(
        "UPDATE usage SET
            requests = min(requests + ?9, 1152921504606846976), again = min(again + ?10, 1152921504606846976),
            estimated = min(estimated + ?11, 1152921504606846976),
            prompt_tokens = min(prompt_tokens + ?12, 1152921504606846976),
            cached_tokens = min(cached_tokens + ?13, 1152921504606846976),
            completion_tokens = min(completion_tokens + ?14, 1152921504606846976),
            saved_prompt_tokens = min(saved_prompt_tokens + ?15, 1152921504606846976),
            saved_completion_tokens = min(saved_completion_tokens + ?16, 1152921504606846976),
            cost = min(cost + ?17, 1152921504606846976)
         WHERE day = ?1 AND org = ?2 AND team = ?3 AND user = ?4 AND service = ?5 AND key = ?6 AND model = ?7
            AND cause = ?8",
    )?;
    Ok(execute(update, whose, sums)? > 0)
}

fn insert(transaction: &Transaction<'_>, whose: &Whose, sums: &Sums) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    execute(transaction.prepare_cached(insert)?, whose, sums)?;
    let count = "INSERT INTO usage_days VALUES (?1, 1) ON CONFLICT DO UPDATE SET rows = rows + 1";
    transaction.prepare_cached(count)?.execute([whose.day]).map(drop)
}

fn execute(mut statement: CachedStatement<'_>, whose: &Whose, sums: &Sums) -> rusqlite::Result<usize> {
    let names = whose.names.iter().map(|name| -> &dyn ToSql { name });
    let sums = sums.each_ref().map(|sum| (*sum).clamp(-(1 << 60), 1 << 60));
    let sums = sums.iter().map(|sum| -> &dyn ToSql { sum });
    let day: [&dyn ToSql; 1] = [&whose.day];
    statement.execute(params_from_iter(day.into_iter().chain(names).chain(sums)))
}
