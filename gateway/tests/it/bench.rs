//! `tidegate bench`: what it measures of a server that does as it is told, and what scripts learn from it.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::backend::{Backend, Script};
use crate::certs::Certs;
use crate::gateway::{BINARY, Folder, refused};

/// Runs `tidegate bench --to URL` with more arguments to its end.
async fn bench(url: &str, arguments: &[&str]) -> Output {
    bench_with(url, arguments, &[]).await
}

async fn bench_with(url: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = begin(url, arguments);
    command.envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn begin(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["bench", "--to", url]).args(arguments).env_remove("TIDEGATE_BENCH_KEY").stdin(Stdio::null());
    command
}

/// What `--json` told, and the exit code.
fn told(output: &Output) -> (Value, i32) {
    let text = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}\n{}", said(output)));
    (json, output.status.code().unwrap_or(-1))
}

/// What it said to people about its end.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn whole_answers_are_counted_and_timed_and_what_is_asked_is_what_a_client_would_ask() {
    let backend = Backend::start().await;
    backend.always(Script::chat("four"));
    let arguments = ["--model", "m", "-n", "50", "-c", "4", "--json", "--prompt", "Say \"x\"", "--header", "X-Odd: 7"];
    let output = bench(backend.url(), &arguments).await;
    let (json, code) = told(&output);
    assert_eq!((code, said(&output)), (0, String::new()), "nothing is drawn where nobody looks");
    assert_eq!((json["requests"].as_u64(), json["statuses"]["200"].as_u64()), (Some(50), Some(50)), "{json}");
    assert_eq!((json["errors"].to_string(), json["model"].as_str()), ("{}".to_owned(), Some("m")));
    let at = |name: &str| json["latency_us"][name].as_f64().unwrap();
    let percentiles = ["min", "p50", "p90", "p95", "p99", "p999", "max"].map(at);
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{json}");
    assert!(json["seconds"].as_f64().unwrap() * 1e6 >= at("max"), "{json}");
    let bars = json["histograms"][0]["bars"].as_array().unwrap();
    assert_eq!(bars.iter().map(|bar| bar["count"].as_u64().unwrap()).sum::<u64>(), 50);
    // One that is not measured came first.
    assert_eq!(backend.count(), 51);
    let seen = backend.seen(50).await;
    assert_eq!(
        (&*seen.target, seen.header("x-odd"), seen.header("authorization")),
        ("/v1/chat/completions", Some("7"), None)
    );
    assert_eq!(
        (&seen.json()["messages"][0]["content"], &seen.json()["max_tokens"]),
        (&"Say \"x\"".into(), &128.into())
    );
    seen.assert_clean();
}

