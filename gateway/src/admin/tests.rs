use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

struct Cottage(Mutex<Result<Vec<String>, String>>);

impl House for Cottage {
    fn ready(&self) -> Result<Vec<String>, String> {
        self.0.lock().unwrap().clone()
    }
    fn health(&self) -> Value {
        json!({ "pools": {} })
    }
    fn metrics(&self) -> String {
        "tidegate_connections 1\n".into()
    }
}

/// A running admin listener, stopped when it is dropped.
struct Running {
    address: std::net::SocketAddr,
    house: Arc<Cottage>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

async fn start(bounds: Bounds, token: Option<&str>) -> Running {
    let doors = Doors { token: token.map(Arc::from), certificates: false };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let house = Arc::new(Cottage(Mutex::new(Ok(Vec::new()))));
    let router = routes::router(Arc::clone(&house) as Arc<dyn House>, Router::new(), doors);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve_within(bounds, listener, None, router, async move { drop(stopped.await) }));
    Running { address, house, stop: Some(stop), task }
}

impl Running {
    /// The whole answer to one request, as text.
    async fn ask(&self, request: &str) -> String {
        self.ask_of("localhost:9090", request).await
    }

    /// The same under another name.
    async fn ask_of(&self, host: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn each_path_answers_what_it_is_for() {
    let admin = start(BOUNDS, None).await;
    let alive = admin.ask("GET /livez HTTP/1.1").await;
    assert!(alive.starts_with("HTTP/1.1 200") && alive.contains("cache-control: no-store"), "{alive}");
    assert!(admin.ask("GET /readyz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    let metrics = admin.ask("GET /metrics HTTP/1.1").await;
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("\r\n\r\ntidegate_connections 1\n"));
    let health = admin.ask("GET /healthz HTTP/1.1").await;
    assert!(health.contains("application/json") && health.ends_with("{\"pools\":{}}"), "{health}");
}

#[tokio::test]
async fn ready_says_which_pools_are_down() {
    let admin = start(BOUNDS, None).await;
    *admin.house.0.lock().unwrap() = Ok(vec!["cloud".into()]);
    let answer = admin.ask("GET /readyz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("ready\npool 'cloud' has no backend that is up\n"), "{answer}");
}

#[tokio::test]
async fn not_ready_says_why_and_is_still_alive() {
    let admin = start(BOUNDS, None).await;
    *admin.house.0.lock().unwrap() = Err("draining".into());
    let answer = admin.ask("GET /readyz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"), "{answer}");
    assert!(admin.ask("GET /livez HTTP/1.1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn head_has_the_heads_of_get_and_no_body() {
    let admin = start(BOUNDS, None).await;
    let answer = admin.ask("HEAD /metrics HTTP/1.1").await;
    assert!(answer.contains("content-length: 23") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_problems() {
    let admin = start(BOUNDS, None).await;
    let unknown = admin.ask("GET /v1/models HTTP/1.1").await;
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("application/problem+json"), "{unknown}");
    let wrong = admin.ask("DELETE /metrics HTTP/1.1").await;
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: GET,HEAD"), "{wrong}");
    let body: Value = serde_json::from_str(wrong.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&body["status"], &body["title"]), (&json!(405), &json!("Method Not Allowed")));
}

#[tokio::test]
async fn with_a_token_only_probes_go_without() {
    let admin = start(BOUNDS, Some("secret")).await;
    for open in ["/livez", "/readyz"] {
        assert!(admin.ask(&format!("GET {open} HTTP/1.1")).await.starts_with("HTTP/1.1 200"));
    }
    for (path, status) in [("/metrics", 200), ("/healthz", 200), ("/unknown", 404)] {
        for credentials in ["", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Bearer SECRET", "Basic secret"]
        {
            let answer = admin.ask(&format!("GET {path} HTTP/1.1\r\nauthorization: {credentials}")).await;
            assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"), "{answer}");
        }
        let answer = admin.ask(&format!("GET {path} HTTP/1.1\r\nauthorization: bearer secret")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[tokio::test]
async fn without_a_token_whoever_is_on_the_machine_may_but_no_web_page() {
    let admin = start(BOUNDS, None).await;
    for host in ["localhost:9090", "LOCALHOST", "127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "[::1]"] {
        let own = format!("GET /healthz HTTP/1.1\r\norigin: http://{host}");
        assert!(admin.ask_of(host, &own).await.starts_with("HTTP/1.1 200"), "{host}");
        assert!(admin.ask_of(host, "GET /metrics HTTP/1.1").await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for (host, origin) in [
        ("localhost:9090", "\r\norigin: https://evil.example"),
        ("localhost:9090", "\r\norigin: null"),
        ("localhost:9090", "\r\norigin: http://localhost:8080"),
        ("evil.example:9090", ""),
        ("evil.example", "\r\norigin: http://evil.example"),
        ("127.0.0.1.evil.example", ""),
    ] {
        let answer = admin.ask_of(host, &format!("GET /healthz HTTP/1.1{origin}")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("application/problem+json"), "{host}: {answer}");
        assert!(admin.ask_of(host, &format!("GET /livez HTTP/1.1{origin}")).await.starts_with("HTTP/1.1 200"));
    }
    // A token is more than a page has.
    let admin = start(BOUNDS, Some("secret")).await;
    let answer = admin.ask_of("admin.example", "GET /healthz HTTP/1.1\r\nauthorization: Bearer secret").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn slow_and_idle_clients_lose_their_connection() {
    let admin = start(Bounds { head_timeout: Duration::from_millis(200), ..BOUNDS }, None).await;
    for sent in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let begun = Instant::now();
        timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new()))
            .await
            .expect("closed by the server")
            .unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(150), "{sent:?}");
    }
}

#[tokio::test]
async fn no_connection_lives_forever() {
    let bounds = Bounds { life: Duration::from_millis(300), last_request: Duration::from_millis(100), ..BOUNDS };
    let admin = start(bounds, None).await;
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    let talking = async {
        let mut buffer = [0; 1024];
        loop {
            if stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err() {
                return;
            }
            if matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), talking).await.expect("closed by the server");
}

#[tokio::test]
async fn more_clients_than_allowed_wait_their_turn() {
    let admin = start(Bounds { connections: 1, ..BOUNDS }, None).await;
    let first = TcpStream::connect(admin.address).await.unwrap();
    let second = admin.ask("GET /livez HTTP/1.1");
    let mut second = pin!(second);
    assert!(timeout(Duration::from_millis(200), second.as_mut()).await.is_err());
    drop(first);
    assert!(timeout(Duration::from_secs(5), second).await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn it_ends_soon_after_it_is_told_to_although_clients_stay() {
    let mut admin = start(BOUNDS, None).await;
    let _idle = TcpStream::connect(admin.address).await.unwrap();
    assert!(admin.ask("GET /livez HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    drop(admin.stop.take());
    timeout(Duration::from_secs(5), &mut admin.task).await.expect("the listener ends").unwrap();
    assert!(TcpStream::connect(admin.address).await.is_err());
}
