//! The access file: who may do what, as an operator writes it down.

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    entry::{Anonymous, Fault, IssuerEntry, TokenEntry},
    jwt::Issuer,
    keys::{KeySource, Keys},
    token::TokenHash,
};
use crate::rights::Grants;

/// What the access file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessFile {
    /// What everybody may do.
    #[serde(default)]
    pub(super) anonymous: Anonymous,
    #[serde(default)]
    pub(super) token: Vec<TokenEntry>,
    #[serde(default)]
    issuer: Vec<IssuerEntry>,
    #[serde(skip)]
    pub(super) fingerprint: Option<String>,
}

/// Digits of a fingerprint: enough to tell files of one operator apart.
const FINGERPRINT_DIGITS: usize = 12;

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

impl AccessFile {
    /// A file that says only what everybody may do.
    pub(super) fn of_everybody(grants: Grants) -> Self {
        let anonymous = Anonymous::of(grants);
        Self {
            anonymous,
            token: vec![],
            issuer: vec![],
            fingerprint: None,
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
            .and_then(|mut file| {
                let issuers = file.issuers(folder, known)?;
                let mut digits = TokenHash::of(&text).to_string();
                digits.truncate(FINGERPRINT_DIGITS);
                file.fingerprint = Some(digits);
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
        self.anonymous.check()?;
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for token in &self.token {
            token.check()?;
            if !names.insert(token.name.get_ref().as_str()) {
                let message = format!(
                    "another token is named {} too",
                    token.name.get_ref().as_str()
                );
                return Err(Fault::new(&token.name, message));
            }
            if !hashes.insert(token.sha256.get_ref()) {
                return Err(Fault::new(&token.sha256, "another token has this hash too"));
            }
        }
        let mut issuers = HashSet::new();
        for entry in &self.issuer {
            entry.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::token::TokenHash, rights::Quota};

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
        assert_eq!(file.anonymous.grants().follow[0].to_string(), "public.**");
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
        assert_eq!(file.anonymous.grants(), Grants::default());
        assert_eq!(file.anonymous.quota(), Quota::default());
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
            ("[anonymous]\nrate = 0", "2:8: a rate is 1 to 1000000"),
            ("[anonymous]\nrate = 1000001", "2:8: a rate is 1 to 1000000"),
            ("[anonymous]\nburst = 5", "2:9: `burst` needs a `rate`"),
            ("[anonymous]\nstreams = 0", "2:11: invalid value"),
            (
                &format!("[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\nburst = 5"),
                "4:9: `burst` needs a `rate`",
            ),
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
