//! Managed keys in the store: whose they are, and the hashes of their secrets. Never a secret.

use super::Table;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Row};
use tidegate_plugins::keys::{Key, KeyHash, Record, Sealed, Secret};
use tidegate_plugins::when::When;

/// What is kept of keys. The settings of a key are JSON, as the admin listener takes and shows them.
pub(super) const TABLE: Table = Table {
    name: "keys",
    migrations: &[
        "
        CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            settings TEXT NOT NULL,
            created INTEGER NOT NULL,
            revoked INTEGER
        ) STRICT;
        CREATE TABLE key_hashes (
            hash BLOB PRIMARY KEY,
            key TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
            created INTEGER NOT NULL,
            until INTEGER
        ) STRICT;
        CREATE INDEX key_hashes_by_key ON key_hashes (key);
    ",
        "
        ALTER TABLE key_hashes ADD COLUMN pepper BLOB;
    ",
    ],
};

/// What became of a change to one key.
#[derive(Debug, Clone)]
pub enum Changed {
    /// It was made; this is the key now.
    Done(Box<Record>),
    /// There is no such key.
    Unknown,
    /// There is a key of this name, or it was revoked: it stays as it is.
    Refused,
}

/// Keeps a new key.
///
/// # Errors
/// If the store cannot be written.
pub fn insert(connection: &Connection, key: &Key, sealed: &Sealed, now: When) -> rusqlite::Result<Changed> {
    let settings = serde_json::to_string(key).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))?;
    let insert = "INSERT INTO keys (id, settings, created) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    if connection.execute(insert, (&key.id, settings, now.unix()))? == 0 {
        return Ok(Changed::Refused);
    }
    insert_hash(connection, &key.id, sealed, now)?;
    get(connection, &key.id)
}

/// Ends a key for good. One that was revoked stays so, since when it was.
///
/// # Errors
/// If the store cannot be written.
pub fn revoke(connection: &Connection, id: &str, now: When) -> rusqlite::Result<Changed> {
    connection.execute("UPDATE keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL", (id, now.unix()))?;
    get(connection, id)
}

/// Gives a key another secret. Those before let in until `until`, or until they would have ended anyway; those that
/// have ended are forgotten.
///
/// # Errors
/// If the store cannot be written.
pub fn rotate(connection: &Connection, id: &str, sealed: &Sealed, now: When, until: When) -> rusqlite::Result<Changed> {
    match get(connection, id)? {
        Changed::Done(record) if record.revoked.is_some() => return Ok(Changed::Refused),
        Changed::Done(_) => {}
        other => return Ok(other),
    }
    connection.execute("DELETE FROM key_hashes WHERE key = ?1 AND until <= ?2", (id, now.unix()))?;
    let end = "UPDATE key_hashes SET until = ?2 WHERE key = ?1 AND (until IS NULL OR until > ?2)";
    connection.execute(end, (id, until.unix()))?;
    insert_hash(connection, id, sealed, now)?;
    get(connection, id)
}

fn insert_hash(connection: &Connection, id: &str, sealed: &Sealed, now: When) -> rusqlite::Result<()> {
    let insert = "INSERT INTO key_hashes (hash, key, created, pepper) VALUES (?1, ?2, ?3, ?4)";
    connection.execute(insert, (sealed.hash.as_bytes(), id, now.unix(), sealed.pepper)).map(drop)
}

