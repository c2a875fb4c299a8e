//! Whom a client trusts, and why it got no connection: each cause in a sentence of its own, since "no answer" helps nobody.

use std::{
    error::Error as StdError,
    fs, io,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, UNIX_EPOCH},
};

use hyper::Uri;
use reqwest::Certificate;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, ServerName, UnixTime,
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
    /// What is in it cannot be read.
    #[error("a certificate in it cannot be read")]
    Unreadable(#[from] rustls::Error),
}

impl Authorities {
    /// Those whose certificates are in the file, as PEM.
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let pem = fs::read(path)?;
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
        for certificate in &certificates {
            RootCertStore::empty().add(certificate.clone())?;
        }
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
                let new = new.map_err(|_| Error::Certificate(CertificateFault::NobodyTrusted));
                let new = Arc::new(new?);
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

/// What is wrong with the hub's certificate, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFault {
    /// Nobody who is trusted has signed it.
    #[error(
        "the hub's certificate was signed by nobody who is trusted here; name the authority that signed it with --ca FILE"
    )]
    UnknownAuthority,
    /// It is for other names.
    #[error(
        "the hub's certificate is for {names}, and not for {asked}; use a name that it has in --url, or give the hub a certificate for \
         {asked}"
    )]
    OtherName {
        /// The name or address in the URL.
        asked: String,
        /// Those in the certificate.
        names: String,
    },
    /// Its time is over.
    #[error(
        "the hub's certificate, or that of its authority, ended at {}; here it is {}: renew it where the hub runs, or set the clock",
        time(*ended), time(*now)
    )]
    Expired {
        /// When it ended.
        ended: UnixTime,
        /// What the clock of this machine says.
        now: UnixTime,
    },
    /// Its time has not come.
    #[error(
        "the hub's certificate begins at {}; here it is {}: set the clock, or wait",
        time(*begins), time(*now)
    )]
    NotYet {
        /// When it begins.
        begins: UnixTime,
        /// What the clock of this machine says.
        now: UnixTime,
    },
    /// The hub shows the certificate of an authority.
    #[error(
        "the hub shows the certificate of an authority as its own, which clients do not take; give it one that is made with \
         basicConstraints=CA:FALSE"
    )]
    OfAuthority,
    /// It is wrong in another way.
    #[error("the hub's certificate cannot be trusted; give the hub another")]
    Other(#[source] rustls::Error),
    /// Nobody is trusted.
    #[error(
        "this machine trusts no authority; install its certificates (`ca-certificates`), or name one with --ca FILE"
    )]
    NobodyTrusted,
}

impl CertificateFault {
    fn of(error: &rustls::CertificateError, tls: &rustls::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of what can be wrong with a certificate, these have a remedy of their own"
        )]
        match error {
            // The second: one that is trusted has the name of the authority, and not its key.
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature => {
                Self::UnknownAuthority
            }
            rustls::CertificateError::NotValidForNameContext {
                expected,
                presented,
            } => Self::OtherName {
                asked: expected.to_str().into_owned(),
                names: in_words(presented),
            },
            rustls::CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                ended: *not_after,
                now: *time,
            },
            rustls::CertificateError::NotValidYetContext { time, not_before } => Self::NotYet {
                begins: *not_before,
                now: *time,
            },
            // The type of this one is private to rustls.
            rustls::CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
                Self::OfAuthority
            }
            _ => Self::Other(tls.clone()),
        }
    }
}

/// The names of a certificate. rustls writes `DnsName("hub.example")` and `IpAddress(127.0.0.1)`.
fn in_words(names: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    match names {
        [] => "no name".into(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn time(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
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
        rustls::Error::InvalidCertificate(fault) => {
            Some(Error::Certificate(CertificateFault::of(fault, tls)))
        }
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
        assert_eq!(
            refusal("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "a certificate in it cannot be read"
        );
        fs::remove_file(&path).unwrap();
        let missing = Authorities::read(&path).unwrap_err().to_string();
        assert_eq!(missing, "it cannot be read");
    }
}
