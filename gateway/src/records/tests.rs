//! Places for records, written, cut short, tampered with and found again.

use super::verify::{Broken, Verified, verify};
use super::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use tidegate_plugins::records::Chain;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-records-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn to(folder: &Folder, size: u64, key: Option<[u8; 32]>) -> To {
    let place = Place::Files { path: folder.0.clone(), size, every: Duration::from_secs(3600), compress: true };
    To { name: "r".into(), place, memory: 1 << 20, keep: None, keep_bytes: None, chain: Some(Chain { key }) }
}

fn sqlite(folder: &Folder) -> To {
    let place = Place::Sqlite { path: folder.0.join("records.db") };
    To { name: "r".into(), place, memory: 1 << 20, keep: None, keep_bytes: None, chain: Some(Chain { key: None }) }
}

fn record(n: u64) -> Map<String, Value> {
    let record =
        json!({ "time": format!("2020-01-31T00:00:00.{n:03}Z"), "request_id": format!("r{n}"), "text": "\"}" });
    record.as_object().unwrap().clone()
}

/// Writes records from this number on, in a process of its own as it were.
fn write(to: &To, numbers: std::ops::Range<u64>) {
    let mut place = Shared::open(to).unwrap();
    numbers.for_each(|n| put(&mut place, to, n));
}

/// Writes one, when it is this one's turn.
fn put(place: &mut Shared, to: &To, n: u64) {
    place.turn(to).unwrap().write(&mut [record(n)], to.chain.as_ref()).unwrap();
}

fn holds(path: &Path, key: Option<&[u8; 32]>) -> Verified {
    verify(path, "r", key).unwrap()
}

fn names(folder: &Folder) -> Vec<String> {
    let all = files::all(&folder.0, "r").unwrap();
    all.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_chain_goes_on_over_files_and_restarts() {
    let folder = Folder::new("on");
    write(&to(&folder, 500, None), 0..10);
    let full = names(&folder);
    assert!(
        full.len() >= 3 && full[0] == "r-000000000001.jsonl.zst" && full.last().unwrap().ends_with(".jsonl"),
        "{full:?}"
    );
    write(&to(&folder, 500, None), 10..20);
    let verified = holds(&folder.0, None);
    assert_eq!((verified.records, verified.first, verified.tail.seq), (20, 1, 20));
    // The oldest may go.
    fs::remove_file(folder.0.join(&full[0])).unwrap();
    let verified = holds(&folder.0, None);
    assert!(verified.first > 1 && verified.tail.seq == 20);
}

#[test]
fn the_end_of_a_line_that_a_kill_cut_off_goes_and_the_rest_stays() {
    let folder = Folder::new("cut");
    let to = to(&folder, 1 << 20, None);
    write(&to, 0..3);
    let path = folder.0.join("r-000000000001.jsonl");
    let whole = fs::read(&path).unwrap();
    for cut in [1, 10, whole.len() / 3 + 5] {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        write(&to, 3..4);
        let verified = holds(&folder.0, None);
        assert_eq!(verified.tail.seq, verified.records);
        assert!((2..=3).contains(&verified.records), "{cut}: {verified:?}");
    }
    fs::write(&path, "{\"half").unwrap();
    write(&to, 0..1);
    assert_eq!(holds(&folder.0, None).records, 1);
}

#[test]
fn what_was_changed_put_in_or_taken_out_shows() {
    let folder = Folder::new("tampered");
    write(&to(&folder, 1 << 20, None), 0..5);
    let path = folder.0.join("r-000000000001.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let broken = |lines: &[&str]| {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        match verify(&folder.0, "r", None) {
            Err(Broken::Here { place, why }) => (place.rsplit(':').next().unwrap().to_owned(), why),
            other => panic!("{other:?}"),
        }
    };
    let changed = lines[2].replace("r2", "rX");
    assert!(broken(&[lines[0], lines[1], &changed, lines[3], lines[4]]).1.contains("was changed"));
    assert_eq!(
        broken(&[lines[0], lines[1], lines[3], lines[4]]),
        ("3".to_owned(), "record 4 comes after record 2".to_owned())
    );
    assert_eq!(broken(&[lines[0], lines[1], lines[1], lines[2]]).0, "3");
    assert!(broken(&["{}"]).1.contains("in no chain"));
    // Another chain, whole in itself, does not fit in.
    let other = Folder::new("other");
    write(&to(&other, 1 << 20, None), 7..12);
    let forged = fs::read_to_string(other.0.join("r-000000000001.jsonl")).unwrap();
    let forged: Vec<&str> = forged.lines().collect();
    assert!(broken(&[lines[0], lines[1], forged[2]]).1.contains("the record before it"));
}

