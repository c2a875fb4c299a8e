//! Whom a client trusts, and why it got no connection: each cause in a sentence of its own, since "no answer" helps nobody.

use std::{
    error::Error as StdError,
    fs, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use hyper::Uri;
use reqwest::Certificate;
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, ServerName,
        pem::{self, PemObject},
    },
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Error;

/// Authorities to trust beside those of the system. A clone costs little, and shares what was read of the system.
#[derive(Debug, Clone, Default)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<OnceLock<Arc<Verifier>>>,
}

/// Why a file names no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is not PEM.
    #[error("it is not PEM")]
    Form(#[from] pem::Error),
    /// It has something else.
    #[error("it has no certificate")]
    Empty,
}

impl Authorities {
    /// Those whose certificates are in the file, as PEM.
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let pem = fs::read(path)?;
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
        match certificates.is_empty() {
            true => Err(AuthoritiesError::Empty),
            false => Ok(Self {
                certificates,
                verifier: Arc::default(),
            }),
        }
    }

    /// As reqwest wants them.
    pub(super) fn certificates(&self) -> Result<Vec<Certificate>, reqwest::Error> {
        let certificates = self.certificates.iter();
        certificates.map(|der| Certificate::from_der(der)).collect()
    }

    /// Shakes hands with the server of `uri`, and says whether it is to speak HTTP/2.
    pub(super) async fn greet(
        &self,
        socket: TcpStream,
        uri: &Uri,
        http2: bool,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match self.verifier.get() {
            Some(verifier) => verifier.clone(),
            None => {
                let extra = self.certificates.iter().cloned();
                let new = Verifier::new_with_extra_roots(extra, provider.clone());
                let new = Arc::new(new.map_err(Error::Certificate)?);
                self.verifier.get_or_init(|| new).clone()
            }
        };
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config
            .expect("ring has what these versions need")
            .dangerous();
        let mut config = config
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = match http2 {
            true => vec![b"h2".into()],
            false => vec![b"http/1.1".into()],
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| Error::InvalidUrl(uri.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let greeted = connector.connect(name, socket).await;
        greeted.map_err(|error| cause_of_tls(&error).unwrap_or(Error::Connect(error)))
    }
}

/// Why there was no answer, as far as the chain of causes says it.
pub(super) fn explain(error: reqwest::Error) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    let mut is_about_name = false;
    while let Some(found) = cause {
        // The type of this one is private to hyper-util.
        is_about_name |= found.to_string().starts_with("dns error");
        if let Some(error) = found.downcast_ref::<io::Error>() {
            if let Some(error) = cause_of_tls(error) {
                return error;
            }
            if is_about_name {
                return Error::Name(io::Error::new(error.kind(), error.to_string()));
            }
            // Of a socket file the last two: nobody has made it, or it is not for us.
            let is_of_connecting = [
                io::ErrorKind::ConnectionRefused,
                io::ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied,
            ];
            if is_of_connecting.contains(&error.kind()) {
                return Error::Connect(error.kind().into());
            }
        }
        cause = found.source();
    }
    Error::Unreachable(error)
}

/// What is wrong with TLS, if that is what is wrong.
fn cause_of_tls(error: &io::Error) -> Option<Error> {
    let inner = error.get_ref()?;
    // An error of I/O may hold another.
    if let Some(inner) = inner.downcast_ref::<io::Error>() {
        return cause_of_tls(inner);
    }
    let tls: &rustls::Error = inner.downcast_ref()?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of what can go wrong with TLS, these have a name"
    )]
    match tls {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            Some(Error::NoTls)
        }
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            Some(Error::UnknownAuthority)
        }
        rustls::Error::InvalidCertificate(_) => Some(Error::Certificate(tls.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_has_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refusal = |text: &str| {
            fs::write(&path, text).unwrap();
            Authorities::read(&path).unwrap_err().to_string()
        };
        assert_eq!(refusal(""), "it has no certificate");
        assert_eq!(refusal("-----BEGIN CERTIFICATE-----\nAA"), "it is not PEM");
        fs::remove_file(&path).unwrap();
        let missing = Authorities::read(&path).unwrap_err().to_string();
        assert_eq!(missing, "it cannot be read");
    }
}
