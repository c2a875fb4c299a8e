//! JSON Web Tokens of somebody else.
//!
//! Which algorithms, which keys and which audience are good is said by the access file, never by the token. What a token says of
//! itself only chooses among them.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, decode, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Reason, keys::Keys};
use crate::{
    event::Timestamp,
    rights::{Grants, Quota},
};

/// Longest token that is looked at, in bytes. Source: a head of a request has at most 64 KiB, and servers commonly take 8 KiB a
/// header.
pub(super) const JWT_MAX_BYTES: usize = 8 * 1024;

/// How far the clocks of issuer and hub may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// Longest piece of a token that a refusal repeats, in characters.
const QUOTED_MAX_CHARS: usize = 100;

/// Somebody whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) audience: String,
    pub(super) algorithms: Vec<Algorithm>,
    /// The claim that carries the rights.
    pub(super) claim: String,
    /// What a token without that claim may do.
    pub(super) without_claim: Grants,
    /// How much each of its subjects may take.
    pub(super) quota: Quota,
    pub(super) keys: std::sync::Arc<Keys>,
}

/// What a token said that was found good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// Whom it is about, if it says so.
    pub(super) subject: Option<String>,
    /// Milliseconds since 1970.
    expires: i64,
    /// The rights it carries; `None` if it carries none, and has what the issuer's entry says.
    pub(super) grants: Option<Grants>,
}

impl Jwt {
    /// From when on it is not taken any more: later than it says by what clocks may be apart.
    pub(super) fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.expires)
    }
}

/// Why a JSON Web Token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefused {
    /// It is too long to look at.
    #[error("it is longer than {JWT_MAX_BYTES} bytes")]
    TooLong,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Form(&'static str),
    /// The access file has no issuers.
    #[error("the access file has no [[issuer]], so no JSON Web Token is taken")]
    NoIssuers,
    /// The access file does not have its issuer.
    #[error("its issuer (iss) {0} is not in the access file")]
    Issuer(Quoted),
    /// It does not say whose it is.
    #[error("it has no issuer (iss)")]
    NoIssuer,
    /// It is for somebody else.
    #[error("its audience (aud) is not {0}")]
    Audience(String),
    /// Its algorithm is not one that the issuer may use.
    #[error("its algorithm (alg) {given} is not one of {allowed}", allowed = allowed.join(", "))]
    Algorithm {
        /// What it says.
        given: Quoted,
        /// What the access file says.
        allowed: Vec<String>,
    },
    /// No key of the issuer is the one.
    #[error("its issuer has no key {kid} for {algorithm:?}")]
    Key {
        /// The key that it names.
        kid: Quoted,
        /// Its algorithm.
        algorithm: Algorithm,
    },
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("it expired at {0} (exp)")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("it is not good before {0} (nbf)")]
    NotYet(Timestamp),
    /// A claim is missing, or is not what it should be.
    #[error("its claim {0} is missing or is not what RFC 7519 says")]
    Claim(String),
    /// The claim with the rights cannot be read.
    #[error("its claim {claim} has no rights in it: {reason}")]
    Rights {
        /// The name of the claim.
        claim: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A piece of a token, made fit for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    fn new(text: &str) -> Self {
        let kept = text.chars().filter(|c| !c.is_control());
        Self(kept.take(QUOTED_MAX_CHARS).collect())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

/// Whether `text` has the form of a token: three parts.
pub(super) fn is_jwt(text: &str) -> bool {
    text.split('.').count() == 3
}

/// The claims that choose who checks the token. Not believed.
struct Unverified {
    algorithm: String,
    kid: Option<String>,
    issuer: String,
    audiences: Vec<String>,
    claims: Map<String, Value>,
}

impl Unverified {
    fn read(token: &str) -> Result<Self, JwtRefused> {
        let mut parts = token.split('.');
        let mut part = |name| {
            let text = parts.next().unwrap_or_default();
            let json = URL_SAFE_NO_PAD.decode(text);
            let json = json.map_err(|_| JwtRefused::Form(name))?;
            serde_json::from_slice::<Map<String, Value>>(&json).map_err(|_| JwtRefused::Form(name))
        };
        let header = part("its header is not JSON")?;
        let claims = part("its claims are not JSON")?;
        // What it names would have to be understood. Source: RFC 7515, 4.1.11.
        if header.contains_key("crit") {
            return Err(JwtRefused::Form("its header has crit"));
        }
        let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned());
        let audiences = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().filter_map(|one| text(Some(one))).collect(),
            one => text(one).into_iter().collect(),
        };
        Ok(Self {
            algorithm: text(header.get("alg")).ok_or(JwtRefused::Form("its header has no alg"))?,
            kid: text(header.get("kid")),
            issuer: text(claims.get("iss")).ok_or(JwtRefused::NoIssuer)?,
            audiences,
            claims,
        })
    }

    fn moment(&self, claim: &str) -> Option<Timestamp> {
        moment(&self.claims, claim)
    }
}

/// A time in seconds since 1970, as claims have it.
fn moment(claims: &Map<String, Value>, claim: &str) -> Option<Timestamp> {
    let value = claims.get(claim)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float that is too large becomes the largest number"
    )]
    let whole = || value.as_f64().map(|seconds| seconds as i64);
    let seconds = value.as_i64().or_else(whole)?;
    Some(Timestamp::from_millis(seconds.saturating_mul(1000)))
}

