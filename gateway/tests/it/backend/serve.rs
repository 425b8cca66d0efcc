//! The connections of an HTTP/1.1 backend: read a request raw, carry out its script, notice who leaves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::script::Step;
use super::{OnAccept, Seen, State};
use crate::wire::{BodyReader, Framing, Io, Wire, parse_head};

pub(super) async fn accept_tcp(listener: TcpListener, state: Arc<State>, tls: Option<TlsAcceptor>) {
    // The set ends its tasks when this future is dropped, so a stopped backend also closes its connections.
    let mut tasks = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        if state.resets.load(SeqCst) {
            stream.reset();
        }
        let (state, tls) = (state.clone(), tls.clone());
        tasks.spawn(async move {
            match tls {
                None => connection(stream, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, state).await;
                    }
                }
            }
        });
    }
}

pub(super) async fn accept_unix(listener: UnixListener, state: Arc<State>) {
    let mut tasks = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn(connection(stream, state.clone()));
    }
}

/// Counts itself for as long as it lives.
struct Counted(Arc<State>, fn(&State) -> &AtomicUsize);

impl Counted {
    fn new(state: &Arc<State>, counter: fn(&State) -> &AtomicUsize) -> (Self, usize) {
        let now = counter(state).fetch_add(1, SeqCst) + 1;
        (Self(state.clone(), counter), now)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, SeqCst);
    }
}

/// What a connection does after an exchange.
#[derive(Clone, Copy)]
enum Next {
    Request,
    Close,
    Reset,
}

async fn connection(io: impl Io + 'static, state: Arc<State>) {
    let accept = state.accepts.lock().unwrap().pop_front().unwrap_or(OnAccept::Serve);
    match accept {
        OnAccept::Close => {}
        OnAccept::Reset => io.reset(),
        OnAccept::Stall => {
            let mut wire = Wire::new(io);
            while wire.fill().await.is_ok_and(|read| read > 0) {}
        }
        OnAccept::Serve => {
            let (mut wire, mut open) = (Wire::new(io), None);
            let mut next = Next::Request;
            while let Next::Request = next {
                next = exchange(&mut wire, &state, &mut open).await.unwrap_or(Next::Close);
            }
            if let Next::Reset = next {
                wire.reset();
            }
        }
    }
}

/// One request and what the script makes of it.
async fn exchange(wire: &mut Wire, state: &Arc<State>, open: &mut Option<Counted>) -> io::Result<Next> {
    let Some(head) = wire.head().await? else {
        return Ok(Next::Close);
    };
    let (first_line, headers) = parse_head(&head);
    let framing = Framing::of(&headers, Framing::Empty);
    let mut seen = Seen::new(&first_line, head, headers);
    if open.is_none() && !seen.is_probe() {
        state.connections.fetch_add(1, SeqCst);
        *open = Some(Counted::new(state, |state| &state.open).0);
    }
    let early = state.is_next_at_head();
    if !early {
        let read = read_body(&mut seen, framing, wire).await;
        seen.complete = read.is_ok();
        if let Err(error) = read {
            seen.mark_gone();
            state.record_cut(Arc::new(seen));
            return Err(error);
        }
    }
    let seen = Arc::new(seen);
    let (_in_flight, now) = Counted::new(state, |state| &state.in_flight);
    state.most_in_flight.fetch_max(now, SeqCst);
    let script = state.script_for(&seen);
    for step in script.steps {
        match carry_out(step, wire, &seen).await {
            Ok(Next::Request) => {}
            Ok(next) => return Ok(next),
            Err(error) => {
                seen.mark_gone();
                return Err(error);
            }
        }
    }
    if early {
        // Closing on unread bytes would be a RST that overtakes the answer.
        let drain = async { while wire.some(usize::MAX).await.is_ok_and(|piece| !piece.is_empty()) {} };
        drop(tokio::time::timeout(Duration::from_millis(500), drain).await);
    }
    let last = early || state.closes_idle.load(SeqCst) || seen.header("connection") == Some("close");
    Ok(if last { Next::Close } else { Next::Request })
}

async fn read_body(seen: &mut Seen, framing: Framing, wire: &mut Wire) -> io::Result<()> {
    if seen.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = BytesMut::new();
    let mut reader = BodyReader::new(framing);
    let end = loop {
        match reader.next(wire).await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    seen.body = body.freeze();
    seen.trailers = reader.trailers;
    end
}

async fn carry_out(step: Step, wire: &mut Wire, seen: &Seen) -> io::Result<Next> {
    match step {
        Step::Send(bytes) => wire.send(&bytes).await?,
        Step::Pause(time) => unless_gone(wire, tokio::time::sleep(time)).await?,
        Step::Wait(gate) => unless_gone(wire, gate.pass()).await?,
        Step::Drip(bytes, pace) => {
            for byte in bytes {
                wire.send(&[byte]).await?;
                unless_gone(wire, tokio::time::sleep(pace)).await?;
            }
        }
        Step::Repeat(bytes, pace) => loop {
            wire.send(&bytes).await?;
            unless_gone(wire, tokio::time::sleep(pace)).await?;
        },
        Step::Hang => unless_gone(wire, std::future::pending::<()>()).await?,
        Step::Fin => return Ok(Next::Close),
        Step::Reset => return Ok(Next::Reset),
        Step::Echo => loop {
            let bytes = wire.some(usize::MAX).await?;
            if bytes.is_empty() {
                seen.mark_gone();
                return Ok(Next::Close);
            }
            wire.send(&bytes).await?;
        },
    }
    Ok(Next::Request)
}

/// Waits, but not for a peer that has left.
async fn unless_gone(wire: &mut Wire, wait: impl Future<Output = ()>) -> io::Result<()> {
    tokio::pin!(wait);
    loop {
        tokio::select! {
            () = &mut wait => return Ok(()),
            read = wire.fill() => if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
        }
    }
}
