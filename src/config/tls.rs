//! The flags of `segno serve` for its certificate: one in files, or one of an authority.

use std::path::{Path, PathBuf};

use clap::Args;
use rustls::pki_types::ServerName;

#[cfg(feature = "acme")]
use crate::server::AcmeSettings;
use crate::{
    http::PublicUrl,
    server::{CertificateFiles, CertificateSource},
};

/// How connections are encrypted.
#[derive(Debug, Clone, Args)]
pub struct TlsFlags {
    /// File with the hub's certificate as PEM, and behind it those that lead to an authority. The hub then speaks TLS, and nothing
    /// else, with HTTP/1.1 and HTTP/2. Read again when it changes; no stream is cut.
    #[arg(
        long,
        env = "SEGNO_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// File with the key of the certificate as PEM.
    #[arg(
        long,
        env = "SEGNO_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// Name of the hub, such as `hub.example`; repeatable. The hub then has its certificate from an authority such as Let's Encrypt,
    /// whose terms of service you accept, and renews it in time. The authority must reach the hub at port 443 of the name. The first
    /// name is the default of `--public-url`. Needs a build with `--features acme`.
    #[arg(
        long = "acme-domain",
        env = "SEGNO_ACME_DOMAIN",
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "tls_cert",
        value_parser = parse_domain
    )]
    pub acme_domains: Vec<String>,

    /// Where the authority may write to. It is told when the hub orders a certificate.
    #[arg(
        long,
        env = "SEGNO_ACME_EMAIL",
        value_name = "ADDRESS",
        requires = "acme_domains"
    )]
    pub acme_email: Option<String>,

    /// The authority: URL of its ACME directory.
    #[arg(
        long,
        env = "SEGNO_ACME_DIRECTORY",
        value_name = "URL",
        default_value = LETS_ENCRYPT,
        value_parser = parse_directory
    )]
    pub acme_directory: String,

    /// File with the certificates that are trusted when the authority is asked, instead of those of the system, as PEM.
    #[arg(
        long,
        env = "SEGNO_ACME_CA",
        value_name = "FILE",
        requires = "acme_domains"
    )]
    pub acme_ca: Option<PathBuf>,
}

/// Source: <https://letsencrypt.org/docs/acme-protocol-updates/>, production.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

impl TlsFlags {
    pub(super) fn source(&self, _db: &Path) -> Option<CertificateSource> {
        #[cfg(feature = "acme")]
        if !self.acme_domains.is_empty() {
            let (domains, directory) = (self.acme_domains.clone(), self.acme_directory.clone());
            let folder = crate::files::beside(_db, "-acme");
            return Some(CertificateSource::Acme(AcmeSettings {
                email: self.acme_email.clone(),
                ca: self.acme_ca.clone(),
                ..AcmeSettings::new(domains, directory, folder)
            }));
        }
        Some(CertificateSource::Files(CertificateFiles {
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        }))
    }

    /// Where clients reach the hub, unless it is said otherwise.
    pub(super) fn url(&self) -> Option<PublicUrl> {
        let domain = self.acme_domains.first()?;
        format!("https://{domain}").parse().ok()
    }
}

/// A name that a certificate can be ordered for, in lower case.
fn parse_domain(text: &str) -> Result<String, String> {
    if !cfg!(feature = "acme") {
        return Err(
            "this build cannot order certificates; build it with `--features acme`, or `--features full` for everything, or name a \
             certificate with --tls-cert"
                .into(),
        );
    }
    if text.contains('*') {
        return Err("a wildcard cannot be proved over TLS; name each domain".into());
    }
    let is_name = matches!(ServerName::try_from(text), Ok(ServerName::DnsName(_)));
    match is_name && !text.ends_with('.') {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err("a domain looks like hub.example, in ASCII; an address has no certificate".into())
        }
    }
}

fn parse_directory(text: &str) -> Result<String, String> {
    let invalid = || "a directory looks like https://ca.example/directory".to_owned();
    let url: PublicUrl = text.parse().map_err(|_| invalid())?;
    match url.to_string().starts_with("https://") {
        true => Ok(text.into()),
        false => Err(invalid()),
    }
}

#[cfg(all(test, feature = "acme"))]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_name_of_dns() {
        assert_eq!(parse_domain("Hub.example"), Ok("hub.example".into()));
        for bad in [
            "",
            "*.example",
            "10.0.0.1",
            "::1",
            "hub.example.",
            "hub example",
            "https://hub.example",
            "h\u{fc}b.example",
        ] {
            assert!(parse_domain(bad).is_err(), "{bad:?}");
        }
        assert!(parse_directory("http://ca.example").is_err());
        assert_eq!(parse_directory(LETS_ENCRYPT), Ok(LETS_ENCRYPT.into()));
    }
}
