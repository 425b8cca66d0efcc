//! The command line: what each verb prints, and the exit codes scripts rely on.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::backend::{Backend, Script};
use crate::client::{Connection, Request};
use crate::gateway::{BINARY, Folder, Key, command, command_with, free_port, pool_of};

/// Standard output, standard error and the exit code of a command.
fn run(arguments: &[&str]) -> (String, String, i32) {
    let output = command(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap_or(-1))
}

const FAULTY: &str = "listen: 127.0.0.1:80800\npools:\n  main:\n    balnce: round_robin\n    timeouts: { connect: 2 parsecs }\n    backends: [ftp://x]\nmodels:\n  m: { pool: mian }\n";

#[test]
fn check_names_all_faults_at_once_with_place_snippet_and_suggestion() {
    let folder = Folder::new();
    let file = folder.write("faulty.yaml", FAULTY);
    let (out, err, code) = run(&["check", file.to_str().unwrap()]);
    let said = out + &err;
    assert_eq!(code, 2, "{said}");
    for place in ["faulty.yaml:1:", "faulty.yaml:4:", "faulty.yaml:5:", "faulty.yaml:6:", "faulty.yaml:8:"] {
        assert!(said.contains(place), "{place} is missing in:\n{said}");
    }
    assert!(said.contains('^'), "no caret:\n{said}");
    assert!(said.contains("balance") && said.contains("main"), "no suggestion:\n{said}");
    assert!(said.contains("pools.main"), "no path:\n{said}");
}

#[test]
fn check_speaks_json_to_machines() {
    let folder = Folder::new();
    let file = folder.write("faulty.yaml", FAULTY);
    let (out, _, code) = run(&["check", file.to_str().unwrap(), "--format", "json"]);
    assert_eq!(code, 2);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let text = json.to_string();
    assert!(text.contains("\"line\"") && text.contains("balnce"), "{text}");
    let good = folder.write("good.yaml", "pools: { main: { backends: [http://127.0.0.1:1] } }\n");
    let (out, _, code) = run(&["check", good.to_str().unwrap(), "--format", "json"]);
    assert_eq!(code, 0);
    serde_json::from_str::<serde_json::Value>(&out).unwrap();
}

