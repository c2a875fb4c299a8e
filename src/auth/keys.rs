//! The keys of an issuer of JSON Web Tokens: read from a file, or fetched by https and kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, KeyAlgorithm, PublicKeyUse},
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use tokio::time::Instant;

/// A key that the set does not have is looked for no more often. Source: an attacker names unknown keys for nothing, and the
/// issuer pays for each look.
pub(super) const REFRESH_MIN: Duration = Duration::from_secs(10);

/// After this time keys are fetched again though nobody asked for one, so that a key that was withdrawn goes.
const REFRESH_MAX: Duration = Duration::from_secs(15 * 60);

/// Longest wait for the issuer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest set of keys, in bytes.
const SET_MAX_BYTES: usize = 1024 * 1024;

/// Most keys of a set that are used: a token without a `kid` is tried with each.
const SET_MAX_KEYS: usize = 100;

/// Shortest secret, in bytes. Source: RFC 7518, 3.2: at least as long as the hash, the shortest of which has 256 bits.
const SECRET_MIN_BYTES: usize = 32;

/// One key, which checks signatures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    id: Option<String>,
    /// The one algorithm it is for, if it says so.
    algorithm: Option<Algorithm>,
    pub(super) key: KeyMaterial,
}

/// What checks a signature. Compared by its family and bytes.
#[derive(Clone)]
pub(super) struct KeyMaterial(pub(super) DecodingKey);

impl PartialEq for KeyMaterial {
    fn eq(&self, other: &Self) -> bool {
        use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        self.0.family() == other.0.family()
            && match (self.0.kind(), other.0.kind()) {
                (SecretOrDer(a), SecretOrDer(b)) => a == b,
                (RsaModulusExponent { n, e }, RsaModulusExponent { n: n2, e: e2 }) => {
                    n == n2 && e == e2
                }
                (SecretOrDer(_), RsaModulusExponent { .. })
                | (RsaModulusExponent { .. }, SecretOrDer(_)) => false,
            }
    }
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.family())
    }
}

impl Key {
    fn new(key: DecodingKey) -> Self {
        Self {
            id: None,
            algorithm: None,
            key: KeyMaterial(key),
        }
    }

    /// Whether a token that says `algorithm` and perhaps the `id` of a key may be signed with this one.
    pub(super) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.key.0.family() == algorithm.family()
            && self.algorithm.is_none_or(|own| own == algorithm)
            && (id.is_none() || self.id.is_none() || self.id.as_deref() == id)
    }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a set of keys nor PEM.
    #[error("{0} is neither a JSON Web Key Set nor a public key as PEM")]
    Form(String),
    /// There is no key in it that could check a signature.
    #[error("{0} has no public key for RSA, ECDSA (P-256, P-384) or Ed25519 signatures")]
    Empty(String),
    /// A secret that could be guessed.
    #[error("the secret in {path} is too short: it has {bytes} bytes, and takes {SECRET_MIN_BYTES} at least", path = path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Its length without white space at its ends.
        bytes: usize,
    },
    /// The issuer gives no keys.
    #[error("cannot fetch {0}")]
    Fetch(String, #[source] reqwest::Error),
    /// The issuer gives too much.
    #[error("{0} is larger than {SET_MAX_BYTES} bytes")]
    TooLarge(String),
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    /// A file with a key set or PEM.
    File(PathBuf),
    /// A file with the secret of HMAC.
    Secret(PathBuf),
    /// An address.
    Url(String),
}

impl KeySource {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Secret(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) source: KeySource,
    set: Mutex<Set>,
    /// Held while they are fetched, so that many who miss a key wait for one answer. `None` until the first try.
    last_try: tokio::sync::Mutex<Option<Instant>>,
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Set {
    keys: Arc<[Key]>,
    /// Grows when the keys change.
    generation: u64,
}

impl Keys {
    /// Reads them, if they are in a file; others are fetched later.
    pub(super) fn read(source: KeySource) -> Result<Self, KeyError> {
        let keys = match &source {
            KeySource::File(path) => read_set(&read_file(path)?, &path.display().to_string())?,
            KeySource::Secret(path) => vec![read_secret(path)?],
            KeySource::Url(_) => vec![],
        };
        Ok(Self {
            source,
            set: Mutex::new(Set {
                keys: keys.into(),
                generation: 0,
            }),
            last_try: Default::default(),
            failing: AtomicBool::new(false),
        })
    }

