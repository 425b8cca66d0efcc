//! A model server for measurements: every answer is the same bytes each time, made before it is asked for, and sent
//! with one write. What it answers stands in the model's name (see [`answer`]).
//!
//! It is deliberately no HTTP library's server: it reads just enough of a request to find its end and its model, so that
//! next to whatever is measured it costs little, and the same for everyone.

mod answer;
mod connection;
mod pace;
mod request;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::LocalSet;

/// Connections that wait to be accepted: thousands of streams are opened at once.
const BACKLOG: u32 = 16_384;

/// What it is asked to do.
#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Where it listens; port 0 takes a free one. The address is the first line it prints.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads, each with connections of its own.
    #[arg(long, default_value_t = 1)]
    threads: u16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if stderr is closed.
            let _ = writeln!(std::io::stderr(), "tidegate-bench-mock: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<()> {
    open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(async { listen(arguments.listen) })?;
    let address = listener.local_addr()?;
    writeln!(std::io::stdout(), "{address}")?;
    for _ in 1..arguments.threads {
        std::thread::spawn(move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listener = runtime.block_on(async { listen(address) })?;
            LocalSet::new().block_on(&runtime, serve(listener))
        });
    }
    LocalSet::new().block_on(&runtime, serve(listener))
}

/// Takes as many open files as may be had: a connection is one, and shells begin with 1,024.
fn open_files() -> std::io::Result<()> {
    let most = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most })?)
}

/// Every thread listens on the same port, and the kernel spreads connections over them.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(listener: TcpListener) -> ! {
    let pacer = pace::Pacer::start();
    let answers = Rc::new(answer::Answers::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of files, or a client that has left already: those who are here go on.
            Err(_) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        tokio::task::spawn_local(connection::answer(stream, answers.clone(), pacer.clone()));
    }
}
