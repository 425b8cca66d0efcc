//! Another binary takes the place of this one, and no client notices: this process starts its successor, as it was
//! started itself, hands it the sockets that are listened on, and goes on serving until that one serves, too. Then it
//! accepts no more and ends when its last connection has. A successor that cannot serve is ended, and nothing has changed.
//!
//! See docs/decisions/0015-the-old-process-starts-the-new.md for why it is done this way.

mod successor;
mod wire;

use crate::admin::House;
use crate::core::Core;
use crate::listeners::{Listeners, Named};
use crate::reload::Reloads;
use crate::service_manager;
use crate::telemetry::UpgradeOutcome;
use crate::upstream::Pool;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};
pub use successor::refuse;
pub(crate) use successor::{Predecessor, Succeeded};
use wire::{Estate, Say, Tell};

/// Says to a process that it is a successor, and that its standard input leads to the process before it. Not one of the
/// variables that are settings.
const VARIABLE: &str = "_TIDEGATE_SUCCESSOR";

/// How long a successor that was told to serve may take to say that it does, and one that is gone to end.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Starts successors.
pub(crate) struct Upgrades {
    core: Arc<Core>,
    reloads: Arc<Reloads>,
    listeners: Arc<Listeners>,
    /// One at a time. The one that has taken over sees by its end of this when the process is gone.
    successor: Mutex<Option<UnixStream>>,
}

/// Who serves from now on.
pub(crate) struct Successor {
    /// Its process.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
}

impl Upgrades {
    /// For this gateway, which listens there.
    pub(crate) fn new(core: Arc<Core>, reloads: Arc<Reloads>, listeners: Arc<Listeners>) -> Self {
        Self { core, reloads, listeners, successor: Mutex::default() }
    }

    /// Starts a successor and leaves the service to it. Blocks for as long as that takes to be ready.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub(crate) fn run(&self) -> Result<Successor, String> {
        let mut kept = match self.successor.try_lock() {
            Ok(kept) => kept,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err("an upgrade is under way already".to_owned()),
        };
        if kept.is_some() || self.core.is_draining() {
            return Err("this process is on its way out already".to_owned());
        }
        service_manager::status("a new process is starting");
        match self.start() {
            Ok((successor, socket)) => {
                *kept = Some(socket);
                Ok(successor)
            }
            Err(reason) => {
                self.core.metrics.upgraded(UpgradeOutcome::Refused);
                tracing::error!(reason, "the upgrade failed; this process goes on serving");
                service_manager::status(&format!("the upgrade failed: {reason}"));
                Err(reason)
            }
        }
    }

    fn start(&self) -> Result<(Successor, UnixStream), String> {
        if std::process::id() == 1 {
            let reason = "this is the first process of a container, which ends with it: start another container";
            return Err(reason.to_owned());
        }
        let (socket, theirs) = UnixStream::pair().map_err(|error| gone(&error))?;
        let mut child = spawn(theirs)?;
        let pid = child.id();
        tracing::info!(successor = pid, "upgrade: a new process is starting");
        let served = self.agree(&socket, pid).map(|version| {
            self.core.metrics.upgraded(UpgradeOutcome::Done);
            service_manager::succeeded_by(pid);
            self.core.hand_over();
            // One that is gone by now is the service manager's to start again.
            let _ = wire::say(&socket, &Tell::Lead);
            tracing::info!(successor = pid, version, "upgrade: the new process serves; this one finishes what is open");
            Successor { pid, version }
        });
        served.map(|successor| (successor, socket)).map_err(|reason| end(&mut child, reason))
    }

    /// Hands over, waits until the successor is ready, and has it serve; gives its version.
    fn agree(&self, socket: &UnixStream, pid: u32) -> Result<String, String> {
        let copied = |error: io::Error| format!("what is listened on cannot be handed over: {error}");
        let sockets = self.listeners.copies().map_err(copied)?;
        wire::hand_over(socket, &self.estate(&sockets), &sockets).map_err(|error| gone(&error))?;
        drop(sockets);
        let patience = self.reloads.history().now().config.upgrade.ready_within;
        let mut words = Words { lines: BufReader::new(socket), until: Instant::now() + patience };
        let mut missing = "it has said nothing".to_owned();
        loop {
            match words.next() {
                Ok(Say::Ready) => break,
                // No less than this process could.
                Ok(Say::Waiting { backends: true, reason }) if !self.core.ready().is_ok_and(|down| down.is_empty()) => {
                    tracing::warn!(reason, successor = pid, "neither process is ready");
                    break;
                }
                Ok(Say::Waiting { reason, .. }) => missing = reason,
                Ok(Say::Refused { reason }) => return Err(reason),
                Ok(Say::Serving { .. }) => return Err("it serves before it was told to".to_owned()),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    let patience = tidegate_config::write_duration(patience);
                    return Err(format!("the new process is not ready within {patience}: {missing}"));
                }
                Err(error) => return Err(gone(&error)),
            }
        }
        if self.core.is_draining() {
            return Err("this process has been told to end".to_owned());
        }
        wire::say(socket, &Tell::Serve).map_err(|error| gone(&error))?;
        words.until = Instant::now() + AT_ONCE;
        loop {
            match words.next() {
                Ok(Say::Serving { version }) => return Ok(version),
                Ok(Say::Refused { reason }) => return Err(reason),
                // What it said before it heard.
                Ok(Say::Ready | Say::Waiting { .. }) => {}
                Err(error) => return Err(gone(&error)),
            }
        }
    }
}

