//! Each reads at its own pace: late, slow, and too slow.

use super::*;

#[tokio::test]
async fn a_late_request_gets_what_has_come_and_then_each_event_as_it_comes() {
    let backend = Backend::start().await;
    let (second, third) = (Gate::closed(), Gate::closed());
    backend.push(last(Script::stream().token("a").wait(&second).token("b").wait(&third).token("c")));
    let gateway = sharing(&backend, "").await;
    let mut leader = gateway.connect().await;
    leader.send(plain(true).bytes()).await;
    assert_eq!(leader.piece_after_head().await, token("a"));
    let mut late = gateway.connect().await;
    late.send(plain(true).bytes()).await;
    assert_eq!(late.piece_after_head().await, token("a"));
    second.open();
    assert_eq!(late.piece().await.unwrap().unwrap(), token("b"));
    third.open();
    let mut rest = Vec::new();
    while let Some(piece) = late.piece().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    assert!(String::from_utf8(rest).unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(backend.count(), 1);
}

/// Reads nothing, with a small window.
async fn lazy(gateway: &Gateway) -> Connection {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    Connection::over(socket.connect(gateway.address()).await.unwrap())
}

#[tokio::test]
async fn whoever_is_slow_slows_nobody_leader_or_follower() {
    for leader_is_slow in [false, true] {
        let backend = Backend::start().await;
        let word = "x".repeat(8000);
        let gate = Gate::closed();
        let mut script = Script::stream().token("a").wait(&gate);
        for _ in 0..400 {
            script = script.token(&word);
        }
        backend.push(last(script));
        let gateway = sharing(&backend, "").await;
        let (mut slow, mut quick) = (lazy(&gateway).await, gateway.connect().await);
        let (first, second) = if leader_is_slow { (&mut slow, &mut quick) } else { (&mut quick, &mut slow) };
        first.send(plain(true).bytes()).await;
        first.piece_after_head().await;
        second.send(plain(true).bytes()).await;
        second.piece_after_head().await;
        let began = Instant::now();
        gate.open();
        let mut length = 0;
        while let Some(piece) = quick.piece().await.unwrap() {
            length += piece.len();
        }
        assert!(length > 3 << 20, "{length}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        // The slow one has lost nothing.
        let mut rest = 0;
        while let Some(piece) = slow.piece().await.unwrap() {
            rest += piece.len();
        }
        assert_eq!(rest, length);
        assert_eq!(backend.count(), 1);
    }
}

#[tokio::test]
async fn whoever_falls_behind_an_endless_answer_is_told_and_holds_no_more_than_its_bound() {
    let backend = Backend::start().await;
    // Never further ahead of the quick one than it can be: how fast this machine reads makes no difference.
    let (gates, word) = ([(); 24].map(|()| Gate::closed()), "x".repeat(16_000));
    let mut script = Script::stream().token("a");
    for gate in &gates {
        script = (0..64).fold(script.wait(gate), |script, _| script.token(&word));
    }
    backend.push(script.hang());
    backend.push(last(Script::stream().token("mine")));
    let gateway = sharing(&backend, ", max_entry: 1MiB").await;
    let (mut quick, mut slow) = (gateway.connect().await, lazy(&gateway).await);
    quick.send(plain(true).bytes()).await;
    quick.piece_after_head().await;
    slow.send(plain(true).header("x-request-id", "slow").bytes()).await;
    slow.piece_after_head().await;
    let before = resident(gateway.pid());
    for gate in &gates {
        gate.open();
        let mut length = 0;
        while length < 64 * 16_000 {
            length += quick.piece().await.unwrap().unwrap().len();
        }
    }
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
    // Nobody gets half of it from the middle: who comes now asks for itself.
    let late = gateway.send(&plain(true)).await;
    assert!(late.text().contains("mine"), "{}", late.text());
    let mut text = Vec::new();
    while let Ok(Some(piece)) = slow.piece().await {
        text.extend_from_slice(&piece);
    }
    assert!(String::from_utf8_lossy(&text).contains("fell_behind"));
    assert_eq!(backend.count(), 2);
}
