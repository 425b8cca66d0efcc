//! The certificates of listeners, which are replaced while connections come.

use super::Reloads;
use super::watch::Stamps;
use crate::telemetry::{IntCounter, Metrics};
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_config::ListenTls;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The certificate of one listener, as it is now.
pub(crate) struct Certificate {
    listener: String,
    files: ListenTls,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Stamps>,
    metrics: Arc<Metrics>,
    /// Loaded, and refused.
    loads: [IntCounter; 2],
}

impl Certificate {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(listener: &str, files: &ListenTls, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let seen = Mutex::new(stamps(files));
        let current = ArcSwap::from_pointee(load(&files.cert, &files.key)?);
        let loads = metrics.certificate_loads(listener);
        let (listener, files, metrics) = (listener.to_owned(), files.clone(), metrics.clone());
        let certificate = Self { listener, files, current, seen, metrics, loads };
        certificate.loaded();
        Ok(certificate)
    }

    fn loaded(&self) {
        self.loads[0].inc();
        if let Some(at) = self.current.load().cert.first().and_then(expiry) {
            self.metrics.certificate_expires(&self.listener, at);
        }
    }

    /// Reads it again if a file has changed. A pair that does not fit is most likely half replaced: the old one stays,
    /// until a file changes again.
    fn look(&self) {
        let now = stamps(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *seen {
            return;
        }
        *seen = now;
        let listener = &*self.listener;
        match load(&self.files.cert, &self.files.key) {
            Ok(certificate) => {
                self.current.store(Arc::new(certificate));
                self.loaded();
                tracing::info!(listener, "certificate reloaded");
            }
            Err(error) => {
                self.loads[1].inc();
                tracing::warn!(listener, error, "certificate refused; the old one stays");
            }
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// In seconds since 1970; nothing if it cannot be read, which is no reason not to show it.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn stamps(files: &ListenTls) -> Stamps {
    Stamps::of([files.cert.clone(), files.key.clone()])
}

/// A certificate with its key, which fits.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| format!("{}: {error}", cert.display()))?;
    let read = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    CertifiedKey::from_der(chain, read, &provider()).map_err(|error| error.to_string())
}

/// What TLS is made of.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Looks at the certificates as often as the file says, and whenever the configuration is read again.
pub(crate) async fn run(certificates: &[Arc<Certificate>], reloads: &Reloads) {
    if certificates.is_empty() {
        return;
    }
    let certificates: Arc<[Arc<Certificate>]> = certificates.into();
    loop {
        let every = reloads.history().now().config.reload.certificates;
        tokio::select! {
            () = sleep(every) => {}
            () = reloads.asked.notified() => {}
        }
        let theirs = certificates.clone();
        // It does not fail but by a panic, which has been logged.
        let _ = spawn_blocking(move || theirs.iter().for_each(|certificate| certificate.look())).await;
    }
}
