//! Records of conversations: what is kept and what is not, that nobody waits for it, and that none is lost that should not be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Gate, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Folder, Gateway, Key, Metrics, command, command_with};
use crate::upgrade::kept::in_files;

/// A file with this filter and one backend.
fn file(record: &str, backend: &Backend) -> String {
    format!("filters:\n- record: {{ {record} }}\npools:\n  main: {{ health: off, backends: ['{}'] }}\n", backend.url())
}

const FILES: &str = "to: { files: { path: '$DIR/records' } }";

fn folder() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("records")).unwrap();
    folder
}

/// Every record in the files there, the oldest first.
fn kept(folder: &Path) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn until(gateway: &Gateway, holds: impl Fn(&Metrics) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = gateway.metrics().await;
        if holds(&metrics) {
            return;
        }
        assert!(Instant::now() < until, "{}", metrics.with("tidegate_records"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn written(gateway: &Gateway, number: f64) {
    until(gateway, |metrics| metrics.sum("tidegate_records_total", &[("outcome", "written")]) == number).await;
}

fn chat(content: &str) -> Request {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
    Request::post("/v1/chat/completions", body.to_string())
}

#[tokio::test]
async fn what_was_asked_and_answered_is_kept_without_what_is_secret_streams_as_whole_answers() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let record = format!("{FILES}, what: full, redact: [key, email, {{ pattern: 'ebb', with: 'flow' }}]");
    let text = format!(
        "filters:\n- api_key: {{ keys: [{{ id: k1, hash: \"{}\", user: ann, org: acme }}] }}\n- record: {{ {record} }}\npools:\n  main: {{ health: off, backends: ['{}'] }}\n",
        key.hash,
        backend.url()
    );
    let gateway = Gateway::start_in(folder(), &text, &[]).await;
    backend.push(Script::chat("write to bob@example.com")).push(Script::words(&["the ", "ebb"], Duration::ZERO));
    let asked = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"my key {} ann\u0040example.com"}}]}}"#,
        key.key
    );
    let first = Request::post("/v1/chat/completions", asked).header("x-request-id", "whole").bearer(&key.key);
    let answer = gateway.send(&first).await;
    assert!(answer.status == 200 && answer.text().contains("bob@example.com"), "the client gets what was said");
    let second = Request::stream("m").header("x-request-id", "stream").bearer(&key.key);
    assert_eq!(gateway.send(&second).await.status, 200);
    written(&gateway, 2.0).await;
    let records = kept(&gateway.folder.path().join("records"));
    let (whole, stream) = (&records[0], &records[1]);
    assert_eq!(whole["request"]["messages"][0]["content"], "my key [key] [email]");
    assert_eq!(whole["answer"]["choices"][0]["message"]["content"], "write to [email]");
    assert_eq!(stream["answer"]["choices"][0]["message"]["content"], "the flow");
    for (field, value) in [
        ("request_id", json!("whole")),
        ("org", json!("acme")),
        ("user", json!("ann")),
        ("key_id", json!("k1")),
        ("model", json!("m")),
        ("status", json!(200)),
        ("complete", json!(true)),
        ("source", json!("backend")),
        ("seq", json!(1)),
    ] {
        assert_eq!(whole[field], value, "{field}: {whole}");
    }
    let all = Command::new("grep").args(["-r", &key.key]).arg(gateway.folder.path().join("records")).output().unwrap();
    assert!(all.stdout.is_empty(), "{}", String::from_utf8_lossy(&all.stdout));
}

#[tokio::test]
async fn an_organisation_may_be_left_out_and_what_is_too_long_is() {
    let (backend, acme, beta) = (Backend::start().await, Key::new("a"), Key::new("b"));
    backend.always(Script::chat("fine"));
    let text = format!(
        "filters:\n- api_key: {{ keys: [{{ id: a, hash: \"{}\", org: acme }}, {{ id: b, hash: \"{}\", org: beta }}] }}\n- record: {{ {FILES}, what: full, orgs: {{ acme: off }}, content: 400 }}\npools:\n  main: {{ health: off, backends: ['{}'] }}\n",
        acme.hash,
        beta.hash,
        backend.url()
    );
    let gateway = Gateway::start_in(folder(), &text, &[]).await;
    for (key, content) in [(&acme, "no".to_owned()), (&beta, "yes".to_owned()), (&beta, "x".repeat(1000))] {
        assert_eq!(gateway.send(&chat(&content).bearer(&key.key)).await.status, 200);
    }
    written(&gateway, 2.0).await;
    let records = kept(&gateway.folder.path().join("records"));
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["request"]["messages"][0]["content"], "yes");
    assert!(records[1]["request"]["left_out"].as_u64().unwrap() > 1000, "{}", records[1]);
    assert_eq!(records[1]["answer"]["choices"][0]["message"]["content"], "fine");
}

