//! Lines on their way out: a bounded buffer that anyone appends to without waiting, and the one thread that writes it.
//!
//! The writer swaps the full buffer for an empty one, so the lock is held for a copy of one line and never for a write.
//! After each write it naps, unless lines pile up: under load there is one wake-up and one write for many lines.

use std::io::{ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::metrics::IntCounter;

/// Most bytes that wait; what comes after is dropped.
const CAPACITY: usize = 4 << 20;
/// From so many bytes on the writer's nap is over.
const HURRY: usize = 256 << 10;
/// How long the writer waits for more before it writes again.
const NAP: Duration = Duration::from_millis(10);
/// Buffers that grew beyond this are given back once they are written.
const KEEP: usize = 1 << 20;

pub(super) struct Queue {
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    wake: Condvar,
    /// Tells whoever flushes that all is written.
    done: Condvar,
    dropped: IntCounter,
}

struct State {
    lines: Vec<u8>,
    writer: Writer,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Waiting for a line, however long.
    Parked,
    /// Wrote a moment ago.
    Napping,
    /// Will look for lines by itself.
    Busy,
    /// Gone.
    Finished,
}

impl Queue {
    /// A queue whose writer thread writes to `output`.
    pub(super) fn start(output: Box<dyn Write + Send>, dropped: IntCounter) -> Arc<Self> {
        let state = Mutex::new(State { lines: Vec::new(), writer: Writer::Busy, closed: false });
        let queue = Arc::new(Self { state, wake: Condvar::new(), done: Condvar::new(), dropped });
        let theirs = Arc::clone(&queue);
        let spawned = std::thread::Builder::new().name("log".into()).spawn(move || theirs.write_until_closed(output));
        if spawned.is_err() {
            // No thread: every line is counted as dropped, and the gateway still serves.
            queue.lock().writer = Writer::Finished;
        }
        queue
    }

    /// Appends one line (with its newline), or drops and counts it. Never waits for the output.
    pub(super) fn append(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.writer == Writer::Finished || state.lines.len() + line.len() > CAPACITY {
            drop(state);
            self.dropped.inc();
            return;
        }
        state.lines.extend_from_slice(line);
        let wake = match state.writer {
            Writer::Parked => true,
            Writer::Napping => state.lines.len() >= HURRY,
            Writer::Busy | Writer::Finished => false,
        };
        if wake {
            state.writer = Writer::Busy;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends the writer once all lines are out, and waits for that, but no longer than `patience`.
    pub(super) fn close(&self, patience: Duration) {
        let mut state = self.lock();
        state.closed = true;
        self.wake.notify_one();
        let waiting = |state: &mut State| state.writer != Writer::Finished;
        drop(self.done.wait_timeout_while(state, patience, waiting).unwrap_or_else(PoisonError::into_inner));
    }

    fn write_until_closed(&self, mut output: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
            let lost = write(&mut output, &batch);
            self.dropped.inc_by(lost);
            batch.clear();
            if batch.capacity() > KEEP {
                batch = Vec::new();
            }
            self.nap();
        }
    }

    /// Waits for lines and swaps them into `batch`; `false` when there will be no more.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        while state.lines.is_empty() && !state.closed {
            state.writer = Writer::Parked;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.lines.is_empty() {
            state.writer = Writer::Finished;
            self.done.notify_all();
            return false;
        }
        state.writer = Writer::Busy;
        std::mem::swap(&mut state.lines, batch);
        true
    }

    fn nap(&self) {
        let mut state = self.lock();
        state.writer = Writer::Napping;
        let until = Instant::now() + NAP;
        while !state.closed && state.lines.len() < HURRY {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.writer = Writer::Busy;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can at worst have cut a line short.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of `batch`, and returns how many lines were lost if the output fails.
fn write(output: &mut dyn Write, mut batch: &[u8]) -> u64 {
    while !batch.is_empty() {
        match output.write(batch) {
            Ok(0) => return count_lines(batch),
            Ok(written) => batch = &batch[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody made our stdout non-blocking: not an end, only full.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(NAP),
            Err(_) => return count_lines(batch),
        }
    }
    0
}

fn count_lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that waits for permission before each write, and keeps what it was given.
    struct Gate(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            let data = &data[..data.len().min(1000)];
            self.1.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    type Gated = (mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>, Arc<Queue>, IntCounter);

    fn gated() -> Gated {
        let (permit, permits) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let dropped = IntCounter::default();
        let queue = Queue::start(Box::new(Gate(permits, Arc::clone(&written))), dropped.clone());
        (permit, written, queue, dropped)
    }

    #[test]
    fn lines_come_out_whole_and_in_order_when_closed() {
        let (permit, written, queue, dropped) = gated();
        let mut expected = Vec::new();
        for n in 0..1000 {
            let line = format!("line {n}\n").into_bytes();
            queue.append(&line);
            expected.extend(line);
            permit.send(()).unwrap();
        }
        queue.close(Duration::from_secs(10));
        assert!(*written.lock().unwrap() == expected);
        assert_eq!(dropped.get(), 0);
        queue.append(b"too late\n");
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn when_nobody_reads_lines_are_dropped_and_counted_and_nobody_waits() {
        let (permit, written, queue, dropped) = gated();
        let line = [b"x".repeat(1 << 10), b"\n".to_vec()].concat();
        let begun = Instant::now();
        for _ in 0..3 * CAPACITY / line.len() {
            queue.append(&line);
        }
        queue.close(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(written.lock().unwrap().is_empty());
        assert!(dropped.get() >= (CAPACITY / line.len()) as u64);
        // The output goes away: what was held is lost too, and every line is accounted for.
        drop(permit);
        queue.close(Duration::from_secs(10));
        assert_eq!(dropped.get(), (3 * CAPACITY / line.len()) as u64);
    }

    #[test]
    fn a_line_after_a_pause_is_written_at_once() {
        let (permit, written, queue, _) = gated();
        std::thread::sleep(NAP * 3);
        permit.send(()).unwrap();
        queue.append(b"here\n");
        let begun = Instant::now();
        while written.lock().unwrap().is_empty() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        assert_eq!(&*written.lock().unwrap(), b"here\n");
    }
}
