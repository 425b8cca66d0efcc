//! Load for measurements, and what came of it: latency, time to first token and time between tokens as the client sees
//! them, and what the measured server spent of its processor, memory and system calls.
//!
//! - Closed loop: each connection asks again as soon as it is answered. Tells how much a server can carry.
//! - Open loop (`--rate`): requests are due at fixed times, and their latency counts from when they were due, whether
//!   or not a connection was free (no coordinated omission). Tells what a client waits at a load that is given.

mod answer;
mod arguments;
mod clock;
mod drive;
mod process;
mod report;
mod samples;

use arguments::Arguments;
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told if stderr is closed.
            let _ = writeln!(std::io::stderr(), "tidegate-bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = tokio::task::LocalSet::new().block_on(&runtime, drive::measure(arguments))?;
    let report = report::Report::new(arguments, &measured);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.requests == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
