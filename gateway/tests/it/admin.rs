//! What lies under `/admin`, as an operator with curl sees it.

use crate::backend::Backend;
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, pool_of};

#[tokio::test]
async fn backends_are_listed_by_pool_with_their_state() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let answer = gateway.admin("/admin/backends").await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["main"]["backends"].is_object(), "{}", answer.text());
    let missing = gateway.admin("/admin/nothing").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
}

/// Every page there is, each with what it takes, and its status where there is no token.
const PAGES: [(&str, &str, u16); 15] = [
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/admin/live", 200),
    ("POST", "/admin/playground/v1/nothing", 404),
    ("GET", "/admin/backends", 200),
    ("POST", "/admin/backends/main/none/drain", 404),
    ("GET", "/admin/cache", 200),
    ("POST", "/admin/cache/purge", 400),
    ("DELETE", "/admin/cache", 200),
    ("GET", "/admin/limits", 200),
    ("GET", "/admin/limits/global", 404),
    ("GET", "/admin/spenders?by=org", 200),
    ("GET", "/admin/usage", 404),
    ("GET", "/admin/keys", 403),
    ("POST", "/admin/keys", 403),
];

async fn ask(gateway: &Gateway, request: Request) -> u16 {
    Connection::open(gateway.admin_address()).await.exchange(&request.header("connection", "close")).await.status
}

#[tokio::test]
async fn without_a_token_all_but_keys_is_open_to_the_machine_and_nothing_to_web_pages() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for (method, path, status) in PAGES {
        assert_eq!(ask(&gateway, Request::new(method, path)).await, status, "{method} {path}");
        let of_a_page = Request::new(method, path).header("origin", "https://evil.example");
        assert_eq!(ask(&gateway, of_a_page).await, 403, "{method} {path}");
        let by_its_name = Request::new(method, path).without("host").header("host", "evil.example");
        assert_eq!(ask(&gateway, by_its_name).await, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn with_a_token_every_page_needs_it() {
    let backend = Backend::start().await;
    let config = format!("admin: {{ listen: \"127.0.0.1:$ADMIN\", token: secret }}\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    for (method, path, status) in PAGES {
        assert_eq!(ask(&gateway, Request::new(method, path)).await, 401, "{method} {path}");
        assert_eq!(ask(&gateway, Request::new(method, path).bearer("wrong")).await, 401, "{method} {path}");
        let told = ask(&gateway, Request::new(method, path).bearer("secret")).await;
        assert!(told == status || path == "/admin/keys" && [404, 422, 400].contains(&told), "{method} {path}: {told}");
    }
}
