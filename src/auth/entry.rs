//! The entries of the access file: who shows no credential, a token, an issuer.

use std::{
    num::NonZeroU32,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{Deserialize, Deserializer, de};
use serde_spanned::Spanned;
use toml_edit::Datetime;

use super::{
    jwt::Issuer,
    keys::{KeyError, KeySource, Keys},
    token::{TokenHash, TokenName},
};
use crate::{
    event::Timestamp,
    filter::Pattern,
    rights::{Grants, Quota, RATE_MAX_EVENTS},
};

/// `[anonymous]`: who shows no credential.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Anonymous {
    publish: Vec<Pattern>,
    follow: Vec<Pattern>,
    erase: Vec<Pattern>,
    operate: bool,
    streams: Option<NonZeroU32>,
    #[serde(deserialize_with = "read_rate")]
    rate: Option<NonZeroU32>,
    burst: Option<Spanned<NonZeroU32>>,
}

impl Anonymous {
    /// Grants everybody this.
    pub(super) fn of(grants: Grants) -> Self {
        Self {
            publish: grants.publish,
            follow: grants.follow,
            erase: grants.erase,
            operate: grants.operate,
            ..Self::default()
        }
    }

    /// What everybody may do.
    pub(super) fn grants(&self) -> Grants {
        Grants {
            publish: self.publish.clone(),
            follow: self.follow.clone(),
            erase: self.erase.clone(),
            operate: self.operate,
        }
    }

    /// Refuses what does not go together.
    pub(super) fn check(&self) -> Result<(), Fault> {
        check_burst(self.rate, self.burst.as_ref())
    }

    /// How much all of them together may take at a time.
    pub(super) fn quota(&self) -> Quota {
        Quota {
            streams: self.streams,
            rate: self.rate,
            burst: self.burst.as_ref().map(|burst| *burst.get_ref()),
        }
    }
}

/// One `[[token]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenEntry {
    pub(super) name: Spanned<TokenName>,
    pub(super) sha256: Spanned<TokenHash>,
    #[serde(default)]
    publish: Vec<Pattern>,
    #[serde(default)]
    follow: Vec<Pattern>,
    #[serde(default)]
    erase: Vec<Pattern>,
    #[serde(default)]
    operate: bool,
    streams: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "read_rate")]
    rate: Option<NonZeroU32>,
    burst: Option<Spanned<NonZeroU32>>,
    #[serde(default, deserialize_with = "read_moment")]
    pub(super) expires: Option<Timestamp>,
}

impl TokenEntry {
    /// Refuses what does not go together.
    pub(super) fn check(&self) -> Result<(), Fault> {
        check_burst(self.rate, self.burst.as_ref())
    }

    /// How much it may take at a time.
    pub(super) fn quota(&self) -> Quota {
        Quota {
            streams: self.streams,
            rate: self.rate,
            burst: self.burst.as_ref().map(|burst| *burst.get_ref()),
        }
    }

    pub(super) fn grants(&self) -> Grants {
        Grants {
            publish: self.publish.clone(),
            follow: self.follow.clone(),
            erase: self.erase.clone(),
            operate: self.operate,
        }
    }
}

/// One `[[issuer]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerEntry {
    pub(super) issuer: Spanned<String>,
    pub(super) audience: String,
    keys: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    algorithms: Spanned<Vec<AlgorithmName>>,
    #[serde(default = "default_claim")]
    claim: String,
    #[serde(default)]
    publish: Vec<Pattern>,
    #[serde(default)]
    follow: Vec<Pattern>,
    #[serde(default)]
    erase: Vec<Pattern>,
    #[serde(default)]
    operate: bool,
    streams: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "read_rate")]
    rate: Option<NonZeroU32>,
    burst: Option<Spanned<NonZeroU32>>,
}

fn default_claim() -> String {
    "segno".into()
}

#[derive(Debug, Clone, Copy)]
struct AlgorithmName(Algorithm);

impl<'de> Deserialize<'de> for AlgorithmName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let unknown = || {
            de::Error::custom(format!(
                "`{text}` is not an algorithm; those are HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                 ES384 and EdDSA"
            ))
        };
        text.parse().map(Self).map_err(|_| unknown())
    }
}

fn check_burst(rate: Option<NonZeroU32>, burst: Option<&Spanned<NonZeroU32>>) -> Result<(), Fault> {
    match (rate, burst) {
        (None, Some(burst)) => Err(Fault::new(burst, "`burst` needs a `rate` beside it")),
        _ => Ok(()),
    }
}