#[test]
fn a_chain_with_a_key_cannot_be_made_without_it() {
    let folder = Folder::new("keyed");
    write(&to(&folder, 1 << 20, Some([7; 32])), 0..3);
    assert_eq!(holds(&folder.0, Some(&[7; 32])).records, 3);
    assert!(verify(&folder.0, "r", None).is_err() && verify(&folder.0, "r", Some(&[8; 32])).is_err());
}

#[test]
fn a_table_has_the_same_chain_and_forgets_the_oldest() {
    let folder = Folder::new("table");
    write(&sqlite(&folder), 0..5);
    write(&sqlite(&folder), 5..8);
    let path = folder.0.join("records.db");
    assert_eq!(holds(&path, None).records, 8);
    let (to, mut place) = (sqlite(&folder), Shared::open(&sqlite(&folder)).unwrap());
    place
        .turn(&to)
        .unwrap()
        .tidy(&To { keep: Some(Duration::from_secs(3600 * 24 * 36500)), ..sqlite(&folder) })
        .unwrap();
    assert_eq!(holds(&path, None).records, 8);
    let connection = crate::storage::direct(&path, sqlite::TABLES).unwrap();
    connection.execute("UPDATE records SET line = replace(line, 'r4', 'rX') WHERE seq = 5", []).unwrap();
    assert!(verify(&path, "r", None).is_err_and(|broken| broken.to_string().contains("record 5")));
    place.turn(&to).unwrap().tidy(&To { keep: Some(Duration::from_secs(3600)), ..sqlite(&folder) }).unwrap();
    let verified = holds(&path, None);
    assert_eq!((verified.records, verified.first), (1, 8), "the next is tied to the last");
}

#[test]
fn two_processes_write_in_turns_and_make_one_chain() {
    let folder = Folder::new("turns");
    let table = folder.0.join("records.db");
    for (to, path) in [(to(&folder, 700, None), folder.0.clone()), (sqlite(&folder), table)] {
        let (mut old, mut new) = (Shared::open(&to).unwrap(), Shared::open(&to).unwrap());
        for n in 0..40 {
            put(if n % 3 == 0 { &mut old } else { &mut new }, &to, n);
            if n % 7 == 0 {
                old.turn(&to).unwrap().tidy(&to).unwrap();
            }
        }
        let verified = holds(&path, None);
        assert_eq!((verified.records, verified.first, verified.tail.seq), (40, 1, 40));
    }
    assert!(names(&folder).len() > 5, "files were begun by both: {:?}", names(&folder));
}

#[test]
fn a_place_that_was_taken_away_is_found_again() {
    let folder = Folder::new("away");
    for (to, path) in [
        (to(&folder, 1 << 20, None), folder.0.join("r-000000000001.jsonl")),
        (sqlite(&folder), folder.0.join("records.db")),
    ] {
        let mut place = Shared::open(&to).unwrap();
        put(&mut place, &to, 0);
        fs::remove_file(&path).unwrap();
        put(&mut place, &to, 1);
        assert!(path.exists(), "what is written to a file without a name is lost");
        let all = folder.0.with_extension("elsewhere");
        fs::rename(&folder.0, &all).unwrap();
        assert!(place.turn(&to).is_err(), "there is no such directory");
        fs::rename(&all, &folder.0).unwrap();
        put(&mut place, &to, 2);
        assert_eq!(holds(if path.extension().unwrap() == "db" { &path } else { &folder.0 }, None).records, 2);
    }
}

