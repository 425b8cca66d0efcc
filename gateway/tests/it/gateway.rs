//! The built gateway as a child process: a file of its own, free ports, its log, its metrics, its signals.

mod key;
mod log;
mod metrics;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub(crate) use key::Key;
pub(crate) use log::Log;
pub(crate) use metrics::Metrics;

use crate::backend::Backend;
use crate::client::{Answer, Connection, Request};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// A folder that goes when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Numbers of processes come again, and a test that was killed leaves its folder behind.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
        let name = format!("tidegate-it-{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where gateways that were killed have left what the stores in it have not got.
    pub(crate) fn journals(&self) -> Vec<PathBuf> {
        let below =
            |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let users = below("/dev/shm".into()).filter(|path| path.to_string_lossy().contains("/tidegate-"));
        let is_ours = |path: &PathBuf| {
            let store = std::fs::read_to_string(path.join("store")).unwrap_or_default();
            Path::new(&store).starts_with(&self.0)
        };
        users.flat_map(below).filter(is_ours).collect()
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for journal in self.journals() {
            drop(std::fs::remove_dir_all(journal));
        }
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A port that nobody listens on, outside the range the kernel hands out by itself, so that no other test's
/// backend or outgoing connection can take it in the meantime.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = std::process::id() as usize * 61;
    loop {
        let port = 10_000 + ((start + NEXT.fetch_add(1, SeqCst)) % 20_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// An address that refuses every connection.
pub(crate) fn refused() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// One pool of these backends and nothing else; lines can be added below it.
pub(crate) fn pool_of(backends: &[&Backend]) -> String {
    let urls: Vec<&str> = backends.iter().map(|backend| backend.url()).collect();
    pool_at(&urls)
}

/// The same by address.
pub(crate) fn pool_at(urls: &[&str]) -> String {
    format!("pools:\n  main:\n    health: off\n    backends: [{}]\n", urls.join(", "))
}

/// A running gateway, killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    pub(crate) folder: Folder,
    pub(crate) log: Log,
    /// Processes that took over, the one that serves last.
    successors: Vec<u32>,
}

impl Gateway {
    /// In front of this one backend, with all defaults.
    pub(crate) async fn before(backend: &Backend) -> Self {
        Self::start(&pool_of(&[backend])).await
    }

    /// With this file; see [`Self::start_in`].
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(Folder::new(), config, &[]).await
    }

    /// With this file and environment. `listen`, `admin` and `log` are put in where the file does not say them;
    /// `$PORT`, `$ADMIN` and `$DIR` stand for this gateway's ports and folder.
    pub(crate) async fn start_in(folder: Folder, config: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_program(Path::new(BINARY), folder, config, environment).await
    }

    /// The same by another name for the binary.
    pub(crate) async fn start_program(
        program: &Path,
        folder: Folder,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_by(&[program.to_str().unwrap()], folder, config, environment).await
    }

    /// The same where permissions of files hold for the gateway, although the test may be root's.
    pub(crate) async fn start_without_rights(folder: Folder, config: &str) -> Self {
        Self::start_by(&without_rights(), folder, config, &[]).await
    }

    /// The same where so many files may be open at first, and so many if it asks for them.
    pub(crate) async fn start_with_files(first: u32, most: u32, config: &str) -> Self {
        let limit = format!("--nofile={first}:{most}");
        Self::start_by(&["prlimit", &limit, BINARY], Folder::new(), config, &[]).await
    }

    async fn start_by(program: &[&str], folder: Folder, config: &str, environment: &[(&str, &str)]) -> Self {
        let mut folder = folder;
        for _ in 0..5 {
            match Self::try_start(program, folder, config, environment).await {
                Ok(gateway) => return gateway,
                // Somebody else took the port between our look and the gateway's bind.
                Err((back, text)) if text.contains("cannot listen on") => folder = back,
                Err((_, text)) => panic!("the gateway did not start:\n{text}\nwith:\n{config}"),
            }
        }
        panic!("no free port in five tries");
    }

    async fn try_start(
        program: &[&str],
        folder: Folder,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self, (Folder, String)> {
        let (port, admin_port) = (free_port(), free_port());
        let text = complete(config, port, admin_port, folder.path());
        let file = folder.write("gateway.yaml", &text);
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .args(["run", "--config"])
            .arg(&file)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::of(child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let mut gateway = Self { child, port, admin_port, folder, log, successors: Vec::new() };
        let plain = !text.lines().any(|line| line.starts_with("admin:") && line.contains("tls:"));
        match gateway.becomes_live(text.contains(&format!(":{port}")), plain).await {
            true => Ok(gateway),
            false => {
                let (text, folder) = (gateway.log.text(), std::mem::replace(&mut gateway.folder, Folder::new()));
                Err((folder, text))
            }
        }
    }

    async fn becomes_live(&mut self, on_port: bool, plain: bool) -> bool {
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if self.child.try_wait().unwrap().is_some() {
                self.log.finish().await;
                return false;
            }
            // Alive is said by the admin listener, which may be up before the others.
            if listens(self.admin_address()).await
                && (!plain || self.admin("/livez").await.status == 200)
                && (!on_port || listens(self.address()).await)
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.admin_port))
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    /// Has another process take over; the answer of the admin listener.
    pub(crate) async fn upgrade(&mut self) -> Answer {
        let request = Request::post("/admin/upgrade", "").header("Connection", "close");
        let answer = Connection::open(self.admin_address()).await.exchange(&request).await;
        if answer.status == 200 {
            self.succeeded_by(answer.json()["pid"].as_u64().unwrap() as u32);
        }
        answer
    }

    /// This process serves from now on, and is killed at the end.
    pub(crate) fn succeeded_by(&mut self, pid: u32) {
        self.successors.push(pid);
    }

    /// A connection of its own to the gateway.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: &Request) -> Answer {
        self.connect().await.exchange(request).await
    }

    /// A GET on the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        Connection::open(self.admin_address()).await.exchange(&Request::get(path).header("Connection", "close")).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin("/metrics").await.text())
    }

    /// The same where the admin listener asks for a token.
    pub(crate) async fn metrics_with(&self, token: &str) -> Metrics {
        let request = Request::get("/metrics").header("Connection", "close").bearer(token);
        Metrics::parse(Connection::open(self.admin_address()).await.exchange(&request).await.text())
    }

    /// Waits up to 2 s for a metric to have this value: a request is counted when it is over, which is after its
    /// client has read the answer.
    pub(crate) async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let metrics = self.metrics().await;
            if metrics.has(name) && metrics.sum(name, labels) == value {
                return;
            }
            assert!(Instant::now() < until, "{name} {labels:?} is not {value}:\n{}", metrics.with(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a signal by name: `TERM`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Puts another file in place of the one it runs with.
    pub(crate) fn rewrite(&self, config: &str) {
        let text = complete(config, self.port, self.admin_port, self.folder.path());
        self.folder.write("gateway.yaml", &text);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log.finish().await;
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the process has not ended within {within:?}:\n{}", self.log.text());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for successor in self.successors.iter().filter(|pid| lives(**pid)) {
            drop(Command::new("kill").arg("-KILL").arg(successor.to_string()).status());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            self.log.show();
        }
    }
}

/// Whether a process that is not a child is there and has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn listens(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_ok()
}

fn complete(config: &str, port: u16, admin_port: u16, folder: &Path) -> String {
    let mut text = String::new();
    let says = |key: &str| config.lines().any(|line| line.starts_with(key));
    for (key, line) in [
        ("listen:", "listen: 127.0.0.1:$PORT\n"),
        ("admin:", "admin: { listen: 127.0.0.1:$ADMIN }\n"),
        ("log:", "log: { format: json }\n"),
    ] {
        if !says(key) {
            text.push_str(line);
        }
    }
    text.push_str(config);
    text.replace("$PORT", &port.to_string())
        .replace("$ADMIN", &admin_port.to_string())
        .replace("$DIR", &folder.display().to_string())
}

/// The binary, or what runs it as somebody for whom permissions hold: they do not for root.
fn without_rights() -> Vec<&'static str> {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let program = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", BINARY];
    if is_root { program.into() } else { vec![BINARY] }
}

/// Runs a command of the binary to its end, as [`Gateway::start_without_rights`] does.
pub(crate) fn command_without_rights(arguments: &[&str]) -> Output {
    let program = without_rights();
    Command::new(program[0]).args(&program[1..]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command of the binary to its end.
pub(crate) fn command(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The same with something on its standard input closed and an environment of its own.
pub(crate) fn command_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY).args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}
