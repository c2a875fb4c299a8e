//! The certificate of an authority that speaks ACME (RFC 8555), such as Let's Encrypt: ordered, kept in a folder, renewed in time.
//!
//! That a name leads here is proved by TLS-ALPN-01 (RFC 8737): the authority connects to port 443 of the name and is shown a
//! certificate with a digest in it. So no other port is needed, and no other server.
//!
//! What fails is tried again, ever more seldom, and the certificate before it stays. Key and certificate are one file, so that a
//! crash cannot part them, and each authority has a folder of its own, so that a trial with another one costs nothing.

use std::{
    convert::Infallible,
    error::Error as StdError,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType,
    HttpClient, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use poem::http;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    client::verify_server_name,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::{
    certificates::{CertificateError, CertificateFiles, Certificates, provider, read_certificates},
    validity::Validity,
};
use crate::files::{self, OWNER_ONLY};

/// Wait after the first failure; twice as long after each more.
///
/// Let's Encrypt takes 5 failed validations of a name an hour: these are 5 in the first half hour, and then one an hour.
const FIRST_RETRY: Duration = Duration::from_secs(120);

/// Longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Longest sleep before the clock is looked at again: it does not stand still while the machine is suspended.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Longest wait for one answer of the authority.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer of the authority: a chain of certificates has a few KB.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// How long the authority may take to look whether a name leads here, and to sign.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));

/// Key and certificates, in this order.
const CERTIFICATE_FILE: &str = "certificate.pem";

/// Name and key of the account.
const ACCOUNT_FILE: &str = "account.json";

/// Whom to ask for what certificate.
#[derive(Debug, Clone)]
pub struct AcmeSettings {
    /// The names of the hub: lower case, at least one, without wildcards.
    pub domains: Vec<String>,
    /// Told to the authority when the account is made.
    pub email: Option<String>,
    /// URL of the authority's directory.
    pub directory: String,
    /// Certificates that are trusted when the directory is asked, as PEM, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// Where accounts and certificates are kept; made if it is not there.
    pub folder: PathBuf,
    /// Wait after the first failure, and after each order at the least.
    pub first_retry: Duration,
}

impl AcmeSettings {
    /// For these names, from this directory.
    pub fn new(domains: Vec<String>, directory: String, folder: PathBuf) -> Self {
        Self {
            domains,
            email: None,
            directory,
            ca: None,
            folder,
            first_retry: FIRST_RETRY,
        }
    }

    /// Makes the folder, if it is not there, and looks whether the directory could be asked. The certificate that is kept, or will be.
    pub(super) fn open_folder(&self) -> Result<CertificateFiles, CertificateError> {
        self.trusted()?;
        let folder = self.folder_of_directory();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(|source| CertificateError::Io {
            path: folder.clone(),
            source,
        })?;
        let certificate = folder.join(CERTIFICATE_FILE);
        let key = certificate.clone();
        Ok(CertificateFiles { certificate, key })
    }

    fn folder_of_directory(&self) -> PathBuf {
        let name = self.directory.trim_start_matches("https://");
        let name = name.trim_end_matches('/').replace(
            |letter: char| !letter.is_ascii_alphanumeric() && letter != '.',
            "-",
        );
        self.folder.join(name)
    }

    /// What is trusted instead of what the system trusts; empty where nothing was named.
    fn trusted(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        self.ca.as_deref().map_or(Ok(Vec::new()), read_certificates)
    }
}

/// Why there is no certificate. Each says what to do.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("the authority cannot be reached; look whether this machine may connect to it")]
    Away(#[source] Box<dyn StdError + Send + Sync>),
    #[error(
        "the authority's own certificate is not trusted; name who signed it with --acme-ca FILE"
    )]
    Untrusted(#[source] Box<dyn StdError + Send + Sync>),
    #[error("the authority refuses, {0}")]
    Refused(String),
    #[error(
        "the authority could not see that {domain} leads here, {why}; its DNS must name this machine, and port 443 must lead to the hub"
    )]
    Unproved { domain: String, why: String },
    #[error(
        "the authority cannot check {0} over TLS (TLS-ALPN-01); use another, or get the certificate by other means and name it with --tls-cert"
    )]
    NoChallenge(String),
    #[error(
        "the authority did not answer as RFC 8555 says; look whether --acme-directory is the URL of a directory"
    )]
    Protocol(#[source] instant_acme::Error),
    #[error("the authority gave a certificate that cannot be used, {0}")]
    Unusable(String),
    #[error("cannot write {path}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Trusted(#[from] CertificateError),
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the enum may grow; of what can go wrong, these have a name"
        )]
        match error {
            instant_acme::Error::Api(problem) => Self::Refused(told(&problem)),
            instant_acme::Error::Other(error) if is_untrusted(&*error) => Self::Untrusted(error),
            instant_acme::Error::Other(error) => Self::Away(error),
            error => Self::Protocol(error),
        }
    }
}

