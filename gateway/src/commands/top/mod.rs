//! `tidegate top`: what a gateway is doing now, in a terminal. It looks once a second, in a thread of its own, so that keys
//! are heard although the gateway is away.

mod screen;
mod terminal;
mod view;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tidegate::telemetry::live::Live;
use tokio::signal::unix::{SignalKind, signal};

use super::admin::Listener;
use super::say::{Paint, say};
use super::{Failure, Format};
use terminal::Terminal;
use view::View;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Looks that are kept: rates are over this many seconds.
const LOOKS: usize = 6;

/// The last requests that are shown at most.
const REQUESTS: usize = 60;

/// Show what a gateway is doing now: rates, first tokens, queues, backends, who is limited, the last requests.
#[derive(Args)]
#[command(
    after_help = "q ends it. --once prints one screen, for scripts; --once --format json what the gateway tells."
)]
pub(super) struct Top {
    /// The configuration file of the gateway: where its admin listener is, and its token
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    listener: Listener,
    /// Print it once and end
    #[arg(long)]
    once: bool,
    /// How to print it once
    #[arg(long, value_enum, default_value_t, requires = "once")]
    format: Format,
}

/// What a look found.
struct Look {
    live: Live,
    /// As the gateway tells it.
    told: Value,
    requests: Vec<Value>,
}

/// What the screen waits for.
enum Event {
    Looked(Box<Result<Look, Failure>>),
    Key(u8),
    /// There is nobody at the keyboard any more, or somebody wants it to end.
    Gone,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.once { self.print() } else { self.watch() }
    }

    fn look(&self) -> Result<Look, Failure> {
        let told = self.listener.get(self.config.as_ref(), "/admin/live")?;
        let live = serde_json::from_value(told.clone())
            .map_err(|error| Failure::could_not(format!("this is not what a gateway tells: {error}")))?;
        // A gateway that keeps none has said all there is.
        let requests = self.listener.get(self.config.as_ref(), &format!("/admin/requests?limit={REQUESTS}"));
        let requests = requests.ok().and_then(|mut page| page["requests"].as_array_mut().map(std::mem::take));
        Ok(Look { live, told, requests: requests.unwrap_or_default() })
    }

    fn print(&self) -> Result<(), Failure> {
        let before = self.look()?;
        if self.format == Format::Json {
            say(&format!("{:#}", before.told));
            return Ok(());
        }
        // Rates lie between two looks.
        thread::sleep(EVERY);
        let now = self.look()?;
        let view = View { now: &now.live, before: &before.live, requests: &now.requests };
        let paint = Paint::on_stdout();
        let lines: Vec<_> = screen::lines(&view, 100, 60).iter().map(|line| line.painted(paint)).collect();
        say(lines.join("\n").trim_end());
        Ok(())
    }

    fn watch(self) -> Result<(), Failure> {
        let mut terminal = Terminal::open().map_err(|error| {
            Failure::could_not(format!("this is no terminal to show it in ({error}); --once prints it"))
        })?;
        let (sender, events) = channel();
        keys(sender.clone());
        signals(sender.clone()).map_err(|error| Failure::could_not(format!("signals cannot be heard: {error}")))?;
        thread::spawn(move || {
            while sender.send(Event::Looked(Box::new(self.look()))).is_ok() {
                thread::sleep(EVERY);
            }
        });
        show(&mut terminal, &events);
        Ok(())
    }
}

/// Reads the keyboard, byte by byte.
fn keys(sender: Sender<Event>) {
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = std::io::Read::read(&mut std::io::stdin(), &mut byte) {
            if sender.send(Event::Key(byte[0])).is_err() {
                return;
            }
        }
        drop(sender.send(Event::Gone));
    });
}

/// Whoever ends it from elsewhere, or hangs up, gets the terminal back as it was, too.
fn signals(sender: Sender<Event>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()];
    let mut heard = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>()?;
    drop(entered);
    thread::spawn(move || {
        let any = runtime.block_on(futures_util::future::select_all(heard.iter_mut().map(|one| Box::pin(one.recv()))));
        // Whichever it was.
        drop(any);
        drop(sender.send(Event::Gone));
    });
    Ok(())
}

/// Until somebody has seen enough.
fn show(terminal: &mut Terminal, events: &Receiver<Event>) {
    let (mut looks, mut requests, mut fault) = (VecDeque::<Live>::new(), Vec::new(), None::<String>);
    loop {
        let drawn = match (looks.front(), looks.back()) {
            (Some(before), Some(now)) => {
                let (width, height) = terminal.size();
                let view = View { now, before, requests: &requests };
                let mut lines = screen::lines(&view, width, height);
                if let Some(fault) = &fault {
                    lines[0] = screen::away(fault, width);
                }
                terminal.draw(&lines)
            }
            _ => {
                let fault = fault.as_deref().unwrap_or("asking the gateway");
                terminal.draw(&[screen::away(fault, terminal.size().0)])
            }
        };
        if drawn.is_err() {
            return;
        }
        match events.recv() {
            Ok(Event::Key(b'q' | b'Q' | 3 | 27)) | Ok(Event::Gone) | Err(_) => return,
            Ok(Event::Key(_)) => {}
            Ok(Event::Looked(looked)) => match *looked {
                Ok(look) => {
                    // One that was started again has counted anew.
                    if looks.back().is_some_and(|last| last.uptime_ms > look.live.uptime_ms) {
                        looks.clear();
                    }
                    looks.push_back(look.live);
                    if looks.len() > LOOKS {
                        looks.pop_front();
                    }
                    (requests, fault) = (look.requests, None);
                }
                Err(failure) => fault = Some(failure.line),
            },
        }
    }
}
