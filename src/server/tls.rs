//! TLS of the hub's own side: where its certificate comes from, and the handshake.
//!
//! Where an authority is asked for the certificate, see `acme.rs`, there may be none yet: handshakes then fail.

use std::{io, sync::Arc};

use rustls::{ServerConfig, crypto::ring};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificates::{CertificateError, CertificateFiles, Certificates, provider};
#[cfg(feature = "acme")]
use super::{
    acme::{self, AcmeSettings},
    certificates::ALPN_ACME,
};
use crate::metrics::CertificateExpiry;

/// What a client of HTTP/2 is told that it may speak. Source: RFC 9113, 3.2.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// The same of HTTP/1.1. Source: RFC 7301, 6.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The first byte of a handshake. Source: RFC 8446, 5.1.
const HANDSHAKE: u8 = 22;

/// Where the hub's certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// Somebody else keeps it in files.
    Files(CertificateFiles),
    /// The hub asks an authority for it.
    #[cfg(feature = "acme")]
    Acme(AcmeSettings),
}

impl CertificateSource {
    /// The names that lead to the hub, as far as they are known here.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Files(_) => Vec::new(),
            #[cfg(feature = "acme")]
            Self::Acme(settings) => settings.domains.clone(),
        }
    }
}

/// How connections begin that are encrypted.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) certificates: Arc<Certificates>,
    source: CertificateSource,
    serving: Arc<ServerConfig>,
    /// For a connection that is not served: it is told so in HTTP/1.1, whatever else its client speaks.
    refusing: Arc<ServerConfig>,
}

/// What a connection began with.
#[derive(Debug)]
pub(super) enum Greeting {
    /// A handshake that succeeded.
    Tls(Box<TlsStream<TcpStream>>),
    /// Something else, which was not read.
    Clear(TcpStream),
}

impl Tls {
    pub(super) fn start(
        source: CertificateSource,
        expiry: CertificateExpiry,
    ) -> Result<Self, CertificateError> {
        let certificates = match &source {
            CertificateSource::Files(files) => {
                let certificates = Certificates::new(files.clone(), expiry);
                certificates.read()?;
                certificates
            }
            #[cfg(feature = "acme")]
            CertificateSource::Acme(settings) => {
                let certificates = Certificates::new(settings.open_folder()?, expiry);
                match certificates.read() {
                    Ok(()) => (),
                    Err(CertificateError::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::error!(
                        error = format!("{:#}", anyhow::Error::from(error)),
                        "the certificate that was kept cannot be used; another is ordered"
                    ),
                }
                certificates
            }
        };
        let certificates = Arc::new(certificates);
        let config = |protocols: &[&[u8]]| {
            let config = ServerConfig::builder_with_provider(Arc::new(provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has what these versions need")
                .with_no_client_auth();
            let mut config = config.with_cert_resolver(certificates.clone());
            // Who comes back, as all do after a cut, costs no signature. Where there is no randomness, it does.
            if let Ok(ticketer) = ring::Ticketer::new() {
                config.ticketer = ticketer;
            }
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        let serving = match &source {
            CertificateSource::Files(_) => config(&[ALPN_HTTP2, ALPN_HTTP1]),
            #[cfg(feature = "acme")]
            CertificateSource::Acme(_) => config(&[ALPN_HTTP2, ALPN_HTTP1, ALPN_ACME]),
        };
        Ok(Self {
            serving,
            refusing: config(&[ALPN_HTTP1]),
            certificates,
            source,
        })
    }

    /// Keeps the certificate new, for ever.
    pub(super) async fn run(&self) {
        match &self.source {
            CertificateSource::Files(_) => self.certificates.run().await,
            #[cfg(feature = "acme")]
            CertificateSource::Acme(settings) => {
                Box::pin(acme::run(&self.certificates, settings)).await;
            }
        }
    }

    /// Takes the handshake of a connection that is served.
    pub(super) async fn greet(&self, socket: TcpStream) -> io::Result<Greeting> {
        let mut first = [0];
        match socket.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if first[0] != HANDSHAKE => Ok(Greeting::Clear(socket)),
            _ => {
                let acceptor = TlsAcceptor::from(self.serving.clone());
                let stream = acceptor.accept(socket).await?;
                Ok(Greeting::Tls(Box::new(stream)))
            }
        }
    }

    /// Takes the handshake of one that is not.
    pub(super) async fn greet_refused(
        &self,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.refusing.clone())
            .accept(socket)
            .await
    }
}
