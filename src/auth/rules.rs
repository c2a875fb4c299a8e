//! What the access file says, and how a credential is judged by it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{
    file::AccessFile,
    identity::{Credential, Identity, Reason, Root},
    jwt::{self, Issuer, Jwt},
    keys,
    token::TokenHash,
};
use crate::{
    event::Timestamp,
    rights::{Grants, Rights},
};

/// JSON Web Tokens that are known to be good, at most. Each takes about 1 KiB.
const VERIFIED_MAX: usize = 10_000;

/// What is in force until the file changes.
#[derive(Debug)]
pub(super) struct Rules {
    everybody: Grants,
    pub(super) nobody: Arc<Identity>,
    pub(super) tokens: HashMap<TokenHash, Arc<Identity>>,
    pub(super) issuers: Vec<Issuer>,
    /// Of the file; `None` where there is none.
    pub(super) fingerprint: Option<String>,
    /// JSON Web Tokens that were found good, by their hash, with the generation of the keys.
    verified: Mutex<HashMap<TokenHash, (u64, Arc<Identity>)>>,
}

impl Rules {
    pub(super) fn new(file: &AccessFile, issuers: Vec<Issuer>) -> Self {
        let everybody = file.anonymous.grants();
        let tokens = file.token.iter().map(|token| {
            let hash = *token.sha256.get_ref();
            let name = token.name.get_ref().as_str();
            let caller = Identity {
                name: name.to_owned(),
                quota: token.quota(),
                account: Some(format!("token {name}").into()),
                rights: Rights::new(&token.grants(), &everybody),
                expires: token.expires,
                credential: Credential::Root(Root::Token(hash)),
            };
            (hash, Arc::new(caller))
        });
        Self {
            tokens: tokens.collect(),
            nobody: Arc::new(Identity {
                name: String::new(),
                quota: file.anonymous.quota(),
                account: Some("".into()),
                rights: Rights::new(&Grants::default(), &everybody),
                expires: None,
                credential: Credential::Root(Root::Nobody),
            }),
            everybody,
            issuers,
            fingerprint: file.fingerprint.clone(),
            verified: Mutex::default(),
        }
    }

    /// Where there is no file: everybody may do everything.
    pub(super) fn open() -> Self {
        let file = AccessFile::of_everybody(Grants::everything());
        let mut rules = Self::new(&file, vec![]);
        let nobody = Arc::get_mut(&mut rules.nobody).expect("nobody else has it yet");
        nobody.account = None;
        rules
    }

    /// Who a credential stands for now.
    pub(super) fn judge(
        &self,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<Arc<Identity>, Reason> {
        let caller = match credential {
            Credential::Root(root) => self.judge_root(root, now),
            Credential::Ticket(ticket) => {
                if ticket.expires() <= now {
                    return Err(Reason::Expired(ticket.expires()));
                }
                let parent = self
                    .judge_root(&ticket.from, now)
                    .map_err(|reason| Reason::Parent(Box::new(reason)))?;
                let own = Rights::new(&ticket.grants, &Grants::default());
                let ends = parent.expires.into_iter().chain([ticket.expires()]);
                Ok(Arc::new(Identity {
                    name: parent.name.clone(),
                    quota: parent.quota,
                    account: parent.account.clone(),
                    rights: own.and(&parent.rights),
                    expires: ends.min(),
                    credential: credential.clone(),
                }))
            }
        }?;
        match caller.expires {
            Some(expires) if expires <= now => Err(Reason::Expired(expires)),
            _ => Ok(caller),
        }
    }

    /// The name of the token, or the subject, that `root` is, whether it is good or not.
    pub(super) fn name_of(&self, root: &Root) -> Option<String> {
        match root {
            Root::Nobody => None,
            Root::Token(hash) => Some(self.tokens.get(hash)?.name.clone()),
            Root::Jwt(jwt) => jwt.subject.clone(),
        }
    }

    fn judge_root(&self, root: &Root, now: Timestamp) -> Result<Arc<Identity>, Reason> {
        let caller = match root {
            Root::Nobody => self.nobody.clone(),
            Root::Token(hash) => self.tokens.get(hash).ok_or(Reason::UnknownToken)?.clone(),
            Root::Jwt(jwt) => Arc::new(self.judge_jwt(jwt)?),
        };
        match caller.expires {
            Some(expires) if expires <= now => Err(Reason::Expired(expires)),
            _ => Ok(caller),
        }
    }

    fn judge_jwt(&self, jwt: &Jwt) -> Result<Identity, Reason> {
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| issuer.name == jwt.issuer && issuer.audience == jwt.audience)
            .ok_or(Reason::IssuerGone)?;
        let named = jwt.grants.as_ref().unwrap_or(&issuer.without_claim);
        let subject = jwt.subject.as_deref().unwrap_or_default();
        Ok(Identity {
            quota: issuer.quota,
            account: Some(format!("issuer {} subject {subject}", jwt.issuer).into()),
            name: jwt.subject.clone().unwrap_or_else(|| jwt.issuer.clone()),
            rights: Rights::new(named, &self.everybody),
            expires: Some(jwt.expires()),
            credential: Credential::Root(Root::Jwt(Box::new(jwt.clone()))),
        })
    }

