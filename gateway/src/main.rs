//! temporary
fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let path = std::env::args().nth(1).unwrap();
    match tidegate::Gateway::from_file(&path) {
        Ok(gateway) => if let Err(e) = gateway.run() { eprintln!("{e}"); std::process::exit(1) },
        Err(f) => { eprintln!("{f}"); std::process::exit(2) }
    }
}
