//! TLS on the admin listener, and who is let in by a certificate.

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

use crate::reload::certificates::{Certificate, provider};

/// Shows this certificate, and asks for one that somebody in `client_ca` has signed. Who has none is let in too, for probes
/// have none; who has another one is not.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn acceptor(shown: Arc<Certificate>, client_ca: Option<&Path>) -> Result<TlsAcceptor, String> {
    let builder = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = match client_ca.map(verifier).transpose()? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Lets in whom an authority in this file has signed a certificate for.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider());
    verifier.allow_unauthenticated().build().map_err(|error| format!("{}: {error}", path.display()))
}

/// The certificates in a file, as authorities.
///
/// # Errors
/// What is wrong with them.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    Ok(roots)
}
