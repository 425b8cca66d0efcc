use super::report::{Answer, Asked, Place as Where, Question, total};
use super::*;
use crate::storage::{Options, Storage, TABLES};
use rusqlite::{Connection, TransactionBehavior};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};
use tidegate_config::Usage;

/// A folder with a store, which goes when dropped, and the journals of the store.
struct House(PathBuf);

impl House {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-usage-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store.db")
    }

    fn keeper(&self, settings: &Usage) -> Keeper {
        // Made before anybody may lock it.
        drop(crate::storage::direct(&self.file(), TABLES).unwrap());
        let options = Options { name: "test", path: self.file(), tables: TABLES, durable: false, queue: 64 };
        let storage = Storage::open(options).unwrap();
        Keeper::begin(storage, &self.file(), settings)
    }

    fn answer(&self, by: &str) -> Answer {
        let question = Question::read(Asked { by: Some(by.to_owned()), ..Asked::default() }).unwrap();
        let connection = crate::storage::direct(&self.file(), TABLES).unwrap();
        Where::of(&self.file(), None).answer(&connection, &question).unwrap()
    }

    /// Rows of the store alone.
    fn rows(&self) -> i64 {
        let connection = crate::storage::direct(&self.file(), TABLES).unwrap();
        connection.query_row("SELECT coalesce(sum(requests), 0) FROM usage", [], |row| row.get(0)).unwrap()
    }

    fn journals(&self) -> usize {
        place::journals(&place::of_store(None, &self.file()).unwrap()).unwrap().len()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Ok(journals) = place::of_store(None, &self.file()) {
            drop(std::fs::remove_dir_all(journals));
        }
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn used(user: &str, prompt: i64, cost: i64) -> Entry<'_> {
    let names = ["acme", "", user, "", "k", "m", "none"];
    Entry { day: today(), names, sums: [1, 0, 0, prompt, 0, 1, 0, 0, cost] }
}

fn sums(answer: &Answer, name: &str) -> [i128; COUNTS.len()] {
    answer.get(&vec![name.to_owned()]).copied().unwrap_or([0; COUNTS.len()])
}