/// Keys that would let in, but for the pepper that is not the one they were hashed with; and how many would let in at all.
///
/// # Errors
/// If the store cannot be read.
pub fn of_other_peppers(connection: &Connection, pepper: [u8; 8], now: When) -> rusqlite::Result<(i64, i64)> {
    let count = "WITH secrets AS (
            SELECT key_hashes.key, coalesce(pepper = ?1, 1) AS ours FROM key_hashes JOIN keys ON keys.id = key_hashes.key
            WHERE revoked IS NULL AND (until IS NULL OR until > ?2)
        ), each AS (SELECT max(ours) AS ours FROM secrets GROUP BY key)
        SELECT coalesce(sum(ours = 0), 0), count(*) FROM each";
    connection.query_row(count, (pepper, now.unix()), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// What the keys are called that were not revoked.
///
/// # Errors
/// If the store cannot be read.
pub fn ids(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare("SELECT id FROM keys WHERE revoked IS NULL ORDER BY id")?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// One key.
///
/// # Errors
/// If the store cannot be read.
pub fn get(connection: &Connection, id: &str) -> rusqlite::Result<Changed> {
    let select = "SELECT id, settings, created, revoked FROM keys WHERE id = ?1";
    let record = connection.query_row(select, [id], record).optional()?;
    let Some(mut record) = record else { return Ok(Changed::Unknown) };
    record.secrets = secrets(connection, id)?;
    Ok(Changed::Done(Box::new(record)))
}

/// Up to `limit` keys by name, those after `after`.
///
/// # Errors
/// If the store cannot be read.
pub fn list(connection: &Connection, after: &str, limit: usize) -> rusqlite::Result<Vec<Record>> {
    let mut select =
        connection.prepare("SELECT id, settings, created, revoked FROM keys WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let records = select.query_map((after, super::metrics::whole(limit)), record)?;
    let mut records: Vec<Record> = records.collect::<Result<_, _>>()?;
    for record in &mut records {
        record.secrets = secrets(connection, &record.key.id)?;
    }
    Ok(records)
}

/// All of them, as one moment had them.
///
/// # Errors
/// If the store cannot be read.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Record>> {
    let transaction = connection.unchecked_transaction()?;
    let mut select = transaction.prepare("SELECT id, settings, created, revoked FROM keys ORDER BY id")?;
    let mut records: Vec<Record> = select.query_map([], record)?.collect::<Result<_, _>>()?;
    let mut hashes = transaction.prepare("SELECT hash, created, until, key FROM key_hashes ORDER BY key, created")?;
    let mut hashes = hashes.query([])?;
    let mut at = 0;
    // Both in the order of names.
    while let Some(row) = hashes.next()? {
        let key: String = row.get(3)?;
        at += records[at..].iter().take_while(|record| record.key.id < key).count();
        if let Some(record) = records.get_mut(at).filter(|record| record.key.id == key) {
            record.secrets.push(secret(row)?);
        }
    }
    Ok(records)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let settings: String = row.get(1)?;
    let unread = |error| Error::FromSqlConversionFailure(1, Type::Text, Box::new(error));
    let mut key: Key = serde_json::from_str(&settings).map_err(unread)?;
    key.id = row.get(0)?;
    let (created, revoked): (i64, Option<i64>) = (row.get(2)?, row.get(3)?);
    let (created, revoked) = (When::from_unix(created), revoked.map(When::from_unix));
    Ok(Record { key, created, revoked, secrets: Vec::new() })
}

fn secrets(connection: &Connection, id: &str) -> rusqlite::Result<Vec<Secret>> {
    let mut select =
        connection.prepare("SELECT hash, created, until FROM key_hashes WHERE key = ?1 ORDER BY created")?;
    select.query_map([id], secret)?.collect()
}

fn secret(row: &Row<'_>) -> rusqlite::Result<Secret> {
    let (created, until): (i64, Option<i64>) = (row.get(1)?, row.get(2)?);
    let (hash, created) = (KeyHash::from_bytes(row.get(0)?), When::from_unix(created));
    Ok(Secret { hash, created, until: until.map(When::from_unix) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugins::keys::KeyHasher;

    fn store() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        TABLE.migrations.iter().for_each(|migration| connection.execute_batch(migration).unwrap());
        connection
    }

    fn key(id: &str) -> Key {
        serde_json::from_str(&format!(r#"{{ "id": "{id}", "user": "ann", "models": ["llama*"], "priority": 3 }}"#))
            .unwrap()
    }

    fn hash(secret: &str) -> Sealed {
        KeyHasher::new(None).seal(secret)
    }

    fn done(changed: Changed) -> Record {
        let Changed::Done(record) = changed else { panic!("{changed:?}") };
        *record
    }

    #[test]
    fn a_key_comes_back_as_it_was_kept_and_its_name_is_taken() {
        let (store, now) = (store(), When::from_unix(1000));
        let record = done(insert(&store, &key("a"), &hash("one"), now).unwrap());
        assert_eq!((record.key.user.as_deref(), record.key.priority.map(|p| p.get())), (Some("ann"), Some(3)));
        assert_eq!((record.created, record.secrets[0].hash, record.secrets[0].until), (now, hash("one").hash, None));
        assert!(matches!(insert(&store, &key("a"), &hash("two"), now).unwrap(), Changed::Refused));
        assert!(matches!(get(&store, "b").unwrap(), Changed::Unknown));
    }

    #[test]
    fn a_rotated_key_has_both_secrets_for_a_while_and_a_revoked_one_is_not_rotated() {
        let (store, at) = (store(), When::from_unix);
        insert(&store, &key("a"), &hash("one"), at(0)).unwrap();
        let both = done(rotate(&store, "a", &hash("two"), at(100), at(150)).unwrap());
        let ends: Vec<_> = both.secrets.iter().map(|secret| secret.until).collect();
        assert_eq!(ends, [Some(at(150)), None]);
        // What was to end earlier still does; what has ended is gone.
        let three = done(rotate(&store, "a", &hash("three"), at(120), at(300)).unwrap());
        let ends: Vec<_> = three.secrets.iter().map(|secret| secret.until).collect();
        assert_eq!(ends, [Some(at(150)), Some(at(300)), None]);
        assert_eq!(done(rotate(&store, "a", &hash("four"), at(200), at(200)).unwrap()).secrets.len(), 3);
        assert_eq!(done(revoke(&store, "a", at(210)).unwrap()).revoked, Some(at(210)));
        assert_eq!(done(revoke(&store, "a", at(220)).unwrap()).revoked, Some(at(210)));
        assert!(matches!(rotate(&store, "a", &hash("five"), at(230), at(240)).unwrap(), Changed::Refused));
        assert!(matches!(rotate(&store, "b", &hash("five"), at(230), at(240)).unwrap(), Changed::Unknown));
    }

    #[test]
    fn keys_of_another_pepper_are_told_from_those_that_let_in() {
        let (store, at) = (store(), When::from_unix);
        let (old, new) = (KeyHasher::new(Some("old")), KeyHasher::new(Some("new")));
        for id in ["a", "b", "c", "revoked"] {
            insert(&store, &key(id), &old.seal(id), at(0)).unwrap();
        }
        revoke(&store, "revoked", at(1)).unwrap();
        let others = |hasher: &KeyHasher| of_other_peppers(&store, hasher.pepper(), at(10)).unwrap();
        assert_eq!((others(&old), others(&new)), ((0, 3), (3, 3)));
        // One of its secrets is enough, and whoever was kept before anybody wrote down the pepper may be anything.
        rotate(&store, "a", &new.seal("a2"), at(5), at(20)).unwrap();
        store.execute("UPDATE key_hashes SET pepper = NULL WHERE key = 'b'", ()).unwrap();
        assert_eq!((others(&old), others(&new)), ((0, 3), (1, 3)));
        assert_eq!(of_other_peppers(&store, old.pepper(), at(20)).unwrap(), (1, 3));
    }

    #[test]
    fn pages_and_the_whole_say_the_same() {
        let store = store();
        for id in ["d", "a", "c", "b"] {
            insert(&store, &key(id), &hash(id), When::from_unix(0)).unwrap();
        }
        rotate(&store, "b", &hash("b2"), When::from_unix(1), When::from_unix(2)).unwrap();
        let told = |records: &[Record]| -> Vec<String> {
            records.iter().map(|record| format!("{}{}", record.key.id, record.secrets.len())).collect()
        };
        assert_eq!(told(&all(&store).unwrap()), ["a1", "b2", "c1", "d1"]);
        assert_eq!(told(&list(&store, "", 2).unwrap()), ["a1", "b2"]);
        assert_eq!(told(&list(&store, "b", 9).unwrap()), ["c1", "d1"]);
    }
}
