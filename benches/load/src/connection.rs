//! A connection to the server, plain or in TLS.

use crate::fault::Fault;
use crate::target::Target;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whose certificates are good.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those of the authorities that this machine trusts.
    System,
    /// Those of the authorities in this file (PEM).
    File(&'a Path),
    /// Anybody's.
    Anybody,
}

/// How to get there.
#[derive(Clone)]
pub struct Way {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Way {
    /// The way to `target`.
    ///
    /// # Errors
    /// It has no address, or the authorities to trust cannot be read.
    pub fn to(target: &Target, trust: Trust<'_>) -> Result<Self> {
        let address = target.address()?;
        let tls = match target.tls {
            false => None,
            true => Some((
                TlsConnector::from(Arc::new(settings(trust)?)),
                ServerName::try_from(target.host.clone()).map_err(Error::other)?,
            )),
        };
        Ok(Self { address, tls })
    }

    /// Goes it.
    ///
    /// # Errors
    /// What kind of failure it is, and what the system or TLS says of it.
    pub(crate) async fn connect(&self) -> std::result::Result<Connection, (Fault, Error)> {
        let failed = |error| (Fault::connecting(&error), error);
        let socket = TcpStream::connect(self.address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let Some((connector, name)) = &self.tls else { return Ok(Connection::Plain(socket)) };
        let tls = connector.connect(name.clone(), socket).await.map_err(|error| (Fault::Tls, error))?;
        Ok(Connection::Tls(Box::new(tls)))
    }
}

/// TLS as a client has it. HTTP/1.1 is what is spoken in it.
fn settings(trust: Trust<'_>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(Error::other)?;
    let mut roots = RootCertStore::empty();
    let builder = match trust {
        Trust::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs()?);
            builder.with_root_certificates(roots)
        }
        Trust::File(path) => {
            let wrong = |error| Error::other(format!("{}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
                roots.add(certificate.map_err(wrong)?).map_err(Error::other)?;
            }
            builder.with_root_certificates(roots)
        }
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    let mut settings = builder.with_no_client_auth();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(settings)
}

/// Takes any certificate, as somebody asked for who measures a server with one of its own. Signatures are checked all
/// the same: without that it would not be the work that is measured.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What requests are written to and answers are read from.
pub(crate) enum Connection {
    /// TCP.
    Plain(TcpStream),
    /// TLS on TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Whether nothing has come since the last answer: what could have come is the end of the connection.
    pub(crate) fn is_quiet(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        };
        let mut context = Context::from_waker(std::task::Waker::noop());
        socket.poll_peek(&mut context, &mut ReadBuf::new(&mut [0])).is_pending()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, data),
            Self::Tls(socket) => Pin::new(socket).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
