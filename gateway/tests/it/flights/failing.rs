//! Backends that fail, and the end of the process, while several wait for one answer.

use super::*;

#[tokio::test]
async fn one_of_those_who_wait_takes_over_from_a_backend_that_fails_before_it_answers() {
    let backend = Backend::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    backend.push(Script::new().wait(&first).reset());
    backend.push(last(Script::stream().wait(&second).token("a")));
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(ask(&gateway, &plain(true)).await);
    }
    joined(&gateway, 21).await;
    first.open();
    backend.seen(1).await;
    second.open();
    assert_eq!(leader.await.unwrap().status, 502);
    for other in others {
        let answer = other.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(backend.count(), 2, "one took over");
    gateway.metric_is("tidegate_flight_requests_total", &[("outcome", "took_over")], 1.0).await;
}

#[tokio::test]
async fn a_backend_that_keeps_failing_is_asked_once_more_and_all_are_told() {
    for poor in [false, true] {
        let backend = Backend::start().await;
        let gates = [Gate::closed(), Gate::closed()];
        for gate in &gates {
            let failing = Script::new().wait(gate);
            backend.push(match poor {
                true => failing.send("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"),
                false => failing.reset(),
            });
        }
        let gateway = sharing(&backend, "").await;
        let leader = ask(&gateway, &plain(true)).await;
        backend.seen(0).await;
        let mut others = Vec::new();
        for n in 0..10 {
            others.push(ask(&gateway, &plain(n % 2 == 0)).await);
        }
        joined(&gateway, 11).await;
        gates[0].open();
        backend.seen(1).await;
        gates[1].open();
        let status = if poor { 429 } else { 502 };
        leader.await.unwrap().openai_error(status);
        for other in others {
            other.await.unwrap().openai_error(status);
        }
        assert_eq!(backend.count(), 2);
    }
}

#[tokio::test]
async fn what_breaks_off_breaks_off_for_all_with_the_same_word() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(Script::stream().token("a").wait(&gate).reset());
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let (streamed, whole) = (ask(&gateway, &plain(true)).await, ask(&gateway, &plain(false)).await);
    joined(&gateway, 3).await;
    gate.open();
    let (leader, streamed, whole) = (leader.await.unwrap(), streamed.await.unwrap(), whole.await.unwrap());
    assert_eq!(leader.text(), streamed.text());
    assert!(leader.text().contains("upstream_error") && !leader.text().contains("[DONE]"));
    assert_eq!(whole.openai_error(502)["code"], "upstream_error");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_flight_that_outlasts_the_time_for_draining_ends_honestly_for_all() {
    let backend = Backend::start().await;
    backend.push(Script::stream().token("a").hang());
    let filter = "drain: { delay: 0s, time: 300ms }\nfilters:\n  - shared_flight: { scope: global }\n";
    let mut gateway = Gateway::start(&(filter.to_owned() + &pool_of(&[&backend]))).await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let (streamed, whole) = (ask(&gateway, &plain(true)).await, ask(&gateway, &plain(false)).await);
    joined(&gateway, 3).await;
    gateway.signal("TERM");
    for asked in [leader, streamed] {
        assert!(asked.await.unwrap().text().contains("shutting_down"));
    }
    whole.await.unwrap().openai_error(503);
    gateway.ended(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn who_wants_a_stream_whole_that_ends_in_an_error_event_is_told_of_the_error() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    let error = "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}\n\n";
    backend.push(Script::stream().token("a").wait(&gate).chunk(error).done().end());
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let others = [ask(&gateway, &plain(false)).await, ask(&gateway, &plain(false)).await];
    joined(&gateway, 3).await;
    gate.open();
    assert!(leader.await.unwrap().text().contains("out of memory"));
    for other in others {
        assert_eq!(other.await.unwrap().openai_error(502)["code"], "upstream_error");
    }
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn one_of_those_who_wait_takes_over_from_a_stream_that_begins_with_an_error() {
    let backend = Backend::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    let error = "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}\n\n";
    // Its head has come for long.
    backend.push(Script::stream().wait(&first).chunk(error).done().end());
    backend.push(last(Script::stream().wait(&second).token("a")));
    let gateway = sharing(&backend, "").await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let mut others = Vec::new();
    // All for a stream: any of them may be the one whose request gets the second script.
    for _ in 0..6 {
        others.push(ask(&gateway, &plain(true)).await);
    }
    joined(&gateway, 7).await;
    first.open();
    backend.seen(1).await;
    second.open();
    assert!(leader.await.unwrap().text().contains("out of memory"));
    for other in others {
        let answer = other.await.unwrap();
        assert!(answer.status == 200 && !answer.text().contains("error"), "{}", answer.text());
    }
    assert_eq!(backend.count(), 2, "one took over");
}
