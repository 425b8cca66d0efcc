//! `tidegate demo`: the gateway with life in it, on a machine that has no model.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use clap::Args;
use tidegate::simulator::{self, Simulator};

use super::banner::{APPS, Banner, OPERATORS, free, free_or_near};
use super::discover::Found;
use super::keys::Key;
use super::say::{Paint, complain, say};
use super::starter::{Discovered, Starter};
use super::{Failure, file, run};

const MODELS: [&str; 2] = ["tide-small", "tide-large"];
const ALIAS: (&str, &str) = ("gpt-4o-mini", "tide-small");

/// Try everything on this machine, with a built-in simulator in place of a model.
#[derive(Args)]
pub(super) struct Demo {
    /// The port that apps connect to [default: 8080, or any that is free]
    #[arg(long)]
    port: Option<u16>,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let listen = match self.port {
            Some(port) => free(&format!("127.0.0.1:{port}"), "--port")?,
            None => free_or_near(APPS)?,
        };
        let backend = simulate().map_err(|error| Failure::could_not(format!("cannot start the simulator: {error}")))?;
        let key = Key::generate()?;
        let starter = Starter {
            origin: "What `tidegate demo` runs.",
            listen: &listen,
            admin: &free_or_near(OPERATORS)?,
            backend_key: None,
            client_key: Some(("demo", &key.hash)),
            aliases: &[ALIAS],
        };
        let found = Found::Models(MODELS.map(str::to_owned).into());
        let text = starter.yaml(&[Discovered { url: format!("http://{backend}"), found }]);
        let config = file::load_text(&text, "demo")?.config;
        let banner = Banner {
            opening: "Tidegate is starting, in front of a model simulator.".to_owned(),
            config: &config,
            key: Some(&key.plain),
            models: vec![MODELS[0].to_owned(), MODELS[1].to_owned(), format!("{} (answered by {})", ALIAS.0, ALIAS.1)],
            example: ALIAS.0,
        };
        say(&banner.text(Paint::on_stdout()));
        run::start(config)
    }
}

/// Starts the simulator in a thread with a runtime of its own; it ends with the process.
fn simulate() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let settings = Simulator { models: MODELS.map(str::to_owned).into(), ..Simulator::default() };
    thread::Builder::new().name("simulator".to_owned()).spawn(move || {
        let served =
            runtime.block_on(async { simulator::serve(tokio::net::TcpListener::from_std(listener)?, settings).await });
        if let Err(error) = served {
            complain(&format!("tidegate: the simulator ended: {error}"));
        }
    })?;
    Ok(address)
}
