use super::*;
use rusqlite::TransactionBehavior;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const WORDS: Table = Table { name: "words", migrations: &["CREATE TABLE words (word TEXT PRIMARY KEY) STRICT"] };
static TABLES: [Table; 1] = [WORDS];

const SOON: Duration = Duration::from_secs(5);

/// A folder that goes when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-storage-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store.db")
    }

    fn open(&self) -> Storage {
        self.open_with(64)
    }

    fn open_with(&self, queue: usize) -> Storage {
        let options = Options { name: "test", path: self.file(), tables: &TABLES, durable: true, queue };
        Storage::open(options).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn insert(word: &'static str) -> impl FnMut(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static {
    move |transaction| transaction.execute("INSERT INTO words VALUES (?1)", [word]).map(drop)
}

fn words(storage: &Storage) -> Vec<String> {
    let read = storage.read(|connection| {
        let mut words = connection.prepare("SELECT word FROM words ORDER BY word")?;
        let words = words.query_map([], |row| row.get(0))?;
        words.collect()
    });
    read.unwrap()
}

fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !what() {
        assert!(Instant::now() < end, "it never came to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_the_store_is_opened_again() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.commit(insert("one")).await.unwrap();
    assert!(storage.enqueue(insert("two")) && storage.flush(SOON));
    drop(storage);
    assert_eq!(words(&folder.open()), ["one", "two"]);
}

#[tokio::test]
async fn a_write_that_is_wrong_fails_alone() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.commit(insert("one")).await.unwrap();
    let (again, other) = tokio::join!(storage.commit(insert("one")), storage.commit(insert("two")));
    assert!(matches!(again, Err(StorageError::Refused(_))), "{again:?}");
    other.unwrap();
    assert_eq!(words(&storage), ["one", "two"]);
}

#[tokio::test]
async fn writes_wait_for_a_store_that_is_locked_and_are_not_lost() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.commit(insert("one")).await.unwrap();
    let mut other = Connection::open(folder.file()).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    assert!(storage.enqueue(insert("two")));
    assert!(!storage.flush(Duration::from_millis(800)), "written although locked");
    until(|| storage.metrics().errors.get() > 0);
    assert_eq!(words(&storage), ["one"]);
    drop(lock);
    assert!(storage.flush(SOON));
    assert_eq!(words(&storage), ["one", "two"]);
}

#[tokio::test]
async fn who_waits_for_a_store_that_is_away_is_told_and_nothing_is_written_later() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.commit(insert("one")).await.unwrap();
    let mut other = Connection::open(folder.file()).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    let told = storage.commit(insert("two")).await;
    assert!(matches!(told, Err(StorageError::Away(_))), "{told:?}");
    drop(lock);
    storage.commit(insert("three")).await.unwrap();
    assert_eq!(words(&storage), ["one", "three"]);
}

#[tokio::test]
async fn a_queue_that_is_full_says_so() {
    let folder = Folder::new();
    let storage = folder.open_with(2);
    storage.commit(insert("one")).await.unwrap();
    let mut other = Connection::open(folder.file()).unwrap();
    let _lock = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    assert!(storage.enqueue(insert("two")) && storage.enqueue(insert("three")));
    assert!(!storage.enqueue(insert("four")));
    assert_eq!(storage.metrics().dropped.get(), 1);
}

#[tokio::test]
async fn a_file_that_goes_is_not_made_anew_and_is_used_again_when_it_is_back() {
    let folder = Folder::new();
    let storage = folder.open();
    storage.commit(insert("one")).await.unwrap();
    let aside = folder.0.join("aside.db");
    std::fs::rename(folder.file(), &aside).unwrap();
    assert!(storage.enqueue(insert("two")));
    until(|| storage.metrics().errors.get() > 1);
    assert!(!folder.file().exists());
    std::fs::rename(&aside, folder.file()).unwrap();
    assert!(storage.flush(SOON));
    assert_eq!(words(&storage), ["one", "two"]);
}

#[tokio::test]
async fn rubbish_in_the_place_of_the_file_is_no_end() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "this is no database, and long enough to be seen as none".repeat(40)).unwrap();
    let storage = folder.open();
    assert!(storage.enqueue(insert("one")));
    until(|| storage.metrics().errors.get() > 0);
    std::fs::remove_file(folder.file()).unwrap();
    assert!(storage.flush(SOON));
    assert_eq!(words(&storage), ["one"]);
}

#[test]
fn those_who_watch_see_what_others_write_and_other_files() {
    let folder = Folder::new();
    let storage = folder.open();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    storage.watch(move |connection| {
        let count: i64 = connection.query_row("SELECT count(*) FROM words", [], |row| row.get(0))?;
        to.lock().unwrap().push(count);
        Ok(())
    });
    assert!(storage.seen(SOON));
    assert_eq!(*seen.lock().unwrap(), [0]);
    let other = direct(&folder.file(), &TABLES).unwrap();
    other.execute("INSERT INTO words VALUES ('one')", []).unwrap();
    let written = Instant::now();
    until(|| seen.lock().unwrap().last() == Some(&1));
    assert!(written.elapsed() < Duration::from_millis(900), "{:?}", written.elapsed());
    // Another file in its place; what SQLite keeps beside the old one has to go with it.
    drop(other);
    let aside = folder.0.join("aside.db");
    direct(&aside, &TABLES).unwrap().execute("INSERT INTO words VALUES ('a'), ('b'), ('c')", []).unwrap();
    for old in ["store.db", "store.db-wal", "store.db-shm"] {
        std::fs::remove_file(folder.0.join(old)).unwrap();
    }
    std::fs::rename(aside, folder.file()).unwrap();
    until(|| seen.lock().unwrap().last() == Some(&3));
}

#[test]
fn somebody_elses_database_is_left_alone() {
    let folder = Folder::new();
    Connection::open(folder.file()).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let refused = direct(&folder.file(), &TABLES).err().unwrap();
    assert!(refused.to_string().contains("another program"), "{refused}");
    let later = folder.0.join("later.db");
    const MORE: &[&str] = &[WORDS.migrations[0], "CREATE TABLE more (x)"];
    let later_tables = [Table { name: "words", migrations: MORE }];
    direct(&later, &later_tables).unwrap();
    assert!(direct(&later, &TABLES).err().unwrap().to_string().contains("later version"));
}

#[test]
fn a_table_that_grew_is_migrated_from_where_it_was() {
    let folder = Folder::new();
    direct(&folder.file(), &TABLES).unwrap().execute("INSERT INTO words VALUES ('one')", []).unwrap();
    const GROWN: &[&str] = &[WORDS.migrations[0], "ALTER TABLE words ADD COLUMN length INTEGER"];
    let grown = [
        Table { name: "words", migrations: GROWN },
        Table { name: "numbers", migrations: &["CREATE TABLE numbers (number INTEGER) STRICT"] },
    ];
    let connection = direct(&folder.file(), &grown).unwrap();
    connection.execute("UPDATE words SET length = 3", []).unwrap();
    connection.execute("INSERT INTO numbers VALUES (1)", []).unwrap();
}