impl Upgrades {
    fn estate(&self, sockets: &[Named]) -> Estate {
        let [done, refused] = self.core.metrics.upgrades();
        let snapshot = self.core.snapshot.load();
        let of_pool = |pool: &Arc<Pool>| {
            let drained = pool.backends().into_iter().filter(|backend| backend.is_draining());
            drained.map(|backend| (pool.name.to_string(), backend.settings.name.to_string())).collect::<Vec<_>>()
        };
        let (level, in_file) = (self.core.log.level(), self.reloads.history().now().config.log.level);
        Estate {
            listeners: sockets.iter().map(|(name, _)| name.clone()).collect(),
            upgrades: done + 1,
            refused,
            drained: snapshot.pools.iter().flat_map(of_pool).collect(),
            log_level: (level != in_file.as_str()).then_some(level),
        }
    }
}

/// The program that this one was started as, with the same arguments: by now it may be another.
fn spawn(theirs: UnixStream) -> Result<Child, String> {
    let mut words = std::env::args_os();
    let itself = || std::env::current_exe().map_or_else(|_| OsString::from("tidegate"), OsString::from);
    let program = words.next().filter(|program| !program.is_empty()).unwrap_or_else(itself);
    let spawned =
        Command::new(&program).args(words).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(theirs))).spawn();
    spawned.map_err(|error| format!("{} cannot be started: {error}", program.display()))
}

fn gone(error: &io::Error) -> String {
    match error.kind() {
        // It said nothing more, or did not even hear.
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "the new process has ended".to_owned()
        }
        ErrorKind::TimedOut => "the new process does not say that it serves".to_owned(),
        _ => format!("the new process says what is no answer ({error}): is it another version, or another program?"),
    }
}

/// Ends a successor that failed, and adds what its end says to the reason.
fn end(child: &mut Child, reason: String) -> String {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        // Most have ended by themselves, and their status says more.
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) => return format!("{reason} ({status})"),
            Err(_) => break,
        }
    }
    if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
        tracing::warn!(%error, "a successor that failed cannot be ended");
    }
    reason
}

/// Lines that come until a time.
struct Words<'a> {
    lines: BufReader<&'a UnixStream>,
    until: Instant,
}

impl Words<'_> {
    fn next(&mut self) -> io::Result<Say> {
        let mut line = String::new();
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.lines.get_ref().set_read_timeout(Some(left))?;
            match self.lines.read_line(&mut line) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if line.ends_with('\n') => return wire::heard(&line),
                // It goes on where it was.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