    /// The keys, and a number that grows when they change.
    pub(super) fn get(&self) -> (Arc<[Key]>, u64) {
        let set = self.lock();
        (set.keys.clone(), set.generation)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Set> {
        self.set.lock().expect("nobody panics while holding it")
    }

    /// Fetches the keys, because one was missed or they are old, unless that was tried within [`REFRESH_MIN`]. Keeps those there
    /// are if it fails. Whether it is worth to look again.
    pub(super) async fn refresh(&self) -> bool {
        self.refresh_after(REFRESH_MIN).await
    }

    /// Fetches the keys if it is time.
    pub(super) async fn keep_fresh(&self) {
        let has_none = self.lock().keys.is_empty();
        let after = if has_none { REFRESH_MIN } else { REFRESH_MAX };
        self.refresh_after(after).await;
    }

    async fn refresh_after(&self, min: Duration) -> bool {
        let KeySource::Url(url) = &self.source else {
            return false;
        };
        let (_, seen) = self.get();
        let mut last_try = self.last_try.lock().await;
        if self.get().1 != seen {
            return true; // Somebody else has fetched them meanwhile.
        }
        if last_try.is_some_and(|last| last.elapsed() < min) {
            return false;
        }
        *last_try = Some(Instant::now());
        match fetch(url).await {
            Ok(keys) => {
                if self.failing.swap(false, Relaxed) {
                    tracing::info!(url, "the keys of JSON Web Tokens were fetched again");
                }
                let mut set = self.lock();
                if *set.keys != *keys {
                    set.keys = keys.into();
                    set.generation += 1;
                }
                true
            }
            Err(error) => {
                if !self.failing.swap(true, Relaxed) {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(
                        url,
                        error = format!("{error:#}"),
                        "cannot fetch the keys of JSON Web Tokens; those fetched before stay in use"
                    );
                }
                false
            }
        }
    }
}

async fn fetch(url: &str) -> Result<Vec<Key>, KeyError> {
    _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |error| KeyError::Fetch(url.to_owned(), error);
    let client = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        // The operator named this address and no other.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(failed)?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        text.extend_from_slice(&chunk);
        if text.len() > SET_MAX_BYTES {
            return Err(KeyError::TooLarge(url.to_owned()));
        }
    }
    read_set(&text, url)
}

fn read_file(path: &Path) -> Result<Vec<u8>, KeyError> {
    fs::read(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_secret(path: &Path) -> Result<Key, KeyError> {
    let text = read_file(path)?;
    let secret = text.trim_ascii();
    if secret.len() < SECRET_MIN_BYTES {
        return Err(KeyError::Secret {
            path: path.to_owned(),
            bytes: secret.len(),
        });
    }
    Ok(Key::new(DecodingKey::from_secret(secret)))
}

/// Reads a key set, or public keys as PEM. `name` is where it comes from.
fn read_set(text: &[u8], name: &str) -> Result<Vec<Key>, KeyError> {
    let keys = match text.trim_ascii().starts_with(b"{") {
        true => read_jwks(text),
        false => read_pem(text),
    };
    let mut keys = keys.ok_or_else(|| KeyError::Form(name.to_owned()))?;
    if keys.is_empty() {
        return Err(KeyError::Empty(name.to_owned()));
    }
    keys.truncate(SET_MAX_KEYS);
    Ok(keys)
}

/// The keys of a set that can check a signature; others, which may be there for other programs, are passed over.
fn read_jwks(text: &[u8]) -> Option<Vec<Key>> {
    #[derive(Deserialize)]
    struct JwkSet {
        keys: Vec<serde_json::Value>,
    }
    let set: JwkSet = serde_json::from_slice(text).ok()?;
    Some(set.keys.into_iter().filter_map(read_jwk).collect())
}

fn read_jwk(json: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    let is_for_signatures = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    // A secret in a public place is none.
    if !is_for_signatures || key.family() == AlgorithmFamily::Hmac {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        None => None,
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => return None,
        Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
    };
    Some(Key {
        id: jwk.common.key_id,
        algorithm,
        key: KeyMaterial(key),
    })
}

fn read_pem(text: &[u8]) -> Option<Vec<Key>> {
    let keys = SubjectPublicKeyInfoDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let keys = keys.ok().filter(|keys| !keys.is_empty())?;
    let keys = keys.iter().filter_map(|key| read_public_key(key));
    Some(keys.map(Key::new).collect())
}

/// Reads a `SubjectPublicKeyInfo`. Source: RFC 5280, 4.1; the names of algorithms: RFC 3279, RFC 5480, RFC 8410.
fn read_public_key(der: &[u8]) -> Option<DecodingKey> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const NAME: u8 = 0x06;
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let (whole, _) = read_der(der, SEQUENCE)?;
    let (algorithm, rest) = read_der(whole, SEQUENCE)?;
    let (bits, _) = read_der(rest, BIT_STRING)?;
    let (name, _) = read_der(algorithm, NAME)?;
    // The first byte says how many bits of the last one do not count: none.
    let key = bits.strip_prefix(&[0])?;
    match name {
        RSA => Some(DecodingKey::from_rsa_der(key)),
        EC => Some(DecodingKey::from_ec_der(key)),
        ED25519 => Some(DecodingKey::from_ed_der(key)),
        _ => None,
    }
}

/// What is in the first element, if it is of this kind, and what comes after it.
fn read_der(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    // A length of 128 and more is in the bytes behind it, whose number is in the low bits.
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (
            usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])),
            &rest[2..],
        ),
        _ => return None,
    };
    (first == tag && length <= rest.len()).then(|| rest.split_at(length))
}
