//! Static tokens: a secret that one program holds, of which the hub knows only the hash.

use std::{fmt, str::FromStr};

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What every token begins with, so that scanners for leaked secrets find it.
pub const TOKEN_PREFIX: &str = "segno_";

/// Random bytes of a token. Nobody can guess one, so its hash needs neither salt nor a slow function.
const TOKEN_BYTES: usize = 32;

/// Longest name of a token, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// A new token. It is shown once and then forgotten.
pub fn new_token() -> String {
    format!("{TOKEN_PREFIX}{}", hex(&random()))
}

/// Random bytes, such as a key or a token is made of.
pub(super) fn random() -> [u8; TOKEN_BYTES] {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has random bytes");
    bytes
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The SHA-256 of a token: `printf %s TOKEN | sha256sum`.
///
/// Tokens are looked up by it. How long a look-up takes tells only about hashes, and who could choose a token for its hash
/// could break SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

/// The name of a token, for people: it is in logs and never secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName(String);

/// Text that is not the name of a token.
#[derive(Debug, thiserror::Error)]
#[error(
    "a token's name is 1 to {NAME_MAX_BYTES} letters, digits and any of `-_.@`, such as billing"
)]
pub struct InvalidTokenName;

impl TokenName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = InvalidTokenName;

    fn from_str(text: &str) -> Result<Self, InvalidTokenName> {
        let is_fit = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
        match (1..=NAME_MAX_BYTES).contains(&text.len()) && text.chars().all(is_fit) {
            true => Ok(Self(text.into())),
            false => Err(InvalidTokenName),
        }
    }
}

impl<'de> Deserialize<'de> for TokenName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Text that is not a hash.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTokenHash {
    /// The token in the place of its hash.
    #[error(
        "this is the token itself, which must not be in the file; put its SHA-256 here, as `segno token add` does, and make a new \
         token, for this one may have been read"
    )]
    Token,
    /// Anything else.
    #[error("a SHA-256 is 64 hexadecimal digits, as `printf %s TOKEN | sha256sum` prints them")]
    Form,
}

impl TokenHash {
    /// The hash of `token`.
    pub fn of(token: &str) -> Self {
        let hash = digest(&SHA256, token.as_bytes());
        Self(hash.as_ref().try_into().expect("a SHA-256 has 256 bits"))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    /// Enough of it to tell two apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex(&self.0[..4]))
    }
}

impl FromStr for TokenHash {
    type Err = InvalidTokenHash;

    fn from_str(text: &str) -> Result<Self, InvalidTokenHash> {
        if text.starts_with(TOKEN_PREFIX) {
            return Err(InvalidTokenHash::Token);
        }
        from_hex(text).map(Self).ok_or(InvalidTokenHash::Form)
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_sha256sum_says() {
        let hash = TokenHash::of("abc").to_string();
        assert_eq!(
            hash,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash.parse(), Ok(TokenHash::of("abc")));
        assert_eq!(hash.to_uppercase().parse(), Ok(TokenHash::of("abc")));
        for bad in [
            "",
            &hash[1..],
            &format!("{hash}0"),
            &format!("+{}", &hash[1..]),
            "ü",
        ] {
            assert_eq!(
                bad.parse::<TokenHash>(),
                Err(InvalidTokenHash::Form),
                "{bad}"
            );
        }
    }

    #[test]
    fn tokens_differ_and_can_be_found_by_a_scanner() {
        let (one, other) = (new_token(), new_token());
        assert_ne!(one, other);
        assert_eq!(one.len(), 6 + 64);
        assert!(one[6..].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(one.parse::<TokenHash>(), Err(InvalidTokenHash::Token));
    }
}