/// Checks `token`, and gives what it says and the generation of the keys that it was checked with.
///
/// With [`JwtRefused::Key`] comes the issuer whose keys may be out of date.
pub(super) fn verify<'a>(
    token: &str,
    issuers: &'a [Issuer],
) -> Result<(Jwt, &'a Issuer, u64), (JwtRefused, Option<&'a Issuer>)> {
    verify_by(token, issuers).map_err(|refused| {
        let keys_of = matches!(refused, JwtRefused::Key { .. } | JwtRefused::Signature);
        let issuer = keys_of.then(|| choose(token, issuers)).flatten();
        (refused, issuer)
    })
}

/// Whom a token is about that is refused for `reason`; `None` unless its signature was found good first.
pub(super) fn subject_of_refused(token: &str, reason: &Reason) -> Option<String> {
    let is_signed = matches!(
        reason,
        Reason::Expired(_)
            | Reason::Jwt(
                JwtRefused::Expired(_) | JwtRefused::NotYet(_) | JwtRefused::Rights { .. }
            )
    );
    let said = Unverified::read(token).ok().filter(|_| is_signed)?;
    Some(Quoted::new(said.claims.get("sub")?.as_str()?).0)
}

fn choose<'a>(token: &str, issuers: &'a [Issuer]) -> Option<&'a Issuer> {
    find_issuer(&Unverified::read(token).ok()?, issuers).ok()
}

fn find_issuer<'a>(said: &Unverified, issuers: &'a [Issuer]) -> Result<&'a Issuer, JwtRefused> {
    let mut of_name = issuers.iter().filter(|issuer| issuer.name == said.issuer);
    let first = of_name
        .next()
        .ok_or_else(|| JwtRefused::Issuer(Quoted::new(&said.issuer)))?;
    std::iter::once(first)
        .chain(of_name)
        .find(|issuer| said.audiences.contains(&issuer.audience))
        .ok_or_else(|| JwtRefused::Audience(first.audience.clone()))
}

fn verify_by<'a>(token: &str, issuers: &'a [Issuer]) -> Result<(Jwt, &'a Issuer, u64), JwtRefused> {
    if token.len() > JWT_MAX_BYTES {
        return Err(JwtRefused::TooLong);
    }
    if issuers.is_empty() {
        return Err(JwtRefused::NoIssuers);
    }
    let said = Unverified::read(token)?;
    let issuer = find_issuer(&said, issuers)?;
    let algorithm = issuer
        .algorithms
        .iter()
        .find(|algorithm| format!("{algorithm:?}") == said.algorithm)
        .copied()
        .ok_or_else(|| JwtRefused::Algorithm {
            given: Quoted::new(&said.algorithm),
            allowed: issuer.algorithms.iter().map(|a| format!("{a:?}")).collect(),
        })?;
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[&issuer.name]);
    validation.set_audience(&[&issuer.audience]);

    let (keys, generation) = issuer.keys.get();
    let kid = said.kid.as_deref();
    let mut refused = JwtRefused::Key {
        kid: Quoted::new(kid.unwrap_or_default()),
        algorithm,
    };
    for key in keys.iter().filter(|key| key.fits(algorithm, kid)) {
        match decode::<Map<String, Value>>(token, &key.key.0, &validation) {
            Ok(token) => return Ok((read_claims(&token.claims, issuer)?, issuer, generation)),
            // Perhaps it is another of the keys.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                refused = JwtRefused::Signature;
            }
            Err(error) => return Err(explain(error.into_kind(), &said, issuer)),
        }
    }
    Err(refused)
}

/// The claims of a token that is good.
fn read_claims(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Jwt, JwtRefused> {
    let expires = moment(claims, "exp").ok_or_else(|| JwtRefused::Claim("exp".into()))?;
    let leeway = i64::try_from(LEEWAY_SECONDS * 1000).unwrap_or_default();
    let grants = claims.get(&issuer.claim).map(|claim| {
        serde_json::from_value(claim.clone()).map_err(|error| JwtRefused::Rights {
            claim: issuer.claim.clone(),
            reason: error.to_string(),
        })
    });
    let subject = claims.get("sub").and_then(Value::as_str);
    Ok(Jwt {
        issuer: issuer.name.clone(),
        audience: issuer.audience.clone(),
        subject: subject.map(|subject| Quoted::new(subject).0),
        expires: expires.as_millis().saturating_add(leeway),
        grants: grants.transpose()?,
    })
}

/// Says in our words what the library found.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest are faults of keys, which were read, and of tokens that are none"
)]
fn explain(error: ErrorKind, said: &Unverified, issuer: &Issuer) -> JwtRefused {
    let claim = |name: &str| JwtRefused::Claim(name.to_owned());
    match error {
        ErrorKind::ExpiredSignature => said
            .moment("exp")
            .map_or_else(|| claim("exp"), JwtRefused::Expired),
        ErrorKind::ImmatureSignature => said
            .moment("nbf")
            .map_or_else(|| claim("nbf"), JwtRefused::NotYet),
        ErrorKind::InvalidAudience => JwtRefused::Audience(issuer.audience.clone()),
        ErrorKind::InvalidIssuer => JwtRefused::Issuer(Quoted::new(&said.issuer)),
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => claim(&name),
        ErrorKind::Json(_) => {
            JwtRefused::Form("its header or its claims are not what RFC 7519 says")
        }
        ErrorKind::Base64(_) => JwtRefused::Form("it is not base64url"),
        _ => JwtRefused::Form("it is not a signed JSON Web Token"),
    }
}