/// What the authority says, in its words.
fn told(problem: &Problem) -> String {
    let mut told = problem.detail.clone().unwrap_or_default();
    for part in &problem.subproblems {
        told += &format!("; {part}");
    }
    match &problem.r#type {
        Some(kind) if told.is_empty() => kind.clone(),
        Some(kind) => format!("{told} ({kind})"),
        None => told,
    }
}

fn is_untrusted(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(found) = cause {
        let inner = found
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        // An error of I/O shows what it holds as the source of that, and not as its own.
        if inner.is_some_and(|inner| is_untrusted(inner)) {
            return true;
        }
        if let Some(rustls::Error::InvalidCertificate(_)) = found.downcast_ref() {
            return true;
        }
        cause = found.source();
    }
    false
}

/// Keeps the certificate new, for ever.
pub(super) async fn run(certificates: &Certificates, settings: &AcmeSettings) -> Infallible {
    let mut retries = Retries::new(settings.first_retry);
    loop {
        let current = certificates.current();
        let wait = current.and_then(|current| time_to_renewal(&current, &settings.domains));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            tokio::time::sleep(wait.min(LOOK_INTERVAL)).await;
            continue;
        }
        let ordered = order(certificates, settings).await;
        certificates.end_proofs();
        let wait = match ordered {
            Ok(()) => {
                retries.end();
                certificates.reload_and_tell();
                // Whatever the certificate says, no two orders follow each other at once.
                settings.first_retry
            }
            Err(error) => {
                let wait = retries.next_wait();
                let stays = match certificates.current() {
                    Some(_) => "the certificate before it stays",
                    None => "until there is one, every TLS handshake fails",
                };
                tracing::error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    domains = settings.domains.join(" "),
                    directory = settings.directory,
                    retry_in_ms = wait.as_millis(),
                    "no certificate could be had; {stays}"
                );
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Failures that follow each other.
#[derive(Debug)]
struct Retries {
    first: Duration,
    failures: u32,
}

impl Retries {
    fn new(first: Duration) -> Self {
        Self { first, failures: 0 }
    }

    /// The wait after one more failure, a little longer by chance, so that many hubs do not come back to the authority together.
    fn next_wait(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        doubled
            .min(LONGEST_RETRY)
            .mul_f64(1.0 + fastrand::f64() / 4.0)
    }

    /// It worked.
    fn end(&mut self) {
        self.failures = 0;
    }
}

/// Time until two thirds of its life have passed. `None` where another is needed at once: it has not all the names, or cannot be read.
fn time_to_renewal(current: &CertifiedKey, domains: &[String]) -> Option<Duration> {
    let first = current.cert.first()?;
    let parsed = ParsedCertificate::try_from(first).ok()?;
    for domain in domains {
        let name = ServerName::try_from(domain.as_str()).ok()?;
        verify_server_name(&parsed, &name).ok()?;
    }
    let Validity { begins, ends } = Validity::of(first)?;
    let renew_at = begins + (ends - begins) / 3 * 2;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let renew_at = u64::try_from(renew_at).ok()?;
    Some(Duration::from_secs(renew_at.saturating_sub(now)))
}

/// Orders a certificate, and puts it into its file.
async fn order(certificates: &Certificates, settings: &AcmeSettings) -> Result<(), OrderError> {
    let client = Client::new(settings)?;
    let account = account(&client, settings).await?;
    let domains = settings.domains.iter();
    let names: Vec<_> = domains.map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    prove(certificates, &mut order).await?;
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => (),
        Err(instant_acme::Error::Api(problem)) => {
            return Err(why_refused(&mut order, told(&problem)).await);
        }
        Err(error) => return Err(error.into()),
        Ok(status) => {
            let told = format!("and says only that the order is {status:?}");
            return Err(why_refused(&mut order, told).await);
        }
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    look_at(&key, &chain, &settings.domains).map_err(OrderError::Unusable)?;
    let file = settings.folder_of_directory().join(CERTIFICATE_FILE);
    replace(&file, format!("{key}{chain}").as_bytes())
}

/// Looks whether it may take the place of what is there.
fn look_at(key: &str, chain: &str, domains: &[String]) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let certified =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| error.to_string())?;
    match time_to_renewal(&certified, domains) {
        Some(_) => Ok(()),
        None => Err("it has not all the names that were asked for".into()),
    }
}