    /// Checks a JSON Web Token, unless it is one that was found good a moment ago. With the reason come the keys that may be out
    /// of date.
    pub(super) fn verify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Arc<Identity>, (Reason, Option<Arc<keys::Keys>>)> {
        let hash = TokenHash::of(token);
        let verified = || {
            self.verified
                .lock()
                .expect("nobody panics while holding it")
        };
        if let Some((generation, caller)) = verified().get(&hash).cloned()
            && self.is_current(&caller, generation)
            && caller.expires.is_some_and(|expires| now < expires)
        {
            return Ok(caller);
        }
        let (jwt, _, generation) =
            jwt::verify(token, &self.issuers).map_err(|(refused, issuer)| {
                (
                    Reason::Jwt(refused),
                    issuer.map(|issuer| issuer.keys.clone()),
                )
            })?;
        let root = Credential::Root(Root::Jwt(Box::new(jwt)));
        let caller = self.judge(&root, now).map_err(|reason| (reason, None))?;
        let mut verified = verified();
        if verified.len() >= VERIFIED_MAX {
            verified.retain(|_, (_, caller)| caller.expires.is_some_and(|expires| now < expires));
        }
        if verified.len() >= VERIFIED_MAX {
            // Checking each anew costs less than to know which of them will come again.
            verified.clear();
        }
        verified.insert(hash, (generation, caller.clone()));
        Ok(caller)
    }

    /// Whether the keys that a JSON Web Token was checked with are still those of its issuer.
    fn is_current(&self, caller: &Identity, generation: u64) -> bool {
        let Credential::Root(Root::Jwt(jwt)) = &caller.credential else {
            return false;
        };
        self.issuers.iter().any(|issuer| {
            issuer.name == jwt.issuer
                && issuer.audience == jwt.audience
                && issuer.keys.get().1 == generation
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use ring::hmac;

    use super::*;

    #[test]
    fn tokens_that_were_found_good_are_kept_up_to_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let secret = [7; 32];
        fs::write(folder.path().join("secret"), secret).unwrap();
        let path = folder.path().join("access.toml");
        let file = "[[issuer]]\nissuer = \"i\"\naudience = \"a\"\nsecret_file = \"secret\"\nalgorithms = [\"HS256\"]";
        fs::write(&path, file).unwrap();
        super::super::jwt_crypto::install();
        let (file, issuers) = AccessFile::read(&path).unwrap();
        let rules = Rules::new(&file, issuers);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let now = Timestamp::now();
        let verify = |subject: usize| {
            let exp = now.as_millis() / 1000 + 60;
            let parts = [
                r#"{"alg":"HS256"}"#,
                &format!(r#"{{"iss":"i","aud":"a","exp":{exp},"sub":"{subject}"}}"#),
            ];
            let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
            rules
                .verify(&format!("{message}.{signature}"), now)
                .unwrap()
        };
        let kept = || rules.verified.lock().unwrap().len();
        for subject in 0..VERIFIED_MAX {
            assert_eq!(verify(subject).name, subject.to_string());
        }
        assert_eq!(kept(), VERIFIED_MAX);
        assert!(Arc::ptr_eq(&verify(7), &verify(7)));
        verify(VERIFIED_MAX);
        assert!(kept() <= VERIFIED_MAX, "{}", kept());
        assert_eq!(verify(7).name, "7");
    }
}
