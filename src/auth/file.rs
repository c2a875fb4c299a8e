//! The access file: who may do what, as an operator writes it down.

use std::{
    collections::HashSet,
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{Deserialize, Deserializer, de};
use serde_spanned::Spanned;
use toml_edit::Datetime;

use super::{
    jwt::Issuer,
    keys::{KeyError, KeySource, Keys},
    token::TokenHash,
};
use crate::{event::Timestamp, filter::Pattern, rights::Grants};

/// Longest name of a token, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// What the access file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessFile {
    /// What everybody may do.
    #[serde(default)]
    pub(super) anonymous: Grants,
    #[serde(default)]
    pub(super) token: Vec<TokenEntry>,
    #[serde(default)]
    issuer: Vec<IssuerEntry>,
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
    #[serde(default, deserialize_with = "read_moment")]
    pub(super) expires: Option<Timestamp>,
}

impl TokenEntry {
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
struct IssuerEntry {
    issuer: Spanned<String>,
    audience: String,
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
}

fn default_claim() -> String {
    "segno".into()
}

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

fn read_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let moment = Datetime::deserialize(deserializer)?;
    let no_moment = |_| {
        de::Error::custom(format!(
            "{moment} is not a moment; write it with date, time and offset, as 2027-01-01T00:00:00Z"
        ))
    };
    moment.to_string().parse().map(Some).map_err(no_moment)
}

/// Why an access file is refused.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// It cannot be read.
    #[error("cannot read the access file {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{path}:{place}: {message}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where.
        place: Place,
        /// What is wrong and what to do.
        message: String,
    },
}

/// A place in a text, counted from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn at(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What is wrong, and where.
struct Fault {
    span: Range<usize>,
    message: String,
}

impl Fault {
    fn new<T>(at: &Spanned<T>, message: impl Into<String>) -> Self {
        Self {
            span: at.span(),
            message: message.into(),
        }
    }
}

impl AccessFile {
    /// A file that says only what everybody may do.
    pub(super) fn of_everybody(anonymous: Grants) -> Self {
        Self {
            anonymous,
            token: vec![],
            issuer: vec![],
        }
    }

    pub(super) fn read(path: &Path) -> Result<(Self, Vec<Issuer>), AccessFileError> {
        Self::read_with(path, |_| None)
    }

    /// Reads the file at `path`, and the keys of its issuers; those that `known` has are not fetched anew.
    pub(super) fn read_with(
        path: &Path,
        known: impl Fn(&KeySource) -> Option<Arc<Keys>>,
    ) -> Result<(Self, Vec<Issuer>), AccessFileError> {
        let text = fs::read_to_string(path).map_err(|source| AccessFileError::Io {
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text)
            .and_then(|file| {
                let issuers = file.issuers(folder, known)?;
                Ok((file, issuers))
            })
            .map_err(|fault| AccessFileError::Invalid {
                path: path.to_owned(),
                place: Place::at(&text, fault.span.start),
                message: fault.message,
            })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let file: Self = toml_edit::de::from_str(text).map_err(|error| Fault {
            span: error.span().unwrap_or_default(),
            // What comes in several lines is for people who read slowly; this is one line of a log.
            message: error.message().lines().collect::<Vec<_>>().join("; "),
        })?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), Fault> {
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for token in &self.token {
            if !names.insert(token.name.get_ref().as_str()) {
                let message = format!("another token is named {} too", token.name.get_ref().0);
                return Err(Fault::new(&token.name, message));
            }
            if !hashes.insert(token.sha256.get_ref()) {
                return Err(Fault::new(&token.sha256, "another token has this hash too"));
            }
        }
        let mut issuers = HashSet::new();
        for entry in &self.issuer {
            if !issuers.insert((entry.issuer.get_ref(), &entry.audience)) {
                let message = "another [[issuer]] has this name and audience too";
                return Err(Fault::new(&entry.issuer, message));
            }
        }
        Ok(())
    }

    fn issuers(
        &self,
        folder: &Path,
        known: impl Fn(&KeySource) -> Option<Arc<Keys>>,
    ) -> Result<Vec<Issuer>, Fault> {
        let issuers = self.issuer.iter();
        issuers.map(|entry| entry.read(folder, &known)).collect()
    }
}

impl IssuerEntry {
    fn read(
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

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(text: &str) -> Result<(AccessFile, Vec<Issuer>), String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("short"), "too short").unwrap();
        fs::write(
            folder.path().join("secret"),
            "0123456789abcdef0123456789abcdef\n",
        )
        .unwrap();
        fs::write(
            folder.path().join("empty.json"),
            r#"{"keys":[{"kty":"oct","k":"YWJj"}]}"#,
        )
        .unwrap();
        let path = folder.path().join("access.toml");
        fs::write(&path, text).unwrap();
        AccessFile::read(&path).map_err(|error| {
            let text = error.to_string();
            text.strip_prefix(&format!("{}/", folder.path().display()))
                .unwrap_or(&text)
                .replace(&format!("{}/", folder.path().display()), "")
        })
    }

