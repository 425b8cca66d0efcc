//! Whose tokens an answer's are that several got.

use super::*;

/// What two keys of one organisation have spent, the first of which led and the second followed.
async fn spent(settle: &str) -> [u64; 2] {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    let usage = r#"{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":300,"completion_tokens":200}}"#;
    let end = Script::stream().wait(&gate).token("a").chunk(finish()).chunk(format!("data: {usage}\n\n"));
    backend.push(end.done().end()).always(Script::chat("alone"));
    let keys = ["leads", "follows"].map(Key::new);
    let entry = |n: usize| format!("        - {{ id: k{n}, org: one, hash: \"{}\" }}\n", keys[n].hash);
    let filters = format!(
        "filters:\n  - api_key:\n      keys:\n{}{}  - limits: [{{ per: key, tokens: 1000/day }}]\n  - shared_flight: {{ settle: {settle} }}\n",
        entry(0),
        entry(1)
    );
    let gateway = Gateway::start(&(filters + &pool_of(&[&backend]))).await;
    let leader = ask(&gateway, &plain(true).bearer(&keys[0].key).header("x-request-id", "leads")).await;
    backend.seen(0).await;
    let follower = ask(&gateway, &plain(false).bearer(&keys[1].key).header("x-request-id", "follows")).await;
    joined(&gateway, 2).await;
    gate.open();
    assert_eq!((leader.await.unwrap().status, follower.await.unwrap().status, backend.count()), (200, 200, 1));
    for id in ["leads", "follows"] {
        // The line is written when everything is settled.
        gateway.log.request(id).await;
    }
    let said = gateway.admin("/admin/spenders?by=key&of=tokens").await.json();
    let by_name = |name: &str| {
        let spenders = said["spenders"].as_array().unwrap().iter();
        spenders.filter(|one| one["name"] == name).map(|one| one["tokens"].as_u64().unwrap()).sum()
    };
    let spent = [by_name("k0"), by_name("k1")];
    for (n, spent) in spent.iter().enumerate() {
        let seen = gateway.admin(&format!("/admin/limits/key:k{n}")).await.json();
        let bucket = &seen["buckets"][0];
        assert_eq!((bucket["left"].as_u64(), bucket["reserved"].as_u64()), (Some(1000 - spent), Some(0)), "{seen}");
    }
    // The limits agree: what is left differs by what was spent, give or take what they have learned meanwhile.
    let mut left = [0; 2];
    for (key, left) in keys.iter().zip(&mut left) {
        let other = Request::post("/v1/chat/completions", r#"{"model":"m","messages":[],"max_tokens":5}"#);
        let answer = gateway.send(&other.bearer(&key.key).header("cache-control", "no-store")).await;
        *left = answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap();
    }
    assert!(left[1].abs_diff(left[0]).abs_diff(spent[0] - spent[1]) < 100, "{left:?}");
    spent
}

#[tokio::test]
async fn the_tokens_of_a_shared_answer_are_the_leaders_or_each_ones_as_the_file_says() {
    assert_eq!(spent("leader").await, [500, 0]);
    assert_eq!(spent("each").await, [500, 500]);
}
