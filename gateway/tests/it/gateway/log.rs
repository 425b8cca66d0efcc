//! What a gateway printed: JSON lines on standard output, anything on standard error.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The lines so far, growing while the process lives.
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Log {
    pub(super) fn of(stdout: impl Read + Send + 'static, stderr: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![reader(stdout, lines.clone()), reader(stderr, lines.clone())];
        Self { lines, readers }
    }

    /// Waits for the last line of a process that has ended.
    pub(super) async fn finish(&mut self) {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && !self.readers.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Everything printed so far.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// For a test that failed.
    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    pub(super) fn show(&self) {
        eprintln!("--- the gateway said ---\n{}\n---", self.text());
    }

    /// The first JSON line that `wanted` takes, waiting up to 3 s for it.
    pub(crate) async fn line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let found = self.json().into_iter().find(&wanted);
            if let Some(line) = found {
                return line;
            }
            assert!(Instant::now() < until, "no such line in the log:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The line of the request with this id.
    pub(crate) async fn request(&self, id: &str) -> Value {
        self.line(|line| line["request_id"] == id && line["status"].is_number()).await
    }

    /// The event with this message about the request with this id.
    pub(crate) async fn event(&self, message: &str, id: &str) -> Value {
        self.line(|line| line["request_id"] == id && line["message"] == message).await
    }

    /// All lines that are JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn reader(pipe: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    })
}