#[test]
fn check_of_a_good_file_is_0_and_of_a_missing_one_2() {
    let folder = Folder::new();
    let good = folder.write("good.yaml", "pools: { main: { backends: [http://127.0.0.1:1] } }\n");
    let (out, err, code) = run(&["check", good.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
    let (_, err, code) = run(&["check", "/nothing/here.yaml"]);
    assert_eq!(code, 2);
    assert!(err.contains("/nothing/here.yaml"), "{err}");
}

#[test]
fn the_environment_fills_in_and_overrides_the_file() {
    let folder = Folder::new();
    let text = "pools: { main: { backends: [{ url: \"http://127.0.0.1:1\", key: \"${env:RIG_KEY}\" }] } }\n";
    let file = folder.write("env.yaml", text);
    let path = file.to_str().unwrap();
    let output = command_with(&["check", path], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("RIG_KEY"), "{said}");
    assert_eq!(command_with(&["check", path], &[("RIG_KEY", "x")]).status.code(), Some(0));
    let output = command_with(&["check", path], &[("RIG_KEY", "x"), ("TIDEGATE_LIMITS__BODY", "lots")]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("TIDEGATE_LIMITS__BODY"), "an override is named as such: {said}");
}

#[test]
fn schema_is_json_schema_that_knows_the_settings() {
    let (out, _, code) = run(&["schema"]);
    assert_eq!(code, 0);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("2020-12"));
    for key in ["listen", "pools", "models", "filters", "limits", "timeouts", "cors", "drain"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    assert!(out.contains("api_key"), "filters are part of it");
}

#[test]
fn version_and_completions_print_what_their_name_says() {
    let (out, _, code) = run(&["version"]);
    assert_eq!(code, 0);
    assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
    for shell in ["bash", "zsh", "fish"] {
        let (out, _, code) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("tidegate"), "{shell}");
    }
    let (_, err, code) = run(&["nonsense"]);
    assert_eq!(code, 2);
    assert!(err.contains("nonsense"), "{err}");
}

#[test]
fn check_takes_the_file_as_run_does_and_the_other_commands_leave_its_warnings_to_it() {
    let folder = Folder::new();
    let text =
        "pools: { p: { backends: [http://127.0.0.1:1] } }\nadmin: { token: written-down }\nstorage: { path: k.db }\n";
    let file = folder.write("gateway.yaml", text).display().to_string();
    for arguments in [&["check", &file][..], &["check", "--config", &file], &["check", "-c", &file]] {
        let (out, err, code) = run(arguments);
        assert!(code == 0 && out.contains("plain text") && out.contains("is fine"), "{out}{err}");
    }
    let (_, err, code) = run(&["check"]);
    assert!(code == 2 && err.contains("FILE"), "{err}");
    for arguments in [&["keys", "list", "--config", &file][..], &["keys", "new", "--config", &file, "--org", "acme"]] {
        let (out, err, code) = run(arguments);
        assert!(code == 0 && !err.contains("plain text"), "{out}{err}");
    }
}

#[test]
fn keys_new_prints_a_key_once_and_the_entry_for_the_file() {
    let (out, err, code) = run(&["keys", "new", "--id", "alice", "--team", "red"]);
    assert_eq!(code, 0);
    for word in ["tg-", "id: alice", "team: red", "hash:"] {
        assert!((out.clone() + &err).contains(word), "{word} is missing in:\n{out}{err}");
    }
    let (first, second) = (Key::new("a"), Key::new("a"));
    assert!(first.key != second.key && first.hash != second.hash, "each is random");
    // 160 bits and a checksum in letters and digits.
    assert!(first.key.len() >= 32 && !first.hash.contains(&first.key));
}

#[tokio::test]
async fn init_writes_a_starter_from_a_running_backend_that_check_accepts() {
    let backend = Backend::start().await;
    backend.probes_get(|_| Script::models(&["llama-3.1-8b"]));
    let (folder, url) = (Folder::new(), backend.url().to_owned());
    let file = folder.path().join("starter.yaml");
    let arguments = ["init", "--from", &url, "--output", file.to_str().unwrap()].map(str::to_owned);
    let output = tokio::task::spawn_blocking(move || command(&arguments.each_ref().map(String::as_str))).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("llama-3.1-8b") && text.contains(backend.url()) && text.contains("# "), "{text}");
    let (out, err, code) = run(&["check", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
}

#[tokio::test]
async fn explain_says_what_a_request_would_meet_and_why() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    let text = format!(
        "{}models:\n  gpt-4o-mini: {{ pool: main, as: llama }}\n  \"qwen*\": {{ pool: main }}\n",
        pool_of(&[&backend])
    );
    let file = folder.write("explain.yaml", &text);
    let (out, err, code) = run(&["explain", "--config", file.to_str().unwrap(), "--model", "gpt-4o-mini"]);
    assert_eq!(code, 0, "{err}");
    for word in ["gpt-4o-mini", "llama", "main", backend.url()] {
        assert!(out.contains(word), "{word} is missing in:\n{out}");
    }
    let (out, ..) = run(&["explain", "--config", file.to_str().unwrap(), "--model", "qwen-2"]);
    assert!(out.contains("qwen*"), "{out}");
    let (out, err, _) = run(&["explain", "--config", file.to_str().unwrap(), "--model", "gpt-4o-min"]);
    assert!((out + &err).contains("gpt-4o-mini"), "a near name");
}

/// A long-running command, killed when dropped.
struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(arguments: &[String]) -> Self {
        let mut child = Command::new(BINARY)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for pipe in pipes {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    drop(send.send(line));
                }
            });
        }
        Self { child, lines }
    }

    /// Everything printed until a line that `last` takes, for at most 15 s.
    fn until(&self, last: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        while let Ok(line) = self.lines.recv_timeout(std::time::Duration::from_secs(15)) {
            text.push_str(&line);
            text.push('\n');
            if last(&line) {
                return text;
            }
        }
        panic!("it never said so:\n{text}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn answers(port: u16, request: &Request) -> crate::client::Answer {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..400 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Connection::open(address).await.exchange(request).await
}

#[tokio::test]
async fn proxy_needs_no_file_and_tells_how_to_use_it() {
    let backend = Backend::start().await;
    backend.probes_get(|_| Script::models(&["llama-3.1-8b"]));
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["proxy", "--to", backend.url(), "--listen", &listen];
    let running = Running::start(&arguments.map(str::to_owned));
    let answer = answers(port, &Request::chat("llama-3.1-8b")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let base = format!("http://127.0.0.1:{port}/v1");
    let text = tokio::task::spawn_blocking(move || running.until(|line| line.contains(&base))).await.unwrap();
    assert!(text.contains("llama-3.1-8b") || text.contains(&port.to_string()), "{text}");
}

/// The lines of `text` from one that starts so to one that is so.
fn block(text: &str, first: &str, last: &str) -> String {
    let from = text.lines().skip_while(|line| !line.starts_with(first));
    let lines: Vec<&str> = from.take_while(|line| *line != last).collect();
    assert!(!lines.is_empty(), "no {first} in:\n{text}");
    lines.join("\n") + "\n" + last + "\n"
}

#[tokio::test]
async fn demo_answers_and_prints_snippets_that_work_when_pasted() {
    let port = free_port();
    let running = Running::start(&["demo", "--port", &port.to_string()].map(str::to_owned));
    let list = answers(port, &Request::get("/v1/models")).await;
    assert!(matches!(list.status, 200 | 401), "{}", list.status);
    let pasted = tokio::task::spawn_blocking(move || {
        let text = running.until(|line| line.contains("Ctrl-C"));
        let snippets = [block(&text, "curl -N", ""), block(&text, "python3 - <<", "EOF"), block(&text, "node ", "EOF")];
        let pasting = snippets.map(|snippet| {
            std::thread::spawn(move || {
                let output = Command::new("bash").arg("-c").arg(&snippet).stdin(Stdio::null()).output().unwrap();
                (snippet, String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
            })
        });
        let pasted = pasting.map(|thread| thread.join().unwrap());
        drop(running);
        pasted
    });
    let [curl, python, node] = pasted.await.unwrap();
    assert!(curl.2 && curl.1.contains("data: [DONE]"), "{curl:?}");
    for (snippet, said, well) in [python, node] {
        assert!(well && said.split(' ').count() > 3, "{snippet}\nsaid {said:?}");
    }
}
