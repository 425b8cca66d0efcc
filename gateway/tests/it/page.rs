//! The pages of the admin listener, what they are made of, the playground, and `tidegate top`.

use crate::backend::{Backend, Gate, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, Key, command, command_with, free_port, pool_of};
use serde_json::Value;

const FILES: [&str; 14] = [
    "/",
    "/docs",
    "/page/page.css",
    "/page/docs.css",
    "/page/icon.svg",
    "/page/api.js",
    "/page/charts.js",
    "/page/counts.js",
    "/page/docs.js",
    "/page/page.js",
    "/page/playground.js",
    "/page/requests.js",
    "/page/show.js",
    "/page/tables.js",
];

async fn guarded(backend: &Backend) -> Gateway {
    let config = format!("admin: {{ listen: \"127.0.0.1:$ADMIN\", token: sesame }}\n{}", pool_of(&[backend]));
    Gateway::start(&config).await
}

/// A model behind a key; filters can be added below it.
fn with_a_key(backend: &Backend, key: &Key) -> String {
    let models = "models: { m: { pool: main } }";
    let filter = format!("filters:\n  - api_key: {{ keys: [ {{ id: app, hash: \"{}\" }} ] }}\n", key.hash);
    format!("{}{models}\n{filter}", pool_of(&[backend]))
}

async fn ask(gateway: &Gateway, request: Request) -> crate::client::Answer {
    Connection::open(gateway.admin_address()).await.exchange(&request.header("connection", "close")).await
}

