//! The certificate that connections are shown: read from its files, and read again when they change.
//!
//! A connection keeps the certificate that it began with, so no stream is cut when there is a new one. A file that is wrong ends the
//! hub at its start; later it is logged, and the certificate before it stays.

#[cfg(feature = "acme")]
use std::collections::HashMap;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use rustls::{
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::validity::Validity;
use crate::{
    files::{FileState, LOOK_INTERVAL, look_settled},
    metrics::CertificateExpiry,
};

/// What an authority says that wants to see whether a name leads here. Source: RFC 8737, 6.2.
#[cfg(feature = "acme")]
pub(super) const ALPN_ACME: &[u8] = b"acme-tls/1";

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
        let chain = read_certificates(&self.certificate)?;
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

/// Reads certificates that are PEM; there is at least one.
pub(crate) fn read_certificates(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = read(path, "certificate", |pem| {
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()
    })?;
    match chain.is_empty() {
        true => Err(CertificateError::Missing {
            path: path.to_owned(),
            what: "certificate",
        }),
        false => Ok(chain),
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

pub(super) fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(super) struct Certificates {
    files: CertificateFiles,
    current: RwLock<Option<Arc<CertifiedKey>>>,
    /// What the files looked like when they were read.
    seen: Mutex<[Option<FileState>; 2]>,
    expiry: CertificateExpiry,
    /// What an authority is shown that wants to see whether a name leads here, by name.
    #[cfg(feature = "acme")]
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    pub(super) fn new(files: CertificateFiles, expiry: CertificateExpiry) -> Self {
        Self {
            current: RwLock::default(),
            // Before they are read: what changes meanwhile is read again.
            seen: Mutex::new(files.look()),
            files,
            expiry,
            #[cfg(feature = "acme")]
            challenges: RwLock::default(),
        }
    }

    pub(super) fn read(&self) -> Result<(), CertificateError> {
        let new = self.files.read()?;
        let validity = new.cert.first().and_then(|first| Validity::of(first));
        self.expiry.set(validity.map(|validity| validity.ends));
        *self
            .current
            .write()
            .expect("nobody panics while holding it") = Some(Arc::new(new));
        Ok(())
    }

    /// Reads the files anew, and logs what came of it.
    pub(super) fn reload_and_tell(&self) {
        let certificate = self.files.certificate.display();
        match self.read() {
            Ok(()) => {
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

    /// What new connections are shown; `None` before the first was had from an authority.
    pub(super) fn current(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read();
        current.expect("nobody panics while holding it").clone()
    }
}

#[cfg(feature = "acme")]
impl Certificates {
    /// Shows `proof` to an authority that asks for `name`.
    pub(super) fn prove(&self, name: String, proof: CertifiedKey) {
        let mut challenges = self
            .challenges
            .write()
            .expect("nobody panics while holding it");
        challenges.insert(name, Arc::new(proof));
    }

    /// Ends all of that.
    pub(super) fn end_proofs(&self) {
        let mut challenges = self
            .challenges
            .write()
            .expect("nobody panics while holding it");
        challenges.clear();
    }

    fn proof(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let challenges = self
            .challenges
            .read()
            .expect("nobody panics while holding it");
        challenges.get(hello.server_name()?).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        #[cfg(feature = "acme")]
        if asks_for_proof(&_hello) {
            return self.proof(&_hello);
        }
        self.current()
    }
}

/// Whether a client wants to see the proof for a name. Source: RFC 8737, 3: it offers this protocol and no other.
#[cfg(feature = "acme")]
fn asks_for_proof(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut offered| offered.next() == Some(ALPN_ACME) && offered.next().is_none())
}