#[test]
fn one_process_writes_at_a_time_and_the_next_waits_for_it() {
    let folder = Folder::new("one");
    let to = to(&folder, 1 << 20, None);
    let mut first = Shared::open(&to).unwrap();
    let turn = first.turn(&to).unwrap();
    let sinks = RecordSinks::new(RecordMetrics::new().unwrap());
    let sink = sinks.open(&to).unwrap();
    sink.put(sink.reserve(10).unwrap(), Box::new(|| record(0)));
    assert_eq!(sink.flush(Duration::from_millis(300)).waiting, 1, "it is somebody else's turn");
    drop(turn);
    assert_eq!(sink.flush(Duration::from_secs(20)).waiting, 0);
    assert_eq!(holds(&folder.0, None).records, 1);
    assert!(Arc::ptr_eq(&sinks.all()[0], &sink) && Arc::ptr_eq(&sinks.open(&to).unwrap(), &sink));
}

/// Puts the time of a file back.
fn age(path: &Path, by: Duration) {
    let then = std::time::SystemTime::now() - by;
    fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn files_go_when_they_are_too_old_or_too_many_and_the_chain_holds_from_there_on() {
    let folder = Folder::new("kept");
    let to = to(&folder, 500, None);
    write(&to, 0..20);
    let all = names(&folder);
    assert!(all.len() >= 6, "{all:?}");
    let mut place = Shared::open(&to).unwrap();
    // By age: what was written last before that.
    for name in &all[..2] {
        age(&folder.0.join(name), Duration::from_secs(3700));
    }
    let hour = To { keep: Some(Duration::from_secs(3600)), ..to.clone() };
    place.turn(&hour).unwrap().tidy(&hour).unwrap();
    assert_eq!(names(&folder), all[2..]);
    // By bytes: the oldest, until no more than that is there.
    let size = |name: &String| fs::metadata(folder.0.join(name)).unwrap().len();
    let most: u64 = names(&folder)[2..].iter().map(size).sum();
    let bound = To { keep_bytes: Some(most), ..to.clone() };
    place.turn(&bound).unwrap().tidy(&bound).unwrap();
    assert_eq!(names(&folder), all[4..]);
    let verified = holds(&folder.0, None);
    assert!(verified.first > 1 && verified.tail.seq == 20, "{verified:?}");
    // What is being written stays, however small the bound.
    let nothing = To { keep_bytes: Some(1), keep: Some(Duration::ZERO), ..to.clone() };
    place.turn(&nothing).unwrap().tidy(&nothing).unwrap();
    assert_eq!(names(&folder), all[all.len() - 1..]);
    put(&mut place, &to, 20);
    assert_eq!(holds(&folder.0, None).tail.seq, 21);
}

#[test]
fn rows_go_when_they_are_too_many() {
    let folder = Folder::new("rows");
    let to = sqlite(&folder);
    let path = folder.0.join("records.db");
    let mut place = Shared::open(&to).unwrap();
    let mut many: Vec<_> = (0..2000).map(record).collect();
    place.turn(&to).unwrap().write(&mut many, to.chain.as_ref()).unwrap();
    let most = 200 << 10;
    let bound = To { keep_bytes: Some(most), ..to.clone() };
    place.turn(&bound).unwrap().tidy(&bound).unwrap();
    let verified = holds(&path, None);
    assert!((100..1990).contains(&verified.records) && verified.tail.seq == 2000, "{verified:?}");
    let nothing = To { keep_bytes: Some(1), ..to.clone() };
    place.turn(&nothing).unwrap().tidy(&nothing).unwrap();
    assert_eq!(holds(&path, None).records, 1, "the last stays: the next is tied to it");
}