fn read_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    let rate = u32::deserialize(deserializer)?;
    let in_range = (1..=RATE_MAX_EVENTS).contains(&rate);
    let rate = NonZeroU32::new(rate).filter(|_| in_range);
    let no_rate = || {
        de::Error::custom(format!(
            "a rate is 1 to {RATE_MAX_EVENTS} events a second; leave it out for none"
        ))
    };
    rate.map(Some).ok_or_else(no_rate)
}

fn read_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let moment = Datetime::deserialize(deserializer)?;
    let no_moment = |_| {
        de::Error::custom(format!(
            "{moment} is not a moment; write it with date, time and offset, as 2027-01-01T00:00:00Z"
        ))
    };
    moment.to_string().parse().map(Some).map_err(no_moment)
}

impl IssuerEntry {
    /// Refuses what does not go together.
    pub(super) fn check(&self) -> Result<(), Fault> {
        check_burst(self.rate, self.burst.as_ref())
    }

    /// How much each subject may take at a time.
    fn quota(&self) -> Quota {
        Quota {
            streams: self.streams,
            rate: self.rate,
            burst: self.burst.as_ref().map(|burst| *burst.get_ref()),
        }
    }

    /// The issuer, with its keys. `folder` is that of the access file; keys that `known` has are not read anew.
    pub(super) fn read(
        &self,
        folder: &Path,
        known: impl Fn(&KeySource) -> Option<Arc<Keys>>,
    ) -> Result<Issuer, Fault> {
        let source = self.source(folder)?;
        let algorithms: Vec<_> = self
            .algorithms
            .get_ref()
            .iter()
            .map(|name| name.0)
            .collect();
        if algorithms.is_empty() {
            return Err(Fault::new(&self.algorithms, "name an algorithm at least"));
        }
        let is_secret = matches!(source, KeySource::Secret(_));
        for algorithm in &algorithms {
            if is_secret != (algorithm.family() == AlgorithmFamily::Hmac) {
                let message = match is_secret {
                    true => format!(
                        "{algorithm:?} needs `keys`; a secret is for HS256, HS384 and HS512"
                    ),
                    false => {
                        format!("{algorithm:?} needs `secret_file`; public keys are no secrets")
                    }
                };
                return Err(Fault::new(&self.algorithms, message));
            }
        }
        let keys = match known(&source) {
            Some(keys) => keys,
            None => Arc::new(Keys::read(source).map_err(|error| self.fault(&error))?),
        };
        Ok(Issuer {
            name: self.issuer.get_ref().clone(),
            audience: self.audience.clone(),
            algorithms,
            claim: self.claim.clone(),
            without_claim: Grants {
                publish: self.publish.clone(),
                follow: self.follow.clone(),
                erase: self.erase.clone(),
                operate: self.operate,
            },
            quota: self.quota(),
            keys,
        })
    }

    fn source(&self, folder: &Path) -> Result<KeySource, Fault> {
        let keys = match (&self.keys, &self.secret_file) {
            (Some(keys), None) => keys,
            (None, Some(path)) => return Ok(KeySource::Secret(folder.join(path.get_ref()))),
            (Some(_), Some(_)) => {
                let message = "give either `keys` or `secret_file`: who may see a public key must not be able to sign with it";
                return Err(Fault::new(&self.issuer, message));
            }
            (None, None) => {
                let message = "an [[issuer]] needs `keys`, an address or a file, or `secret_file`";
                return Err(Fault::new(&self.issuer, message));
            }
        };
        let address = keys.get_ref();
        match address.split_once("://") {
            None => Ok(KeySource::File(folder.join(address))),
            Some(("https", _)) => Ok(KeySource::Url(address.clone())),
            // On the way from another program of this machine nobody can change them.
            Some(("http", rest)) if is_loopback(rest) => Ok(KeySource::Url(address.clone())),
            Some(_) => Err(Fault::new(
                keys,
                "keys come by https, or from a file: whoever could change them on the way could make tokens",
            )),
        }
    }

    fn fault(&self, error: &KeyError) -> Fault {
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            message = format!("{message}: {source}");
        }
        match (&self.keys, &self.secret_file) {
            (Some(keys), _) => Fault::new(keys, message),
            (None, Some(path)) => Fault::new(path, message),
            (None, None) => Fault::new(&self.issuer, message),
        }
    }
}

fn is_loopback(address: &str) -> bool {
    let authority = address.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

/// What is wrong, and where.
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new<T>(at: &Spanned<T>, message: impl Into<String>) -> Self {
        Self {
            span: at.span(),
            message: message.into(),
        }
    }
}