#[tokio::test]
async fn the_pages_need_no_token_and_nothing_from_anybody_else() {
    let backend = Backend::start().await;
    let gateway = guarded(&backend).await;
    for path in FILES {
        let answer = ask(&gateway, Request::get(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        // The name of SVG is no address.
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        for elsewhere in ["http://", "https://", "\"//", "url(", "@import", "innerHTML", " style="] {
            assert!(!text.contains(elsewhere), "{path} has {elsewhere}");
        }
    }
    for path in ["/page", "/page/", "/page/nothing.js", "/page/../metrics", "/admin/live", "/favicon.ico"] {
        assert_eq!(ask(&gateway, Request::get(path)).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_documents_that_are_served_are_those_that_are_printed_and_committed() {
    let backend = Backend::start().await;
    let gateway = guarded(&backend).await;
    for (path, arguments, file) in [
        ("/openapi.json", &["openapi"][..], "openapi.json"),
        ("/admin/openapi.json", &["openapi", "--admin"][..], "openapi-admin.json"),
    ] {
        let printed: Value = serde_json::from_slice(&command(arguments).stdout).unwrap();
        assert_eq!(ask(&gateway, Request::get(path)).await.json(), printed, "{path}");
        let committed = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        let committed: Value = serde_json::from_slice(&std::fs::read(committed).unwrap()).unwrap();
        assert_eq!(committed, printed, "docs/{file} is stale: run make generate");
    }
}

#[tokio::test]
async fn what_is_told_of_now_is_what_has_been() {
    let backend = Backend::start().await;
    backend.push(Script::words(&["a", "b"], std::time::Duration::ZERO)).push(Script::status("500", "{}"));
    let key = Key::new("app");
    let limits = "  - limits: [ { per: key, requests: 2/h, burst: 2 } ]\n";
    let gateway = Gateway::start(&format!("{}{limits}", with_a_key(&backend, &key))).await;
    assert_eq!(gateway.send(&Request::stream("m").bearer(&key.key)).await.status, 200);
    assert!(gateway.send(&Request::chat("m").bearer(&key.key)).await.status >= 500);
    assert_eq!(gateway.send(&Request::chat("m").bearer(&key.key)).await.status, 429);
    let told = |live: &Value| {
        let (route, limit) = (&live["routes"]["m"], &live["limits"][0]);
        let first: u64 = route["first_token"]["buckets"].as_array()?.iter().filter_map(Value::as_u64).sum();
        let limited = live["limited"].as_array()?.iter().find(|one| one["by"] == "key" && one["name"] == "app")?;
        let backend = live["pools"]["main"]["backends"].as_object()?.values().next()?;
        Some((
            route["requests"].as_u64()?,
            first,
            route["failures"]["upstream_error"].as_u64()?,
            limit["decisions"]["refused"].as_u64()?,
            limited["limited"].as_u64()?,
            backend["attempts"].as_u64()?,
            live["in_flight"].as_u64()?,
        ))
    };
    // Requests are counted when they are over, which their clients may hear of before.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let live = gateway.admin("/admin/live").await.json();
        if told(&live) == Some((2, 1, 1, 1, 1, 2, 0)) {
            break;
        }
        assert!(std::time::Instant::now() < until, "{live:#}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_playground_is_the_road_of_a_client() {
    let backend = Backend::start().await;
    let key = Key::new("app");
    let admin = "admin: { listen: \"127.0.0.1:$ADMIN\", token: sesame }\n";
    let gateway = Gateway::start(&format!("{admin}{}", with_a_key(&backend, &key))).await;
    let chat =
        || Request::post("/admin/playground/v1/chat/completions", r#"{"model":"m","messages":[]}"#).bearer("sesame");

    let stranger = ask(&gateway, chat()).await;
    stranger.openai_error(401);
    let answer = ask(&gateway, chat().header("x-tidegate-key", &key.key)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("x-request-id").is_some() && answer.header("x-tidegate-backend").is_some());
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    // The token that let the page in goes no further.
    let seen = backend.only().await;
    let head = String::from_utf8_lossy(&seen.head);
    assert!(head.contains("x-request-id") && !head.contains("sesame") && !head.contains(&key.key), "{head}");

    let models = Request::get("/admin/playground/v1/models").bearer("sesame").header("x-tidegate-key", &key.key);
    assert_eq!(ask(&gateway, models).await.json()["data"][0]["id"], "m");
    assert_eq!(ask(&gateway, chat().without("authorization")).await.status, 401);
}

#[tokio::test]
async fn the_playground_streams_and_takes_eight_at_a_time() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.always(Script::stream().token("first").wait(&gate).token("last").done().end());
    let gateway = Gateway::before(&backend).await;
    let stream =
        || Request::post("/admin/playground/v1/chat/completions", r#"{"model":"m","stream":true,"messages":[]}"#);
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut connection = Connection::open(gateway.admin_address()).await;
        connection.send(stream().header("connection", "close").bytes()).await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        open.push(connection);
    }
    let ninth = ask(&gateway, stream()).await;
    assert_eq!((ninth.status, ninth.header("content-type")), (429, Some("application/problem+json")));
    gate.open();
    for mut connection in open {
        let mut text = String::new();
        while let Some(piece) = connection.piece().await.unwrap() {
            text += &String::from_utf8_lossy(&piece);
        }
        assert!(text.contains("first") && text.contains("last") && text.contains("[DONE]"), "{text}");
    }
}

#[tokio::test]
async fn top_prints_what_goes_on_once_for_scripts_and_says_when_nobody_is_there() {
    let backend = Backend::start().await;
    let gateway = guarded(&backend).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let admin = format!("http://{}", gateway.admin_address());
    let token = [("TIDEGATE_ADMIN__TOKEN", "sesame")];
    let told = command_with(&["top", "--once", "--admin", &admin], &token);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success(), "{text}");
    for head in ["Tidegate ", "requests ", "first token ", "MODEL", "BACKEND", "LIMITED", "LAST REQUESTS"] {
        assert!(text.lines().any(|line| line.starts_with(head)), "{head}: {text}");
    }
    assert!(text.contains("ready") && !text.contains('\u{1b}'), "{text}");
    let told = command_with(&["top", "--once", "--format", "json", "--admin", &admin], &token);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["ready"], true);

    let stranger = command(&["top", "--once", "--admin", &admin]);
    assert!(stranger.status.code() == Some(1) && String::from_utf8_lossy(&stranger.stderr).contains("wants a token"));
    let away = command(&["top", "--once", "--admin", &format!("http://127.0.0.1:{}", free_port())]);
    assert!(away.status.code() == Some(1) && String::from_utf8_lossy(&away.stderr).contains("does not answer"));
}
