//! The clock of all paced streams: one wheel of milliseconds, and one task that turns it and writes what is due.
//!
//! A task and a timer for each stream would cost several times what the write costs. Here a token is one look into a
//! slot and one system call, so that ten thousand streams weigh little beside what is measured.

use crate::answer::{Answer, Stream};
use std::cell::RefCell;
use std::io::{ErrorKind, Result};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

/// Slots of the wheel, one for each millisecond; a longer pace goes round more than once.
const SLOTS: usize = 1024;

/// Streams on their way.
#[derive(Clone)]
pub(crate) struct Pacer(Rc<Shared>);

struct Shared {
    wheel: RefCell<Wheel>,
    /// Says that there is something to turn for.
    started: Notify,
}

struct Wheel {
    slots: Vec<Vec<Flow>>,
    began: Instant,
    /// The next millisecond to be looked at.
    next: u64,
    flows: usize,
}

/// One stream, between two tokens.
struct Flow {
    socket: TcpStream,
    answer: Rc<Answer>,
    /// Tokens sent.
    sent: u32,
    /// Bytes of the current write that the socket did not take.
    behind: usize,
    /// When the next token is due, in milliseconds since the wheel began.
    due: u64,
    done: oneshot::Sender<TcpStream>,
}

/// What became of a write.
enum Wrote {
    All,
    Some,
    Failed,
}

impl Pacer {
    /// Starts the clock on this thread.
    pub(crate) fn start() -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        let wheel = RefCell::new(Wheel { slots, began: Instant::now(), next: 0, flows: 0 });
        let pacer = Self(Rc::new(Shared { wheel, started: Notify::new() }));
        tokio::task::spawn_local(pacer.clone().turn());
        pacer
    }

    /// Sends what follows a stream's first write, and gives the socket back; none if the client has left.
    pub(crate) async fn send(&self, socket: TcpStream, answer: &Rc<Answer>, stream: &Stream) -> Option<TcpStream> {
        let (done, sent) = oneshot::channel();
        {
            let mut wheel = self.0.wheel.borrow_mut();
            let due = wheel.now() + pace(stream);
            wheel.put(Flow { socket, answer: answer.clone(), sent: 1, behind: 0, due, done });
            wheel.flows += 1;
        }
        self.0.started.notify_one();
        sent.await.ok()
    }

    async fn turn(self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            if self.0.wheel.borrow().flows == 0 {
                self.0.started.notified().await;
            }
            ticks.tick().await;
            self.0.wheel.borrow_mut().advance();
        }
    }
}

impl Wheel {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn put(&mut self, flow: Flow) {
        // What is overdue is looked at with the next turn.
        let slot = flow.due.max(self.next) % SLOTS as u64;
        self.slots[slot as usize].push(flow);
    }

    /// Writes what is due by now.
    fn advance(&mut self) {
        let now = self.now();
        // After a pause of more than a round each slot is looked at once.
        self.next = self.next.max(now.saturating_sub(SLOTS as u64 - 1));
        while self.next <= now {
            let slot = (self.next % SLOTS as u64) as usize;
            let round = self.next;
            self.next += 1;
            for flow in std::mem::take(&mut self.slots[slot]) {
                self.step(flow, round);
            }
        }
    }

    fn step(&mut self, mut flow: Flow, round: u64) {
        if flow.due > round {
            return self.put(flow);
        }
        let answer = flow.answer.clone();
        let Answer::Stream(stream) = &*answer else { return };
        let ending = flow.sent == stream.tokens;
        let bytes = if ending { &stream.end[..] } else { stream.event(flow.sent) };
        match flow.write(bytes) {
            Wrote::Failed => self.flows -= 1,
            Wrote::Some => {
                flow.due = round + 1;
                self.put(flow);
            }
            Wrote::All if ending => {
                self.flows -= 1;
                // If nobody waits for it any more, it closes here.
                let _ = flow.done.send(flow.socket);
            }
            Wrote::All => {
                flow.sent += 1;
                // The schedule is kept: a late token does not delay those after it. The end follows the last token.
                flow.due += if flow.sent == stream.tokens { 0 } else { pace(stream) };
                self.put(flow);
            }
        }
    }
}

impl Flow {
    fn write(&mut self, bytes: &[u8]) -> Wrote {
        match self.socket.try_write(&bytes[self.behind..]) {
            Ok(count) if self.behind + count == bytes.len() => {
                self.behind = 0;
                Wrote::All
            }
            Ok(count) => {
                self.behind += count;
                Wrote::Some
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Wrote::Some,
            Err(_) => Wrote::Failed,
        }
    }
}

fn pace(stream: &Stream) -> u64 {
    u64::try_from(stream.pace.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Sends all of a stream as fast as the socket takes it, with one write for each event as a model server has it.
///
/// # Errors
/// The client has left.
pub(crate) async fn flat_out(socket: &mut TcpStream, stream: &Stream) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    for sent in 1..stream.tokens {
        socket.write_all(stream.event(sent)).await?;
    }
    socket.write_all(if stream.breaks.is_some() { b"" } else { &stream.end }).await
}
