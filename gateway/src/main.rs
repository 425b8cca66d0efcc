//! The `tidegate` program: its allocator, its TLS provider, and the command that was asked for.

mod commands;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything makes a TLS configuration: with two providers compiled in, rustls chooses none by itself.
    // It can only be refused because one is installed, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    commands::main()
}
