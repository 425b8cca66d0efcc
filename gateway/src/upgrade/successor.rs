//! The side of the new process: takes the sockets, says how it stands, and serves when it is told to.

use super::VARIABLE;
use super::wire::{self, Estate, Say, Tell};
use crate::admin::House;
use crate::core::Core;
use crate::listeners::Named;
use crate::service_manager;
use crate::telemetry::{Log, Metrics};
use crate::upstream::Pool;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;

/// How long the process before may take to hand over.
const HANDED_OVER: Duration = Duration::from_secs(10);

/// How often it is looked whether all is there.
const LOOK: Duration = Duration::from_millis(20);

/// How often what the process before has spent is looked up while it lives.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The process before this one, which serves until this one can.
pub(crate) struct Predecessor {
    socket: UnixStream,
    estate: Estate,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Succeeded {
    /// This process serves, and the one before it is gone.
    Alone,
    /// The one before has changed its mind, or is gone, before this one was told to serve.
    Never,
}

impl Predecessor {
    /// Takes what the process before hands over, if there is one.
    ///
    /// # Errors
    /// If it does not come.
    pub(crate) fn inherit() -> io::Result<Option<(Self, Vec<Named>)>> {
        let Some(socket) = socket()? else { return Ok(None) };
        socket.set_read_timeout(Some(HANDED_OVER))?;
        let (mut estate, sockets) = wire::take_over(&socket)?;
        let listeners = std::mem::take(&mut estate.listeners);
        // What this process reads from there, or one that it starts, is nothing of this.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Some((Self { socket, estate }, listeners.into_iter().zip(sockets).collect())))
    }

    /// Goes on counting, and as loud, as the process before.
    pub(crate) fn go_on(&self, metrics: &Metrics, log: &Log) {
        metrics.upgraded_before(self.estate.upgrades, self.estate.refused);
        if let Some(level) = &self.estate.log_level
            && let Err(error) = log.set_level(level)
        {
            tracing::warn!(error, "the log is as loud as the file says");
        }
    }

    /// A way to say why this process ends, should it.
    pub(crate) fn refusal(&self) -> io::Result<Refusal> {
        self.socket.try_clone().map(Refusal)
    }

    /// Says how `core` stands until told to serve, does so by `may`, and stays until the process before is gone.
    ///
    /// # Errors
    /// If nothing can be said.
    pub(crate) async fn succeed(self, core: &Arc<Core>, may: &watch::Sender<bool>) -> io::Result<Succeeded> {
        self.socket.set_nonblocking(true)?;
        let (read, write) = tokio::net::UnixStream::from_std(self.socket)?.into_split();
        let mut talk = Talk { lines: BufReader::new(read).lines(), write };
        if !talk.until_told_to_serve(core, &self.estate.drained).await {
            return Ok(Succeeded::Never);
        }
        may.send_replace(true);
        talk.say(&Say::Serving { version: env!("CARGO_PKG_VERSION").to_owned() }).await;
        // Should it be gone already, this process is the service all the same.
        let _: Option<Tell> = talk.hear().await;
        service_manager::ready("serving");
        tracing::info!(upgrades = self.estate.upgrades, "this process serves from now on");
        talk.until_alone(core).await;
        tracing::info!("the process before this one is gone");
        Ok(Succeeded::Alone)
    }
}

struct Talk {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Talk {
    /// False if that will never be.
    async fn until_told_to_serve(&mut self, core: &Core, drained: &[(String, String)]) -> bool {
        let mut said = None;
        loop {
            // Some are found only now.
            drain(core, drained);
            let now = standing(core);
            if said.as_ref() != Some(&now) {
                self.say(&now).await;
                said = Some(now);
            }
            tokio::select! {
                told = self.hear() => return matches!(told, Some(Tell::Serve)),
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Keeps up with what the process before spends, until it has ended.
    async fn until_alone(&mut self, core: &Arc<Core>) {
        loop {
            let gone = tokio::select! {
                word = self.hear::<Tell>() => word.is_none(),
                () = sleep(CATCH_UP) => false,
            };
            let known = match &core.spending {
                Some(spending) => spending.catch_up(gone).await,
                None => true,
            };
            if gone && known {
                return;
            }
            if gone {
                sleep(CATCH_UP).await;
            }
        }
    }

    /// Whoever does not hear it is gone, which is noticed by hearing nothing.
    async fn say(&mut self, word: &Say) {
        let mut line = serde_json::to_vec(word).unwrap_or_default();
        line.push(b'\n');
        let _ = self.write.write_all(&line).await;
    }

    /// Nothing if nobody is there any more.
    async fn hear<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let line = self.lines.next_line().await.ok().flatten()?;
        wire::heard(&line).ok()
    }
}

/// What an operator has drained stays drained.
fn drain(core: &Core, drained: &[(String, String)]) {
    for pool in core.snapshot.load().pools.iter().filter(|pool| drained.iter().any(|(of, _)| **of == *pool.name)) {
        for backend in pool.backends() {
            if drained.iter().any(|(of, name)| **of == *pool.name && **name == *backend.settings.name) {
                backend.drain(true);
            }
        }
    }
}

/// Whether this process could take over: all is read, and each model has a backend that is up.
fn standing(core: &Core) -> Say {
    let waiting = |reason: &str| Say::Waiting { reason: reason.to_owned(), backends: false };
    if core.storage.as_ref().is_some_and(|storage| !storage.seen(Duration::ZERO)) {
        return waiting("the store cannot be read");
    }
    if core.spending.as_ref().is_some_and(|spending| !spending.is_read()) {
        return waiting("what budgets have spent cannot be read");
    }
    let snapshot = core.snapshot.load();
    // One that is looked for and has no backends is nothing to wait for, unless a model has no other.
    let is_asked = |pool: &&Arc<Pool>| !pool.is_known() && !pool.backends().is_empty();
    if let Some(pool) = snapshot.pools.iter().find(is_asked) {
        return waiting(&format!("the backends of pool '{}' have not answered yet", pool.name));
    }
    match core.ready() {
        Ok(down) if down.is_empty() => Say::Ready,
        Ok(down) => {
            let reason = format!("no backend is up in {}", down.join(", "));
            Say::Waiting { reason, backends: true }
        }
        Err(reason) => Say::Waiting { reason, backends: true },
    }
}

/// The way to the process before this one. Standard input is left as it is.
fn socket() -> io::Result<Option<UnixStream>> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    Ok(Some(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?)))
}

/// Tells the process before this one, if there is one, why this one ends: for what goes wrong before there is a
/// [`Gateway`](crate::Gateway).
pub fn refuse(reason: &str) {
    if let Ok(Some(socket)) = socket() {
        Refusal(socket).say(reason);
    }
}

/// A way to say why this process ends.
pub(crate) struct Refusal(UnixStream);

impl Refusal {
    pub(crate) fn say(&self, reason: &str) {
        // Without a word it is seen that this process has ended, and how.
        let _ = wire::say(&self.0, &Say::Refused { reason: reason.to_owned() });
    }
}
