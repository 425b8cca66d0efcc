//! What lies under `/admin`, as an operator with curl sees it.

use crate::backend::Backend;
use crate::gateway::Gateway;

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