/// The account of this hub with the authority; made if there is none, or the authority knows it no more.
async fn account(client: &Client, settings: &AcmeSettings) -> Result<Account, OrderError> {
    let path = settings.folder_of_directory().join(ACCOUNT_FILE);
    let kept = fs::read(&path)
        .ok()
        .and_then(|kept| serde_json::from_slice(&kept).ok());
    if let Some(kept) = kept {
        let account = client.account().from_credentials(kept).await?;
        // Changes nothing; only tells whether it is known.
        match account.update_contacts(&contacts(settings).each()).await {
            Err(instant_acme::Error::Api(problem)) if is_unknown_account(&problem) => {
                tracing::warn!(
                    directory = settings.directory,
                    "the authority does not know the hub's account any more; another is made"
                );
            }
            told => return told.map(|()| account).map_err(OrderError::from),
        }
    }
    let contacts = contacts(settings);
    let new = NewAccount {
        contact: &contacts.each(),
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let made = client
        .account()
        .create(&new, settings.directory.clone(), None);
    let (account, credentials) = made.await?;
    let credentials = serde_json::to_vec(&credentials).expect("credentials can be written");
    replace(&path, &credentials)?;
    Ok(account)
}

/// Where the authority may write to.
struct Contacts(Option<String>);

fn contacts(settings: &AcmeSettings) -> Contacts {
    Contacts(
        settings
            .email
            .as_ref()
            .map(|email| format!("mailto:{email}")),
    )
}

impl Contacts {
    fn each(&self) -> Vec<&str> {
        self.0.as_deref().into_iter().collect()
    }
}

fn is_unknown_account(problem: &Problem) -> bool {
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// Has the authority look whether the names lead here, as far as it does not know it yet.
async fn prove(certificates: &Certificates, order: &mut Order) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let domain = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
            return Err(OrderError::NoChallenge(domain));
        };
        let digest = challenge.key_authorization().digest();
        certificates.prove(domain.clone(), proof(&domain, digest.as_ref())?);
        challenge.set_ready().await?;
    }
    Ok(())
}

/// The certificate that proves a name. Source: RFC 8737, 3.
fn proof(domain: &str, digest: &[u8]) -> Result<CertifiedKey, OrderError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("the key was just made");
    let key = any_supported_type(&key).expect("ring signs with the keys that it makes");
    // Not looked at again: rustls knows the extension as little as any other client, and it is critical.
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// What the authority says of an order that it does not want to go on with: of one of its names, else `of_order`.
async fn why_refused(order: &mut Order, of_order: String) -> OrderError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            break;
        };
        let problem = state
            .challenges
            .iter()
            .find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return OrderError::Unproved {
                domain: state.identifier().to_string(),
                why: told(problem),
            };
        }
    }
    OrderError::Refused(of_order)
}

/// Puts a file in the place of the one before it in one step; nobody else may read it.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), OrderError> {
    let folder = path.parent().expect("the file is in a folder");
    let written =
        files::replace(path, OWNER_ONLY, bytes).and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|source| OrderError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Speaks to the authority, by the client that the hub has anyway.
#[derive(Debug, Clone)]
struct Client(reqwest::Client);

impl Client {
    fn new(settings: &AcmeSettings) -> Result<Self, OrderError> {
        // There is one, and the process may have several clients: the first installs it.
        _ = provider().install_default();
        let mut trusted = Vec::new();
        for certificate in settings.trusted()? {
            let certificate = reqwest::Certificate::from_der(&certificate);
            trusted.push(certificate.map_err(|error| OrderError::Untrusted(error.into()))?);
        }
        let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT);
        let client = match trusted.is_empty() {
            true => client,
            false => client.tls_certs_only(trusted),
        };
        let client = client
            .build()
            .map_err(|error| OrderError::Away(error.into()))?;
        Ok(Self(client))
    }

    fn account(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(self.clone()))
    }

    async fn ask(
        self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, Box<dyn StdError + Send + Sync>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let request = http::Request::from_parts(parts, body);
        let answer = self.0.execute(request.try_into()?).await?;
        let (parts, body) = http::Response::from(answer).into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?;
        let body = Box::new(body.to_bytes());
        Ok(BytesResponse { parts, body })
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>>;

impl HttpClient for Client {
    fn request(&self, request: http::Request<BodyWrapper<Bytes>>) -> Asking {
        let asking = self.clone().ask(request);
        Box::pin(async move { asking.await.map_err(instant_acme::Error::Other) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_failures_the_waits_grow_to_an_hour_and_a_quarter_and_begin_anew_when_it_worked() {
        let mut retries = Retries::new(FIRST_RETRY);
        for _ in 0..2 {
            for least in [120, 240, 480, 960, 1920, 3600, 3600] {
                let wait = retries.next_wait().as_secs();
                assert!((least..=least * 5 / 4).contains(&wait), "{least}: {wait}");
            }
            for _ in 0..40 {
                retries.next_wait();
            }
            assert!(retries.next_wait().as_secs() >= 3600);
            retries.end();
        }
    }
}
