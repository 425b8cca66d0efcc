//! The connections: each asks when the clock says so, reads its answer, and keeps the time.

use crate::answer::Answer;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::fault::Fault;
use crate::plan::{End, Plan};
use crate::process::{self, Spent};
use crate::samples::{Gap, Samples};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io::Result;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, LocalSet};

/// What came of a run.
pub struct Measured {
    /// Seen from outside.
    pub samples: Samples,
    /// How long was measured.
    pub time: Duration,
    /// Spent by the server, if it was named.
    pub spent: Option<Spent>,
    /// Whether somebody ended it before its time.
    pub interrupted: bool,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What has been measured for; none while it warms up.
    pub time: Option<Duration>,
    /// The share of it that is done, warm-up included.
    pub done: f64,
    /// Good answers.
    pub requests: u64,
    /// Failures.
    pub errors: u64,
    /// Requests under way.
    pub open: usize,
}

/// Room for what is read at once.
const ROOM: usize = 16 << 10;

/// After a failed connection, so that a dead server is not hammered.
const BREATH: Duration = Duration::from_millis(20);

/// A connection that has been idle so long is looked at before it is used: servers end those.
const IDLE: Duration = Duration::from_secs(1);

/// Between two looks at how far it has come.
const LOOK: Duration = Duration::from_millis(100);

struct Run {
    plan: Plan,
    clock: Clock,
    samples: RefCell<Samples>,
    /// Since when each worker's request is due, of those that have one under way.
    due: RefCell<Vec<Option<Instant>>>,
    /// Requests that have been made, if each is to be another.
    made: Cell<u64>,
}

/// Runs `plan` on this thread until it is over or `stop` comes. `look` hears now and then how far it has come, and once at
/// the end.
///
/// # Errors
/// A process that cannot be looked at, or a kernel without timers for us.
pub fn measure(plan: Plan, stop: impl Future<Output = ()>, look: impl Fn(Progress) + 'static) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, drive(plan, stop, look))
}

async fn drive(plan: Plan, stop: impl Future<Output = ()>, look: impl Fn(Progress) + 'static) -> Result<Measured> {
    let (warmup, duration, requests) = match plan.end {
        End::Requests(count) => (Duration::ZERO, None, Some(count)),
        End::After { warmup, duration } => (warmup, Some(duration), None),
    };
    let began = Instant::now();
    let from = began + plan.ramp + warmup;
    let until = duration.map(|duration| from + duration);
    let run = Rc::new(Run {
        clock: Clock::new(requests, until, plan.rate),
        samples: RefCell::new(Samples::new(from)),
        due: RefCell::new(vec![None; plan.workers]),
        made: Cell::new(0),
        plan,
    });
    let tasks = run.start();
    let look = Rc::new(look);
    run.attend(look.clone(), began);
    let mut stop = std::pin::pin!(stop);
    let mut interrupted = false;
    // A wait that `stop` ends, and those after it.
    let mut wait = async |over: &mut (dyn Future<Output = ()> + Unpin)| {
        if !interrupted {
            tokio::select! { () = over => {}, () = &mut stop => interrupted = true }
        }
    };
    wait(&mut Box::pin(tokio::time::sleep_until(from.into()))).await;
    let (before, counted) = (process::look(&run.plan.pids)?, Instant::now());
    match until {
        Some(until) => wait(&mut Box::pin(tokio::time::sleep_until(until.into()))).await,
        None => wait(&mut Box::pin(all(tasks))).await,
    }
    let (after, time) = (process::look(&run.plan.pids)?, counted.elapsed());
    look(run.progress(began));
    let mut samples = run.samples.replace(Samples::new(from));
    samples.over(&run.waiting(), run.plan.rate.is_some());
    Ok(Measured { samples, time, spent: after.zip(before).map(|(after, before)| after.since(&before)), interrupted })
}

async fn all(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        // One that panicked has said so.
        let _ = task.await;
    }
}