#[tokio::test]
async fn a_small_model_sums_up_in_the_background_and_what_is_flagged_stays_as_it_was() {
    let (backend, small, key) = (Backend::start().await, Backend::start().await, Key::new("k"));
    backend.always(Script::chat("forty-two, says ann@example.com"));
    let gate = Gate::closed();
    let said = Script::chat("A question was asked and answered.");
    small.push(Script::new().wait(&gate).send(answer("A question was asked and answered."))).push(said);
    let text = format!(
        "filters:\n- api_key: {{ keys: [{{ id: k, hash: \"{}\", org: acme, user: ann }}] }}\n- record: {{ {FILES}, what: summary, summary: {{ model: small }}, redact: [email], raw_when: 'header(\"x-keep\") == \"raw\"' }}\nmodels: {{ m: {{ pool: main }}, small: {{ pool: small }} }}\npools:\n  main: {{ health: off, backends: ['{}'] }}\n  small: {{ health: off, backends: ['{}'] }}\n",
        key.hash,
        backend.url(),
        small.url()
    );
    let gateway = Gateway::start_in(folder(), &text, &[]).await;
    assert_eq!(gateway.send(&chat("what is it").bearer(&key.key)).await.status, 200, "nobody waits for the summary");
    let asked = small.seen(0).await;
    let asked_about = backend.seen(0).await.header("x-request-id").unwrap().to_owned();
    let told = asked.json()["messages"][1]["content"].as_str().unwrap().to_owned();
    assert!(told.contains("what is it") && told.contains("says [email]"), "{told}");
    gate.open();
    assert_eq!(gateway.send(&chat("keep this").bearer(&key.key).header("x-keep", "raw")).await.status, 200);
    written(&gateway, 2.0).await;
    let records = kept(&gateway.folder.path().join("records"));
    let (summed, raw) = match records[0]["summary"].is_null() {
        false => (&records[0], &records[1]),
        true => (&records[1], &records[0]),
    };
    assert_eq!(summed["summary"], "A question was asked and answered.");
    assert!(summed["request"].is_null() && summed["answer"].is_null(), "{summed}");
    assert_eq!(raw["request"]["messages"][0]["content"], "keep this");
    // Its own line: what it is, for which request, and on whose account.
    let line = gateway.log.line(|line| line["event"] == "summary" && line["request_id"] == *asked_about).await;
    assert_eq!(
        (&line["route"], &line["org"], &line["user"]),
        (&json!("small"), &json!("acme"), &json!("ann")),
        "{line}"
    );
    assert_eq!(line["notes"]["sink"], "records");
    // A model that fails leaves a record that says nothing of what was said.
    small.always(Script::status("500 Internal Server Error", "{}"));
    small.push(Script::status("500 Internal Server Error", "{}"));
    gateway.send(&chat("once more").bearer(&key.key)).await;
    gateway.send(&chat("and again").bearer(&key.key)).await;
    written(&gateway, 4.0).await;
    let last = kept(&gateway.folder.path().join("records")).pop().unwrap();
    assert!(last["unsummarised"] == "failed" && last["request"].is_null(), "{last}");
}

fn answer(text: &str) -> String {
    let body = crate::backend::chat(text);
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_place_that_cannot_be_written_costs_records_or_answers_as_the_file_says_and_takes_them_again() {
    for refuses in [false, true] {
        let backend = Backend::start().await;
        backend.always(Script::chat("fine"));
        let when = if refuses { "refuse" } else { "drop" };
        let record = format!("{FILES}, what: metadata, when_full: {when}, content: 1KiB, memory: 3200");
        let folder = folder();
        // Somebody else writes there.
        let lock = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("records/.records.lock"))
            .unwrap();
        lock.lock().unwrap();
        let gateway = Gateway::start_in(folder, &file(&record, &backend), &[]).await;
        let mut statuses = Vec::new();
        for _ in 0..10 {
            statuses.push(gateway.send(&chat("hi")).await.status);
        }
        let metrics = gateway.metrics().await;
        let count = |outcome| metrics.sum("tidegate_records_total", &[("outcome", outcome)]);
        assert_eq!(metrics.sum("tidegate_records_up", &[]), 0.0);
        let told =
            |line: &Value| line["message"] == "records cannot be written; they wait" && line["sink"] == "records";
        gateway.log.line(told).await;
        let health = gateway.admin("/healthz").await.json()["records"]["records"].clone();
        assert_eq!((&health["up"], &health["reason"]), (&json!(false), &json!("another process writes there")));
        until(&gateway, |metrics| metrics.sum("tidegate_memory_bytes", &[("purpose", "records")]) > 0.0).await;
        if refuses {
            assert_eq!(statuses, [200, 200, 200, 503, 503, 503, 503, 503, 503, 503]);
            let refused = gateway.send(&chat("hi")).await.openai_error(503);
            assert_eq!(refused["code"], "record_unavailable");
            let says =
                |line: &Value| line["error"].as_str().is_some_and(|error| error.starts_with("record_unavailable: "));
            gateway.log.line(says).await;
            assert_eq!((count("refused"), count("dropped")), (7.0, 0.0));
        } else {
            assert_eq!(statuses, [200; 10]);
            until(&gateway, |metrics| metrics.sum("tidegate_records_total", &[("outcome", "dropped")]) == 7.0).await;
        }
        drop(lock);
        written(&gateway, 3.0).await;
        gateway.log.line(|line| line["message"] == "records are written again").await;
        assert_eq!(gateway.send(&chat("hi")).await.status, 200);
        written(&gateway, 4.0).await;
        assert_eq!(kept(&gateway.folder.path().join("records")).len(), 4);
    }
}

