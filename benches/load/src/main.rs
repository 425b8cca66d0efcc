//! Load for measurements from the command line, for scripts: see the library beside it.

mod arguments;

use arguments::Arguments;
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use tidegate_bench_load::{Report, measure, open_files};

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
    open_files()?;
    // Whoever interrupts a script means it.
    let measured = measure(arguments.plan()?, std::future::pending(), |_| {})?;
    let report = Report::new(&measured, arguments.streams.is_some());
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.requests == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
