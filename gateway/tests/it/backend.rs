//! A backend that does exactly as it is told, and remembers exactly what it got.
//!
//! A test queues [`Script`]s (or gives a handler that chooses one by request); each request consumes one. With
//! neither, a backend answers with the hash and the length of the body it received, lists one model, and is
//! healthy. Model lists and health checks (`GET /v1/models`, `/health`) never consume a script meant for a
//! request: they are kept apart as probes.

mod h2;
mod script;
mod seen;
mod serve;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub(crate) use h2::{H2Backend, Part, Reply, headers_of};
pub(crate) use script::{Gate, Script, chat, finish, token};
pub(crate) use seen::Seen;

type Handler = Box<dyn Fn(&Seen) -> Script + Send + Sync>;

/// What becomes of a connection before anything is read from it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OnAccept {
    Serve,
    Close,
    Reset,
    Stall,
}

/// What the connections of one backend share.
pub(crate) struct State {
    queue: Mutex<VecDeque<Script>>,
    accepts: Mutex<VecDeque<OnAccept>>,
    handler: Mutex<Option<Handler>>,
    probe: Mutex<Option<Handler>>,
    seen: Mutex<Vec<Arc<Seen>>>,
    probes: Mutex<Vec<Arc<Seen>>>,
    news: Notify,
    connections: AtomicUsize,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    closes_idle: AtomicBool,
    resets: AtomicBool,
}

/// A running backend; it stops when dropped.
pub(crate) struct Backend {
    state: Arc<State>,
    url: String,
    accepting: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backend {
    /// HTTP/1.1 on a free loopback port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    /// HTTP/1.1 on a listener of the caller's.
    pub(crate) fn on(listener: TcpListener) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State::new();
        let accepting = tokio::spawn(serve::accept_tcp(listener, state.clone(), None));
        Self { state, url, accepting }
    }

    /// HTTP/1.1 in TLS; the certificate is for `localhost` and comes from `certs`.
    pub(crate) async fn start_tls(certs: &crate::certs::Certs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let state = State::new();
        let acceptor = certs.acceptor(&[b"http/1.1"]);
        let accepting = tokio::spawn(serve::accept_tcp(listener, state.clone(), Some(acceptor)));
        Self { state, url, accepting }
    }

    /// HTTP/1.1 on a Unix socket.
    pub(crate) fn start_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = State::new();
        let accepting = tokio::spawn(serve::accept_unix(listener, state.clone()));
        Self { state, url: format!("unix:{}", path.display()), accepting }
    }

    /// What goes into the file under `backends`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> SocketAddr {
        let (_, authority) = self.url.split_once("://").expect("only TCP backends have an address");
        authority.replace("localhost", "127.0.0.1").parse().unwrap()
    }

    /// The next request is answered so; several calls queue up.
    pub(crate) fn push(&self, script: Script) -> &Self {
        self.state.queue.lock().unwrap().push_back(script);
        self
    }

    /// Every request that finds the queue empty is answered so.
    pub(crate) fn always(&self, script: Script) -> &Self {
        self.handle(move |_| script.clone())
    }

    /// Every request that finds the queue empty is answered as `handler` says.
    pub(crate) fn handle(&self, handler: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> &Self {
        *self.state.handler.lock().unwrap() = Some(Box::new(handler));
        self
    }

    /// Model lists and health checks are answered so.
    pub(crate) fn probes_get(&self, handler: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> &Self {
        *self.state.probe.lock().unwrap() = Some(Box::new(handler));
        self
    }

    /// The next connection is treated so; several calls queue up.
    pub(crate) fn on_accept(&self, what: OnAccept) -> &Self {
        self.state.accepts.lock().unwrap().push_back(what);
        self
    }

    /// From now on every connection is closed right after an answer that did not say so: an idle-close race.
    pub(crate) fn close_after_each_answer(&self) {
        self.state.closes_idle.store(true, SeqCst);
    }

    /// From now on the end of a connection is a TCP RST, that of the backend itself included.
    pub(crate) fn resets(&self) {
        self.state.resets.store(true, SeqCst);
    }

    /// The `n`th request (from 0), waiting for it if need be.
    pub(crate) async fn seen(&self, n: usize) -> Arc<Seen> {
        self.state.nth(&self.state.seen, n).await
    }

    /// The `n`th probe (from 0), waiting for it if need be.
    pub(crate) async fn probe(&self, n: usize) -> Arc<Seen> {
        self.state.nth(&self.state.probes, n).await
    }

    /// The one request that came.
    pub(crate) async fn only(&self) -> Arc<Seen> {
        let seen = self.seen(0).await;
        assert_eq!(self.count(), 1, "exactly one request should have come");
        seen
    }

    /// How many requests have come.
    pub(crate) fn count(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// How many connections have carried a request that was no probe.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// How many of those are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// The most requests that were being answered at one time.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.state.most_in_flight.load(SeqCst)
    }
}

impl State {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            accepts: Mutex::default(),
            handler: Mutex::default(),
            probe: Mutex::default(),
            seen: Mutex::default(),
            probes: Mutex::default(),
            news: Notify::new(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            closes_idle: AtomicBool::new(false),
            resets: AtomicBool::new(false),
        })
    }

    /// Records a request and says how to answer it.
    fn script_for(&self, seen: &Arc<Seen>) -> Script {
        let script = if seen.is_probe() {
            self.probes.lock().unwrap().push(seen.clone());
            let probe = self.probe.lock().unwrap();
            probe.as_ref().map_or_else(|| Script::probe(seen), |handler| handler(seen))
        } else {
            self.seen.lock().unwrap().push(seen.clone());
            let queued = self.queue.lock().unwrap().pop_front();
            let handler = self.handler.lock().unwrap();
            queued.unwrap_or_else(|| handler.as_ref().map_or_else(|| Script::hash_of(seen), |handler| handler(seen)))
        };
        self.news.notify_waiters();
        script
    }

    /// Whether the next request is to be answered before its body is read.
    fn is_next_at_head(&self) -> bool {
        self.queue.lock().unwrap().front().is_some_and(|script| script.at_head)
    }

    /// Records a request whose sender left before its end; no script is spent on it.
    fn record_cut(&self, seen: Arc<Seen>) {
        self.seen.lock().unwrap().push(seen);
        self.news.notify_waiters();
    }

    async fn nth(&self, list: &Mutex<Vec<Arc<Seen>>>, n: usize) -> Arc<Seen> {
        let wait = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(seen) = list.lock().unwrap().get(n) {
                    return seen.clone();
                }
                news.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .unwrap_or_else(|_| panic!("no request number {n} reached the backend within 5 s"))
    }
}