    #[test]
    fn a_file_is_read() {
        let (file, issuers) = read(&format!(
            r#"
            [anonymous]
            follow = ["public.**"]

            [[token]]
            name = "billing"   # a comment
            sha256 = "{HASH}"
            publish = ["orders.**"]
            follow = ["orders.**"]
            expires = 2027-01-01T01:00:00+01:00

            [[issuer]]
            issuer = "https://id.example"
            audience = "segno"
            secret_file = "secret"
            algorithms = ["HS256"]
            follow = ["a"]
            "#
        ))
        .unwrap();
        assert_eq!(file.anonymous.follow[0].to_string(), "public.**");
        let token = &file.token[0];
        assert_eq!(token.name.get_ref().as_str(), "billing");
        assert_eq!(token.sha256.get_ref(), &TokenHash::of("abc"));
        assert_eq!(token.grants().publish[0].to_string(), "orders.**");
        assert!(token.grants().erase.is_empty() && !token.grants().operate);
        assert_eq!(
            token.expires.unwrap().to_string(),
            "2027-01-01T00:00:00.000Z"
        );
        assert_eq!(issuers[0].claim, "segno");
        assert_eq!(issuers[0].without_claim.follow[0].to_string(), "a");
        let (file, issuers) = read("").unwrap();
        assert!(file.token.is_empty() && issuers.is_empty());
        assert_eq!(file.anonymous, Grants::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let issuer = "[[issuer]]\nissuer = \"i\"\naudience = \"a\"\n";
        for (text, expected) in [
            ("follow = [\"a\"]", "1:1: unknown field `follow`"),
            ("[anonymous]\nfolow = []", "2:1: unknown field `folow`"),
            (
                "[anonymous]\nfollow = \"a\"",
                "2:10: invalid type: string \"a\", expected a sequence",
            ),
            (
                "[anonymous]\nfollow = [\"a\", \"b c\"]",
                "2:10: `b c` is no topic or pattern: it has white space",
            ),
            ("[anonymous\n", "1:11: "),
            ("[[token]]\nname = \"a\"\n", "1:1: missing field `sha256`"),
            (
                "[[token]]\nname = \"a b\"\nsha256 = \"x\"",
                "2:8: a token's name is",
            ),
            (
                "[[token]]\nname = \"a\"\nsha256 = \"x\"",
                "3:10: a SHA-256 is 64 hexadecimal digits",
            ),
            (
                "[[token]]\nname = \"ä\"\nsha256 = \"segno_0\"",
                "3:10: this is the token itself",
            ),
            (
                &format!("[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\nexpires = 2027-01-01\n"),
                "4:11: 2027-01-01 is not a moment",
            ),
            (
                &format!(
                    "[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\n[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\n"
                ),
                "5:8: another token is named a too",
            ),
            (
                &format!(
                    "[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\n[[token]]\nname = \"b\"\nsha256 = \"{HASH}\"\n"
                ),
                "6:10: another token has this hash too",
            ),
            (
                &format!("{issuer}algorithms = [\"none\"]"),
                "4:14: `none` is not an algorithm",
            ),
            (
                &format!("{issuer}algorithms = [\"ES256\"]"),
                "2:10: an [[issuer]] needs `keys`",
            ),
            (
                &format!("{issuer}keys = \"a\"\nsecret_file = \"b\"\nalgorithms = [\"ES256\"]"),
                "2:10: give either `keys` or `secret_file`",
            ),
            (
                &format!("{issuer}keys = \"a\"\nalgorithms = [\"ES256\", \"HS256\"]"),
                "5:14: HS256 needs `secret_file`",
            ),
            (
                &format!("{issuer}secret_file = \"secret\"\nalgorithms = [\"RS256\"]"),
                "5:14: RS256 needs `keys`",
            ),
            (
                &format!("{issuer}secret_file = \"short\"\nalgorithms = [\"HS256\"]"),
                "4:15: the secret in short is too short: it has 9 bytes",
            ),
            (
                &format!("{issuer}keys = \"nosuch\"\nalgorithms = [\"ES256\"]"),
                "4:8: cannot read nosuch: No such file",
            ),
            (
                &format!("{issuer}keys = \"secret\"\nalgorithms = [\"ES256\"]"),
                "4:8: secret is neither a JSON Web Key Set nor a public key as PEM",
            ),
            (
                &format!("{issuer}keys = \"empty.json\"\nalgorithms = [\"ES256\"]"),
                "4:8: empty.json has no public key",
            ),
            (
                &format!("{issuer}keys = \"http://id.example/keys\"\nalgorithms = [\"ES256\"]"),
                "4:8: keys come by https",
            ),
            (
                &format!("{issuer}algorithms = []\nkeys = \"https://id.example\""),
                "4:14: name an algorithm",
            ),
        ] {
            let error = read(text).map(|_| ()).unwrap_err();
            let place_and_message = error.strip_prefix("access.toml:").unwrap_or(&error);
            assert!(
                place_and_message.starts_with(expected),
                "{text}\nexpected {expected}\nwas {place_and_message}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let place = |byte| Place::at("ab\näö", byte).to_string();
        assert_eq!(place(0), "1:1");
        assert_eq!(place(3), "2:1");
        assert_eq!(place(5), "2:2");
        assert_eq!(place(7), "2:3");
    }
}