impl Run {
    /// Starts the workers, spread over the ramp.
    fn start(self: &Rc<Self>) -> Vec<JoinHandle<()>> {
        let workers = self.plan.workers;
        let start = |index| {
            let delay = self.plan.ramp.mul_f64(index as f64 / workers as f64);
            let run = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(delay).await;
                run.work(index).await;
            })
        };
        (0..workers).map(start).collect()
    }

    /// Has the clock run, and whoever looks see how far it has come.
    fn attend(self: &Rc<Self>, look: Rc<impl Fn(Progress) + 'static>, began: Instant) {
        let timed = self.clone();
        tokio::task::spawn_local(async move { timed.clock.run().await });
        let looked = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                look(looked.progress(began));
            }
        });
    }

    /// One connection's requests, on a new connection whenever the old one is lost.
    async fn work(&self, index: usize) {
        let mut open = None;
        let mut bytes = Cow::Borrowed(&*self.plan.request.bytes);
        while let Some(due) = self.clock.next().await {
            self.number(&mut bytes);
            self.due.borrow_mut()[index] = Some(due);
            if self.plan.rate.is_some() {
                self.samples.borrow_mut().began(due, Instant::now());
            }
            let asked = self.request(&bytes, &mut open, due);
            let answered = match self.plan.timeout {
                Some(timeout) => tokio::time::timeout(timeout, asked).await.unwrap_or(Err(Fault::Timeout)),
                None => asked.await,
            };
            let failed = match answered {
                Ok(answer) => self.judge(&answer, due).is_err(),
                Err(fault) => {
                    open = None;
                    self.samples.borrow_mut().failed(fault);
                    true
                }
            };
            self.due.borrow_mut()[index] = None;
            if failed && open.is_none() {
                tokio::time::sleep(BREATH).await;
            }
        }
    }

    /// Makes the request another than all before it, if that is asked for.
    fn number(&self, request: &mut Cow<'_, [u8]>) {
        if let Some(place) = self.plan.request.number.clone() {
            let made = self.made.replace(self.made.get() + 1);
            request.to_mut()[place].copy_from_slice(format!("{made:016}").as_bytes());
        }
    }

    /// Asks, and reads the answer to its end.
    async fn request(&self, bytes: &[u8], open: &mut Option<Open>, due: Instant) -> std::result::Result<Answer, Fault> {
        if open.as_ref().is_some_and(|open| open.used.elapsed() > IDLE && !open.connection.is_quiet()) {
            *open = None;
        }
        let room = if self.plan.stream { ROOM / 4 } else { ROOM };
        let connected = match open {
            Some(open) => open,
            None => {
                let connection = self.plan.way.connect().await.map_err(|(fault, _)| fault)?;
                open.insert(Open { connection, buffer: vec![0; room], used: due })
            }
        };
        connected.connection.write_all(bytes).await.map_err(|error| Fault::exchanging(&error, Fault::Write))?;
        connected.connection.flush().await.map_err(|error| Fault::exchanging(&error, Fault::Write))?;
        let answer = self.read(connected, due).await?;
        if answer.closes {
            *open = None;
        } else {
            connected.used = Instant::now();
        }
        Ok(answer)
    }

    async fn read(&self, open: &mut Open, due: Instant) -> std::result::Result<Answer, Fault> {
        let mut answer = Answer::new(self.plan.usage);
        let mut last = None;
        while !answer.is_whole() {
            let count = open.connection.read(&mut open.buffer).await;
            let count = count.map_err(|error| Fault::exchanging(&error, Fault::Read))?;
            if count == 0 && !answer.ends_here() {
                return Err(Fault::Closed);
            }
            let before = answer.events.count;
            answer.feed(&open.buffer[..count], &mut |_| {}).map_err(|_| Fault::Malformed)?;
            let came = answer.events.count - before;
            if came > 0 && self.plan.stream {
                let now = Instant::now();
                let gap = last.map_or(Gap::First(now - due), |last| Gap::Next(now - last));
                self.samples.borrow_mut().events(came, gap, now);
                last = Some(now);
            }
        }
        Ok(answer)
    }

    /// What a whole answer is.
    fn judge(&self, answer: &Answer, due: Instant) -> std::result::Result<(), Fault> {
        let (mut samples, now) = (self.samples.borrow_mut(), Instant::now());
        let fault = match Fault::of_status(answer.status) {
            None if self.plan.stream && !answer.events.done => Some(Fault::NoEnd),
            fault => fault,
        };
        let Some(fault) = fault else {
            let tokens = answer.usage.as_ref().map_or(0, |usage| usage.tokens);
            samples.answered(answer.status, tokens, due, now);
            return Ok(());
        };
        samples.failed(fault);
        if fault != Fault::NoEnd {
            samples.refused(answer.status, due, now);
        }
        Err(fault)
    }

    /// How long each request that is due has waited by now.
    fn waiting(&self) -> Vec<Duration> {
        let under_way = self.due.borrow();
        under_way.iter().flatten().copied().chain(self.clock.waiting()).map(|due| due.elapsed()).collect()
    }

    fn progress(&self, began: Instant) -> Progress {
        let (samples, now) = (self.samples.borrow(), Instant::now());
        let time = (now >= samples.from).then(|| now - samples.from);
        let done = match (self.plan.end, self.clock.until) {
            (End::Requests(count), _) => samples.requests as f64 / count as f64,
            (_, Some(until)) => began.elapsed().as_secs_f64() / (until - began).as_secs_f64(),
            _ => 0.0,
        };
        let open = self.due.borrow().iter().flatten().count();
        let errors = samples.errors.values().sum();
        Progress { time, done: done.min(1.0), requests: samples.requests, errors, open }
    }
}

/// A connection with its room.
struct Open {
    connection: Connection,
    buffer: Vec<u8>,
    /// When it was last.
    used: Instant,
}
