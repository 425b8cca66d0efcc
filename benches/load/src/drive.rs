//! The connections: each asks when the clock says so, reads its answer, and keeps the time.

use crate::answer::Answer;
use crate::arguments::{Arguments, Target};
use crate::clock::Clock;
use crate::process::{self, Spent};
use crate::samples::{Gap, Samples};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io::Result;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came of a run.
pub(crate) struct Measured {
    /// Seen from outside.
    pub samples: Samples,
    /// How long was measured.
    pub time: Duration,
    /// Spent by the server, if it was named.
    pub spent: Option<Spent>,
}

/// Room for what is read at once.
const ROOM: usize = 16 << 10;

/// After a failed connection, so that a dead server is not hammered.
const BREATH: Duration = Duration::from_millis(20);

struct Run {
    target: Target,
    clock: Clock,
    samples: RefCell<Samples>,
    stream: bool,
    /// Requests that have been made, if each is to be another.
    made: Cell<u64>,
}

/// Drives the load and measures.
///
/// # Errors
/// What cannot be asked, or a process that cannot be looked at.
pub(crate) async fn measure(arguments: &Arguments) -> Result<Measured> {
    let target = arguments.target()?;
    let (warmup, duration) = arguments.times();
    let ramp = Duration::from_secs_f64(arguments.ramp);
    let from = Instant::now() + ramp + warmup;
    let until = duration.map(|duration| from + duration);
    let run = Rc::new(Run {
        target,
        clock: Clock::new(arguments.requests, until, arguments.rate),
        samples: RefCell::new(Samples::new(from)),
        stream: arguments.streams.is_some(),
        made: Cell::new(0),
    });
    let workers = arguments.workers();
    let tasks: Vec<_> = (0..workers)
        .map(|index| {
            let delay = ramp.mul_f64(index as f64 / workers as f64);
            let run = run.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(delay).await;
                run.work().await;
            })
        })
        .collect();
    let timed = run.clone();
    let ticking = tokio::task::spawn_local(async move { timed.clock.run().await });
    tokio::time::sleep_until(from.into()).await;
    let (before, began) = (process::look(&arguments.pid)?, Instant::now());
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => {
            for task in tasks {
                task.await?;
            }
        }
    }
    let (after, time) = (process::look(&arguments.pid)?, began.elapsed());
    ticking.abort();
    let samples = run.samples.replace(Samples::new(from));
    Ok(Measured { samples, time, spent: after.zip(before).map(|(after, before)| after.since(&before)) })
}

impl Run {
    /// One connection's requests, on a new connection whenever the old one is lost.
    async fn work(&self) {
        let mut open = None;
        let mut bytes = Cow::Borrowed(&*self.target.request);
        while let Some(due) = self.clock.next().await {
            self.number(&mut bytes);
            match self.request(&bytes, &mut open, due).await {
                Ok(()) => {}
                Err(kind) => {
                    open = None;
                    self.samples.borrow_mut().failed(kind);
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// Makes the request another than all before it, if that is asked for.
    fn number(&self, request: &mut Cow<'_, [u8]>) {
        if let Some(place) = self.target.number.clone() {
            let made = self.made.replace(self.made.get() + 1);
            request.to_mut()[place].copy_from_slice(format!("{made:016}").as_bytes());
        }
    }

    async fn request(
        &self,
        bytes: &[u8],
        open: &mut Option<Connection>,
        due: Instant,
    ) -> std::result::Result<(), &'static str> {
        if open.is_none() {
            let socket = TcpStream::connect(self.target.address).await.map_err(|_| "connect")?;
            socket.set_nodelay(true).map_err(|_| "connect")?;
            *open = Some(Connection { socket, buffer: vec![0; if self.stream { ROOM / 4 } else { ROOM }] });
        }
        let Some(connection) = open.as_mut() else { return Err("connect") };
        connection.socket.write_all(bytes).await.map_err(|_| "write")?;
        let answer = self.read(connection, due).await?;
        if answer.closes {
            *open = None;
        }
        match answer.status {
            200 if self.stream && !answer.done => Err("stream without its end"),
            200 => {
                self.samples.borrow_mut().answered(due, Instant::now());
                Ok(())
            }
            400..=499 => Err("4xx"),
            _ => Err("5xx"),
        }
    }

    async fn read(&self, connection: &mut Connection, due: Instant) -> std::result::Result<Answer, &'static str> {
        let mut answer = Answer::default();
        let mut last = None;
        while !answer.is_whole() {
            let count = connection.socket.read(&mut connection.buffer).await.map_err(|_| "read")?;
            if count == 0 {
                return Err("closed early");
            }
            let before = answer.events;
            answer.feed(&connection.buffer[..count]).map_err(|_| "malformed")?;
            let came = answer.events - before;
            if came > 0 {
                let now = Instant::now();
                let gap = last.map_or(Gap::First(now - due), |last| Gap::Next(now - last));
                self.samples.borrow_mut().events(came, gap, now);
                last = Some(now);
            }
        }
        Ok(answer)
    }
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}