/// Clients that ask until they fail; gives the ids of what was answered, and when.
async fn load(gateway: &Gateway) -> (Vec<tokio::task::JoinHandle<Vec<(String, Instant)>>>, Arc<AtomicU64>) {
    let answered = Arc::new(AtomicU64::new(0));
    let clients = (0..8).map(|client| {
        let (address, answered) = (gateway.address(), answered.clone());
        tokio::spawn(async move {
            let mut done = Vec::new();
            let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return done };
            let mut connection = Connection::over(stream);
            for n in 0.. {
                let id = format!("c{client}-{n}");
                let request = chat("hi").header("x-request-id", &id);
                let asked = tokio::spawn(async move {
                    let status = connection.exchange(&request).await;
                    (connection, status)
                });
                // The rig panics where a connection breaks: that is the end of it.
                let Ok((back, answer)) = asked.await else { return done };
                if answer.status != 200 || answer.end != crate::client::End::Whole {
                    return done;
                }
                connection = back;
                done.push((id, Instant::now()));
                answered.fetch_add(1, SeqCst);
            }
            done
        })
    });
    (clients.collect(), answered)
}

#[tokio::test]
async fn on_sigterm_nothing_is_lost_and_on_a_kill_only_what_was_over_a_moment_ago() {
    // Into one file, and into many that are closed and compressed meanwhile.
    let small = FILES.replace("records'", "records', size: 16KiB");
    for (signal, files) in [("TERM", FILES), ("TERM", &small), ("KILL", FILES), ("KILL", &small)] {
        let backend = Backend::start().await;
        backend.always(Script::chat("fine"));
        let record = format!("{files}, what: full, chain: {{}}");
        let mut gateway = Gateway::start_in(folder(), &file(&record, &backend), &[]).await;
        let (clients, answered) = load(&gateway).await;
        let patience = Instant::now() + Duration::from_secs(30);
        while answered.load(SeqCst) < 300 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gateway.signal(signal);
        let at = Instant::now();
        gateway.ended(Duration::from_secs(30)).await;
        let mut over = Vec::new();
        for client in clients {
            over.extend(client.await.unwrap());
        }
        assert!(over.len() >= 300, "{}", over.len());
        let path = gateway.folder.path().join("records");
        let known: std::collections::HashSet<String> =
            in_files(&path).iter().map(|one| one["request_id"].as_str().unwrap().to_owned()).collect();
        let lost: Vec<Duration> = over
            .iter()
            .filter(|(id, _)| !known.contains(id))
            .map(|(_, when)| at.saturating_duration_since(*when))
            .collect();
        let longest = lost.iter().max().copied().unwrap_or_default();
        tell(&format!(
            "{signal}, {files}: of {} answered {} are not recorded, the oldest over for {longest:?}",
            over.len(),
            lost.len()
        ));
        if signal == "TERM" {
            assert!(lost.is_empty(), "{} of {}", lost.len(), over.len());
            let output = command(&["records", "verify", path.to_str().unwrap()]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        } else {
            // It is 20 ms and a write on a machine that has nothing else to do; this one may be busy.
            assert!(longest < WINDOW, "{longest:?}");
        }
    }
}

/// What was over for so long before a kill is on the disk.
const WINDOW: Duration = Duration::from_secs(3);

#[expect(clippy::print_stderr, reason = "what is measured is worth seeing: --no-capture")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[tokio::test]
async fn a_record_that_was_changed_is_found_and_the_chain_goes_on_after_a_restart() {
    let backend = Backend::start().await;
    backend.always(Script::chat("fine"));
    let record = format!("{FILES}, name: audit, chain: {{ key: '${{env:RECORDS_CHAIN_KEY}}' }}");
    let mut gateway = None;
    let mut dir = Some(folder());
    let key = [("RECORDS_CHAIN_KEY", "of-the-audit")];
    for round in 1..=2 {
        let mut running = Gateway::start_in(dir.take().unwrap(), &file(&record, &backend), &key).await;
        for _ in 0..3 {
            running.send(&chat("hi")).await;
        }
        written(&running, 3.0).await;
        let shown = running.admin("/admin/config").await;
        assert!(!shown.text().contains("of-the-audit"), "{}", shown.text());
        running.signal("TERM");
        running.ended(Duration::from_secs(20)).await;
        if round == 1 {
            dir = Some(std::mem::replace(&mut running.folder, Folder::new()));
        } else {
            gateway = Some(running);
        }
    }
    let path = gateway.as_ref().unwrap().folder.path().join("records");
    let verify = |environment: &[(&str, &str)], more: &[&str]| {
        let output = command_with(
            &[&["records", "verify", path.to_str().unwrap(), "--name", "audit"], more].concat(),
            environment,
        );
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = verify(&key, &[]);
    assert!(code == 0 && said.contains("6 records, from number 1 to 6"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head ")).unwrap().to_owned();
    assert_eq!(verify(&key, &["--head", &head]).0, 0);
    assert_eq!(verify(&[], &[]).0, 1, "without the key nothing holds");
    let name = path.join("audit-000000000001.jsonl");
    let text = std::fs::read_to_string(&name).unwrap();
    std::fs::write(&name, text.lines().take(5).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert_eq!(
        (verify(&key, &[]).0, verify(&key, &["--head", &head]).0),
        (0, 1),
        "an end that is cut off shows by the head"
    );
    std::fs::write(&name, text.replacen("\"status\":200", "\"status\":201", 1)).unwrap();
    let (code, said) = verify(&key, &[]);
    assert!(code == 1 && said.contains("audit-000000000001.jsonl:1: this record was changed"), "{said}");
}

#[tokio::test]
async fn at_the_end_it_is_told_what_could_not_be_written_where_and_why() {
    let (backend, folder) = (Backend::start().await, folder());
    backend.always(Script::chat("fine"));
    let locked = |name: &str| {
        let path = folder.path().join(format!("records/.{name}.lock"));
        let lock = std::fs::File::options().create(true).append(true).open(path).unwrap();
        lock.lock().unwrap();
        lock
    };
    let locks = [locked("one"), locked("two"), locked("three")];
    let filters: String =
        ["one", "two", "three"].iter().map(|name| format!("- record: {{ {FILES}, name: {name} }}\n")).collect();
    let text = format!("filters:\n{filters}pools:\n  main: {{ health: off, backends: ['{}'] }}\n", backend.url());
    let mut gateway = Gateway::start_in(folder, &text, &[]).await;
    for _ in 0..2 {
        assert_eq!(gateway.send(&chat("hi")).await.status, 200);
    }
    gateway.signal("TERM");
    gateway.ended(Duration::from_secs(30)).await;
    let lines = gateway.log.json();
    for name in ["one", "two", "three"] {
        let told = |line: &&Value| line["message"] == "not all records could be written" && line["sink"] == name;
        let line = lines.iter().find(told).unwrap_or_else(|| panic!("{}", gateway.log.text()));
        assert_eq!((&line["records"], &line["fault"]), (&json!(2), &json!("another process writes there")), "{line}");
    }
    drop(locks);
}

#[test]
fn a_directory_that_is_not_there_is_a_fault_before_the_gateway_starts() {
    let folder = Folder::new();
    for to in ["files: { path: records }", "sqlite: { path: records/r.db }"] {
        let text = format!(
            "filters:\n- record: {{ to: {{ {to} }} }}\npools:\n  main: {{ backends: ['http://127.0.0.1:1'] }}\n"
        );
        let output = command(&["check", folder.write("gateway.yaml", &text).to_str().unwrap()]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && said.contains("there is no directory"), "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_a_fault_at_its_place() {
    let folder = Folder::new();
    let text = "filters:\n- record: { to: { files: { path: records, size: 0 } }, what: summary, share: 0%, memory: 1KiB, redact: [{ pattern: '(' }] }\npools:\n  main: { backends: ['http://127.0.0.1:1'] }\n";
    let path = folder.write("gateway.yaml", text);
    let output = command(&["check", path.to_str().unwrap()]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success());
    for part in [
        "nobody writes the summaries",
        "nothing would ever be kept",
        "not enough for one record",
        "a file of its own",
        "regex parse error",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
