//! TLS of the hub's own side: the certificate it shows, read again when its files change, and the handshake.
//!
//! A connection keeps the certificate that it began with, so no stream is cut when there is a new one. A file that is wrong ends the
//! hub at its start; later it is logged, and the certificate before it stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::files::{FileState, LOOK_INTERVAL, look_settled};

/// What a client of HTTP/2 is told that it may speak. Source: RFC 9113, 3.2.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// The same of HTTP/1.1. Source: RFC 7301, 6.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The first byte of a handshake. Source: RFC 8446, 5.1.
const HANDSHAKE: u8 = 22;

/// Where the certificate and its key are, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The hub's certificate, and behind it those that lead to an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("{path} is not PEM", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: pem::Error,
    },
    /// There is nothing of the kind in it.
    #[error("{path} has no {what}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// They do not belong to each other, or cannot be used.
    #[error("the certificate in {certificate} and the key in {key} cannot be used together", certificate = certificate.display(), key = key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl CertificateFiles {
    /// Reads them, and looks whether they belong to each other.
    pub fn read(&self) -> Result<CertifiedKey, CertificateError> {
        let chain = read(&self.certificate, "certificate", |pem| {
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()
        })?;
        if chain.is_empty() {
            return Err(CertificateError::Missing {
                path: self.certificate.clone(),
                what: "certificate",
            });
        }
        let key = read(&self.key, "private key", PrivateKeyDer::from_pem_slice)?;
        let certified = CertifiedKey::from_der(chain, key, &provider());
        certified.map_err(|source| CertificateError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })
    }

    fn look(&self) -> [Option<FileState>; 2] {
        [&self.certificate, &self.key].map(|path| FileState::of(path))
    }
}

fn read<T>(
    path: &Path,
    what: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, pem::Error>,
) -> Result<T, CertificateError> {
    let path = || path.to_owned();
    let pem = fs::read(path()).map_err(|source| CertificateError::Io {
        path: path(),
        source,
    })?;
    parse(&pem).map_err(|source| match matches!(source, pem::Error::NoItemsFound) {
        true => CertificateError::Missing { path: path(), what },
        false => CertificateError::Form {
            path: path(),
            source,
        },
    })
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(super) struct Certificates {
    files: CertificateFiles,
    current: RwLock<Arc<CertifiedKey>>,
    /// What the files looked like when they were read.
    seen: Mutex<[Option<FileState>; 2]>,
}

impl Certificates {
    fn read(files: CertificateFiles) -> Result<Self, CertificateError> {
        // Before they are read: what changes meanwhile is read again.
        let seen = files.look();
        Ok(Self {
            current: RwLock::new(Arc::new(files.read()?)),
            seen: Mutex::new(seen),
            files,
        })
    }

    /// Reads the files anew, and logs what came of it.
    pub(super) fn reload_and_tell(&self) {
        let certificate = self.files.certificate.display();
        match self.files.read() {
            Ok(new) => {
                *self
                    .current
                    .write()
                    .expect("nobody panics while holding it") = Arc::new(new);
                tracing::info!(%certificate, "the certificate was read again; new connections get it");
            }
            Err(error) => tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the certificate is refused; the one before it stays"
            ),
        }
    }

    /// Reads the files again when they change, for ever.
    pub(super) async fn run(&self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let known = *self.seen.lock().expect("nobody panics while holding it");
            let now = look_settled(&known, || self.files.look()).await;
            if now != known {
                *self.seen.lock().expect("nobody panics while holding it") = now;
                self.reload_and_tell();
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().expect("nobody panics while holding it");
        Some(current.clone())
    }
}

/// How connections begin that are encrypted.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) certificates: Arc<Certificates>,
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
    pub(super) fn start(files: CertificateFiles) -> Result<Self, CertificateError> {
        let certificates = Arc::new(Certificates::read(files)?);
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
        Ok(Self {
            serving: config(&[ALPN_HTTP2, ALPN_HTTP1]),
            refusing: config(&[ALPN_HTTP1]),
            certificates,
        })
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