async fn all_kept(keeper: &Keeper) {
    let until = Instant::now() + Duration::from_secs(20);
    while !keeper.keep().await {
        assert!(Instant::now() < until, "it is never kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_recorded_is_told_at_once_and_is_in_the_store_a_moment_later() {
    let house = House::new();
    let keeper = house.keeper(&Usage::default());
    for n in 0..10 {
        keeper.usages().record(&[used("ann", n, 5), used("bob", 1, 1)]);
    }
    let told = house.answer("user");
    assert_eq!(sums(&told, "ann"), [10, 0, 0, 45, 0, 10, 0, 0, 50]);
    assert_eq!(house.rows(), 0);
    all_kept(&keeper).await;
    assert_eq!((house.rows(), house.answer("user")), (20, told));
    assert_eq!((keeper.metrics().journal.get(), keeper.metrics().waiting.get()), (10, 0));
    assert!(keeper.end(Duration::from_secs(20)).await);
    assert_eq!(house.journals(), 0);
}

#[tokio::test]
async fn what_a_killed_process_has_left_is_told_at_once_and_taken_over_once() {
    let house = House::new();
    {
        let killed = house.keeper(&Usage::default());
        killed.usages().record(&[used("ann", 7, 3)]);
        all_kept(&killed).await;
        killed.usages().record(&[used("ann", 8, 4)]);
    }
    assert_eq!(house.rows(), 1);
    assert_eq!(sums(&house.answer("user"), "ann")[..4], [2, 0, 0, 15]);
    for _ in 0..2 {
        let next = house.keeper(&Usage::default());
        all_kept(&next).await;
        assert_eq!((house.rows(), sums(&house.answer("user"), "ann")[3]), (2, 15));
        assert!(next.end(Duration::from_secs(20)).await);
    }
    assert_eq!(house.journals(), 0);
}

#[tokio::test]
async fn the_journal_of_a_process_that_lives_is_left_alone() {
    let house = House::new();
    let (one, other) = (house.keeper(&Usage::default()), house.keeper(&Usage::default()));
    one.usages().record(&[used("ann", 7, 3)]);
    all_kept(&other).await;
    assert_eq!((house.rows(), house.journals()), (0, 2));
    assert_eq!(sums(&house.answer("user"), "ann")[3], 7);
    all_kept(&one).await;
    assert_eq!(house.rows(), 1);
}

#[tokio::test]
async fn a_part_of_a_journal_counts_once_however_often_it_is_folded() {
    let house = House::new();
    let mut connection = crate::storage::direct(&house.file(), TABLES).unwrap();
    let whose = Whose { day: today(), names: ["acme", "", "ann", "", "k", "m", "none"].map(Box::from) };
    let rows = [(whose, [1, 0, 0, 5, 0, 1, 0, 0, 9])];
    for to in [1, 1, 3, 2, 3] {
        let transaction = connection.transaction().unwrap();
        crate::storage::usage::fold(&transaction, "a journal", to, &rows, 100, 0).unwrap();
        transaction.commit().unwrap();
    }
    assert_eq!(sums(&house.answer("user"), "ann")[..4], [2, 0, 0, 10]);
}

#[tokio::test]
async fn while_the_store_is_locked_usage_waits_in_little_room_and_is_told_all_the_same() {
    let house = House::new();
    let keeper = house.keeper(&Usage::default());
    all_kept(&keeper).await;
    let mut other = Connection::open(house.file()).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let mut state = keeper.by_hand().await;
    for _ in 0..100 {
        for user in ["ann", "bob", "cid"] {
            keeper.usages().record(&[used(user, 2, 1)]);
        }
        state.turn_and_gather(keeper.usages());
    }
    assert!(state.blocks() <= 10, "{}", state.blocks());
    assert!(keeper.usages().waiting.load(Relaxed) < 4096, "{}", keeper.usages().waiting.load(Relaxed));
    assert_eq!(sums(&house.answer("user"), "cid")[..4], [100, 0, 0, 200]);
    drop(state);
    drop(lock);
    all_kept(&keeper).await;
    assert_eq!((house.rows(), sums(&house.answer("user"), "cid")[3]), (300, 200));
    assert_eq!(keeper.usages().waiting.load(Relaxed), 0);
}

#[tokio::test]
async fn what_there_is_no_room_for_is_dropped_and_counted() {
    let house = House::new();
    let usages = Usages::new(Segment::new(1, None), 1000);
    for _ in 0..100 {
        usages.record(&[used("ann", 1, 1)]);
    }
    let (memory, dropped) = (usages.metrics.memory.get(), usages.metrics.dropped.get());
    assert!(memory > 5 && memory + dropped == 100, "{memory} {dropped}");
    assert!(usages.waiting.load(Relaxed) <= 1000);
    drop(house);
}

#[tokio::test]
async fn without_a_journal_usage_is_kept_all_the_same() {
    let house = House::new();
    let keeper = house.keeper(&Usage { journal: Some(house.0.clone()), ..Usage::default() });
    keeper.usages().record(&[used("ann", 1, 1)]);
    assert_eq!((keeper.metrics().memory.get(), keeper.metrics().journal.get()), (1, 0));
    all_kept(&keeper).await;
    assert_eq!(house.rows(), 1);
}

#[tokio::test]
async fn a_journal_that_is_taken_away_loses_nothing_of_a_process_that_lives() {
    let house = House::new();
    let keeper = house.keeper(&Usage::default());
    keeper.usages().record(&[used("ann", 1, 1)]);
    std::fs::remove_dir_all(place::of_store(None, &house.file()).unwrap()).unwrap();
    keeper.usages().record(&[used("ann", 1, 1)]);
    all_kept(&keeper).await;
    keeper.usages().record(&[used("ann", 1, 1)]);
    assert_eq!((keeper.metrics().journal.get(), keeper.metrics().memory.get()), (3, 0));
    assert_eq!((house.journals(), sums(&house.answer("user"), "ann")[0]), (1, 3));
    all_kept(&keeper).await;
    assert_eq!(house.rows(), 3);
}

#[tokio::test]
async fn a_day_has_no_more_rows_than_it_may_and_no_total_lacks_anything() {
    let house = House::new();
    let keeper = house.keeper(&Usage { rows: 10, ..Usage::default() });
    let users: Vec<String> = (0..50).map(|n| format!("u{n}")).collect();
    for user in users.iter().chain(&users) {
        keeper.usages().record(&[used(user, 3, 2)]);
        all_kept(&keeper).await;
    }
    let told = house.answer("user");
    assert!(told.len() <= 11, "{told:?}");
    assert_eq!(total(&told), [100, 0, 0, 300, 0, 100, 0, 0, 200]);
    assert_eq!(sums(&told, "(others)")[0] + 2 * (told.len() as i128 - 1), 100);
    assert_eq!(sums(&house.answer("org"), "acme")[0], 100);
}

#[tokio::test]
async fn sums_that_no_integer_of_the_store_holds_are_told_all_the_same() {
    let house = House::new();
    let keeper = house.keeper(&Usage::default());
    for user in ["ann", "bob", "cid"] {
        for _ in 0..200 {
            keeper.usages().record(&[used(user, count(u64::MAX), count(u64::MAX))]);
        }
    }
    all_kept(&keeper).await;
    let told = total(&house.answer("day"));
    // A sum stays at 2 to the 60.
    assert_eq!((told[0], told[3]), (600, 3 << 60));
}

#[test]
fn a_question_that_makes_no_sense_says_what_was_expected() {
    let ask = |by: &str, since: &str, until: Option<&str>| {
        let only = Default::default();
        let (by, since, until) = (Some(by.to_owned()), Some(since.to_owned()), until.map(str::to_owned));
        Question::read(Asked { by, since, until, only })
    };
    assert_eq!(ask("day, org,day", "2027-01-31", Some("2027-02-01")).unwrap().by, ["day", "org"]);
    assert!(ask("colour", "7d", None).unwrap_err().contains("org, team"));
    assert!(ask("org", "yesterday", None).unwrap_err().contains("7d"));
    assert!(ask("org", "1d", Some("7d")).unwrap_err().contains("before"));
}