#[tokio::test]
async fn streams_are_timed_event_by_event_and_their_tokens_are_added_up() {
    let backend = Backend::start().await;
    let pace = Duration::from_millis(20);
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":7,\"total_tokens\":10}}\n\n";
    let script = Script::stream().chunk(": keep-alive\n\n").pause(pace).token("a").pause(pace).token("b").chunk(usage);
    backend.always(script.done().end());
    let output = bench(backend.url(), &["--model", "m", "-n", "6", "--streams", "2", "--json"]).await;
    let (json, code) = told(&output);
    assert_eq!((code, json["requests"].as_u64()), (0, Some(6)), "{json}");
    let streams = &json["streams"];
    assert_eq!(streams["events"], 24, "two tokens, usage and the end of six; comments are no events: {json}");
    assert!(streams["first_token_us"]["min"].as_f64().unwrap() >= 20_000.0, "a comment is no token: {json}");
    assert!(streams["between_tokens_us"]["max"].as_f64().unwrap() >= 20_000.0, "{json}");
    assert_eq!(json["tokens"]["output"], 42);
    assert_eq!(backend.seen(1).await.json()["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn requests_that_wait_behind_a_slow_one_have_waited_since_they_were_due() {
    let backend = Backend::start().await;
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    backend.push(Script::chat("first")).push(Script::new().pause(Duration::from_secs(1)).send(whole));
    backend.always(Script::chat("x"));
    // Twenty-five are due within half a second, and the only connection is busy for one.
    let output = bench(backend.url(), &["--model", "m", "-n", "25", "-c", "1", "--rate", "50", "--json"]).await;
    let (json, code) = told(&output);
    assert_eq!((code, json["requests"].as_u64()), (0, Some(25)), "{json}");
    assert!(json["latency_us"]["min"].as_f64().unwrap() >= 500_000.0, "{json}");
    assert!(json["late"].as_u64().unwrap() >= 24, "{json}");
}

#[tokio::test]
async fn failures_are_counted_by_kind_and_the_rest_is_measured() {
    let backend = Backend::start().await;
    let fault = |status| Script::status(status, r#"{"error":{"message":"no"}}"#);
    backend.push(Script::chat("first")).push(fault("429 Too Many Requests")).push(fault("503 Service Unavailable"));
    backend.push(Script::new().reset()).push(Script::new().fin()).push(Script::new().send("\x16\x03\x01").fin());
    backend.always(Script::chat("x"));
    let output = bench(backend.url(), &["--model", "m", "-n", "12", "-c", "1", "--json"]).await;
    let (json, code) = told(&output);
    assert_eq!((code, json["requests"].as_u64()), (3, Some(7)), "{json}");
    for kind in ["4xx", "5xx", "reset", "closed early", "malformed"] {
        assert_eq!(json["errors"][kind], 1, "{kind}: {json}");
    }
    assert_eq!((&json["statuses"]["429"], &json["statuses"]["503"]), (&1.into(), &1.into()));
    assert!(json["refusals_us"]["max"].as_f64().unwrap() > 0.0);
    assert!(said(&output).contains("5 requests failed"), "{}", said(&output));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_and_a_stream_without_its_end_is_a_failure() {
    let backend = Backend::start().await;
    backend.push(Script::chat("first")).push(Script::new().hang()).always(Script::chat("x"));
    let output = bench(backend.url(), &["--model", "m", "-n", "3", "-c", "1", "--timeout", "3s", "--json"]).await;
    let (json, code) = told(&output);
    assert_eq!((code, &json["errors"]["timeout"], &json["requests"]), (3, &1.into(), &2.into()), "{json}");

    let backend = Backend::start().await;
    backend.push(Script::words(&["a"], Duration::ZERO)).push(Script::stream().token("a").end());
    backend.always(Script::words(&["a"], Duration::ZERO));
    let output = bench(backend.url(), &["--model", "m", "-n", "3", "--streams", "1", "--json"]).await;
    let (json, code) = told(&output);
    assert_eq!(
        (code, &json["errors"]["stream without its end"], &json["requests"]),
        (3, &1.into(), &2.into()),
        "{json}"
    );
}

#[tokio::test]
async fn ctrl_c_ends_it_early_and_what_was_measured_is_told() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let mut command = begin(backend.url(), &["--model", "m", "--duration", "1h", "--warmup", "0", "-c", "2", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    backend.seen(30).await;
    let output = interrupt(child).await;
    let (json, code) = told(&output);
    assert_eq!((code, json["interrupted"].as_bool()), (130, Some(true)), "{json}");
    assert!(json["requests"].as_u64().unwrap() >= 25, "{json}");
}

async fn interrupt(child: Child) -> Output {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn what_no_repetition_mends_is_told_at_once_in_the_servers_words() {
    let backend = Backend::start().await;
    backend.push(Script::status("404 Not Found", "{\"error\":{\"message\":\"no \\u001b[31mmodel m\"}}"));
    let output = bench(backend.url(), &["--model", "m"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("answers 404: no [31mmodel m") && output.stdout.is_empty(), "{}", said(&output));
    assert_eq!(backend.count(), 1);
    backend.push(Script::chat("no stream"));
    let output = bench(backend.url(), &["--model", "m", "--streams", "2"]).await;
    assert!(output.status.code() == Some(1) && said(&output).contains("not with a stream"), "{}", said(&output));
    let output = bench(&refused(), &["--model", "m"]).await;
    assert!(output.status.code() == Some(1) && said(&output).contains("refused"), "{}", said(&output));
    for wrong in [&["--rate", "0"][..], &["--streams", "2", "--endpoint", "embeddings"], &["--header", "x"]] {
        assert_eq!(bench(backend.url(), wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(bench("ftp://h", &["--model", "m"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn the_model_is_the_one_that_is_listed_and_must_be_named_where_there_are_several() {
    let backend = Backend::start().await;
    backend.probes_get(|_| Script::models(&["only"])).always(Script::json(r#"{"data":[]}"#));
    let output = bench(backend.url(), &["-n", "2", "--endpoint", "embeddings", "--json"]).await;
    assert_eq!(told(&output).1, 0);
    let seen = backend.seen(2).await;
    assert_eq!((&*seen.target, seen.model()), ("/v1/embeddings", "only".to_owned()));
    assert!(seen.json()["input"].as_str().unwrap().len() == 512 && seen.json().get("max_tokens").is_none());
    backend.probes_get(|_| Script::models(&["one", "two"]));
    let output = bench(backend.url(), &["-n", "2"]).await;
    assert!(output.status.code() == Some(2) && said(&output).contains("one, two"), "{}", said(&output));
}

#[tokio::test]
async fn a_key_comes_from_a_variable_or_a_file_and_two_distinct_requests_differ() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let folder = Folder::new();
    let file = folder.write("key", "sk-of-a-file\n");
    let model = ["--model", "m", "-n", "2", "-c", "1", "--distinct"];
    let environment = [("TIDEGATE_BENCH_KEY", "sk-first"), ("OTHER_KEY", "sk-other")];
    let file = ["--key-file", file.to_str().unwrap()];
    for (more, key) in [(&[][..], "sk-first"), (&["--key-env", "OTHER_KEY"], "sk-other"), (&file, "sk-of-a-file")] {
        let before = backend.count();
        let output = bench_with(backend.url(), &[&model, more].concat(), &environment).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("sk-"));
        let seen = [backend.seen(before + 1).await, backend.seen(before + 2).await];
        assert_eq!(seen[1].header("authorization"), Some(&*format!("Bearer {key}")));
        assert!(seen[0].body != seen[1].body && seen[0].body.len() == seen[1].body.len());
    }
    let output = bench(backend.url(), &[&model[..], &["--key-env", "NOT_THERE"]].concat()).await;
    assert!(output.status.code() == Some(2) && said(&output).contains("NOT_THERE"), "{}", said(&output));
}

#[tokio::test]
async fn https_is_measured_where_the_certificate_is_trusted_or_nobody_minds() {
    let (certs, folder) = (Certs::new(), Folder::new());
    certs.write_to(folder.path());
    let backend = Backend::start_tls(&certs).await;
    backend.always(Script::chat("x"));
    let ca = folder.path().join("ca.pem");
    for more in [&["--ca", ca.to_str().unwrap()][..], &["--insecure"]] {
        let output = bench(backend.url(), &[&["--model", "m", "-n", "20", "-c", "3", "--json"], more].concat()).await;
        let (json, code) = told(&output);
        assert_eq!((code, json["requests"].as_u64()), (0, Some(20)), "{json}");
    }
    let output = bench(backend.url(), &["--model", "m", "-n", "20"]).await;
    assert!(output.status.code() == Some(1) && said(&output).contains("certificate"), "{}", said(&output));
}

#[tokio::test]
async fn people_get_a_bar_while_it_runs_and_a_picture_when_it_is_over() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let output = bench(backend.url(), &["--model", "m", "-n", "40"]).await;
    let page = String::from_utf8(output.stdout).unwrap();
    for word in ["answered  40 in ", "failed  none", "p99.9", "latency", "│█"] {
        assert!(page.contains(word), "{word} is missing in:\n{page}");
    }
    assert!(!page.contains('\x1b'), "no colours in a file");
    let line = format!("{BINARY} bench --to {} --model m --duration 1s --warmup 0", backend.url());
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        command.output().unwrap()
    });
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("\r\x1b[K") && text.contains("under way"), "{text}");
    assert!(text.contains("│\x1b[32m█"), "{text}");
}

#[tokio::test]
async fn what_a_process_of_the_server_spends_is_told() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    // The backend is this very process. With one connection, it has nothing to do between two requests.
    let pid = std::process::id().to_string();
    let output = bench(backend.url(), &["--model", "m", "-n", "200", "-c", "1", "--pid", &pid, "--json"]).await;
    let (json, code) = told(&output);
    assert!(code == 0 && json["server"]["cpu_us_per_request"].as_f64().unwrap() > 0.0, "{json}");
    assert!(
        json["server"]["rss_kib"].as_u64().unwrap() > 1000 && json["server"]["waits"].as_u64().unwrap() > 0,
        "{json}"
    );
    let output = bench(backend.url(), &["--model", "m", "-n", "2", "--pid", "4294967295"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}
