//! The `tidegate` program: its allocator, its TLS provider, and the command that was asked for.

mod commands;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages are for those who use all of them: here they made a gateway that does nothing 10 MiB larger, and each
    // stream 25 KiB. Where the system knows none, there is nothing to refuse.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before anything makes a TLS configuration: with two providers compiled in, rustls chooses none by itself.
    // It can only be refused because one is installed, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    commands::main()
}
