//! Who is calling: from a token, a JSON Web Token or a ticket to an [`Identity`] with its rights. Knows nothing of how it was sent
//! and nothing of the hub.
//!
//! The access file says whose credentials are good and what they may do. It is read again when it changes; a file that is wrong
//! is refused and the rules before it stay. Each credential is judged by the rules of the moment, so an [`Identity`] that is kept,
//! as under a stream, must be [renewed](Access::renew) when the rules [change](Access::changes) or its time is over.

mod edit;
mod entry;
mod file;
mod identity;
mod jwt;
mod jwt_crypto;
mod keys;
mod pass;
mod rules;
mod ticket;
mod token;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    edit::{EditError, ListedToken, NewToken, add_token, list_tokens, remove_token},
    file::{AccessFileError, Place},
    identity::{Identity, Presented, Reason, TicketError},
    jwt::{JwtRefused, Quoted},
    keys::KeyError,
    pass::Pass,
    ticket::{TICKET_MAX_BYTES, TicketKeyError},
    token::{InvalidTokenHash, InvalidTokenName, TOKEN_PREFIX, TokenHash, TokenName, new_token},
};
use self::{
    file::AccessFile,
    identity::{Credential, Root},
    pass::Passes,
    rules::Rules,
    ticket::{Ticket, TicketKeys},
};
use crate::{
    event::Timestamp,
    files::{FileState, LOOK_INTERVAL, look_settled},
    filter::Pattern,
    rights::{Grants, Right},
};

/// Longest life of a ticket.
pub const TICKET_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Most patterns of a ticket. It must fit into a URL.
pub const TICKET_MAX_PATTERNS: usize = 20;

/// A ticket that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTicket {
    /// What goes into `?ticket=`.
    pub ticket: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Says that the rules may have changed.
#[derive(Debug, Clone)]
pub struct Changes(watch::Receiver<Arc<Rules>>);

impl Changes {
    /// Waits for the next change; for ever if there can be none any more.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whose credentials are good, and what they may do.
#[derive(Debug)]
pub struct Access {
    /// The access file; `None` if everybody may do everything.
    path: Option<PathBuf>,
    rules: watch::Sender<Arc<Rules>>,
    ticket_keys: TicketKeys,
    /// What the files looked like when they were read.
    seen: Mutex<Seen>,
    passes: Passes,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// The access file, and the files with keys of issuers.
    access: Vec<Option<FileState>>,
    ticket_keys: Option<FileState>,
}

impl Access {
    /// Everybody may do everything. Tickets are made and taken all the same, so that a page works in both worlds.
    pub fn open(ticket_key: PathBuf) -> Self {
        Self::new(None, Rules::open(), ticket_key)
    }

    /// What the access file at `path` says.
    pub fn read(path: &Path, ticket_key: PathBuf) -> Result<Self, AccessFileError> {
        jwt_crypto::install();
        let (file, issuers) = AccessFile::read(path)?;
        let rules = Rules::new(&file, issuers);
        let access = Self::new(Some(path.to_owned()), rules, ticket_key);
        // What changed after it was read and before it was looked at would never be seen.
        access.reload()?;
        Ok(access)
    }

    fn new(path: Option<PathBuf>, rules: Rules, ticket_key: PathBuf) -> Self {
        let access = Self {
            path,
            rules: watch::Sender::new(Arc::new(rules)),
            ticket_keys: TicketKeys::of(ticket_key),
            seen: Mutex::default(),
            passes: Passes::default(),
        };
        *access.seen.lock().expect("nobody else has it yet") = access.look();
        access
    }

    /// Whether everybody may do everything because there is no access file.
    pub fn is_open(&self) -> bool {
        self.path.is_none()
    }

    /// Who shows no credential.
    pub fn nobody(&self) -> Arc<Identity> {
        self.rules.borrow().nobody.clone()
    }

    /// Who shows `presented`. Waits for the keys of an issuer if they may be out of date.
    pub async fn identify(&self, presented: Presented<'_>) -> Result<Arc<Identity>, Reason> {
        let now = Timestamp::now();
        let rules = self.rules.borrow().clone();
        // Where everybody may do everything, a token that is sent by habit does no harm.
        if self.is_open() && !matches!(presented, Presented::Ticket(_)) {
            return Ok(rules.nobody.clone());
        }
        match presented {
            Presented::Nothing => Ok(rules.nobody.clone()),
            Presented::Ticket(text) if text.starts_with(TOKEN_PREFIX) || jwt::is_jwt(text) => {
                Err(Reason::MisplacedToken)
            }
            Presented::Ticket(text) => {
                let ticket = self.ticket_keys.open(text)?;
                rules.judge(&Credential::Ticket(Box::new(ticket)), now)
            }
            Presented::Token(text) if text.starts_with(TOKEN_PREFIX) => {
                let root = Root::Token(TokenHash::of(text));
                rules.judge(&Credential::Root(root), now)
            }
            Presented::Token(text) if jwt::is_jwt(text) => match rules.verify(text, now) {
                Ok(caller) => Ok(caller),
                // In a box: what waiting takes would else be moved about with every request.
                Err((_, Some(keys))) if Box::pin(keys.refresh()).await => {
                    rules.verify(text, now).map_err(|(reason, _)| reason)
                }
                Err((reason, _)) => Err(reason),
            },
            Presented::Token(text) if text.split('.').count() == 2 => Err(Reason::MisplacedTicket),
            Presented::Token(_) => Err(Reason::Form),
        }
    }

    /// Whose `presented` is, which was refused for `reason`; `None` where that is not sure, because the hub has neither its hash nor
    /// a signature that is good.
    pub fn whose(&self, presented: Presented<'_>, reason: &Reason) -> Option<String> {
        let rules = self.rules.borrow().clone();
        match presented {
            Presented::Nothing => None,
            Presented::Token(text) if jwt::is_jwt(text) => jwt::subject_of_refused(text, reason),
            Presented::Token(text) => rules.name_of(&Root::Token(TokenHash::of(text))),
            Presented::Ticket(text) => rules.name_of(&self.ticket_keys.open(text).ok()?.from),
        }
    }

    /// What lets the stream of `identity` go on. `None` if it may go on for ever: where everybody may do everything only tickets
    /// end.
    pub fn pass(&self, identity: &Arc<Identity>) -> Result<Option<Pass>, Reason> {
        if self.is_open() && !identity.has_ticket() {
            return Ok(None);
        }
        let judge = || self.renew(identity);
        self.passes.give(identity, judge).map(Some)
    }

    /// What a caller may do now that it showed its credential before.
    pub fn renew(&self, caller: &Identity) -> Result<Arc<Identity>, Reason> {
        let rules = self.rules.borrow().clone();
        rules.judge(&caller.credential, Timestamp::now())
    }

    /// Says from now on when the rules may have changed.
    pub fn changes(&self) -> Changes {
        Changes(self.rules.subscribe())
    }

    /// Makes a ticket for `caller` to follow what one of `follow` stands for. It ends after `age`, after [`TICKET_MAX_AGE`], or
    /// with the caller's credential, whichever is first.
    pub fn new_ticket(
        &self,
        caller: &Identity,
        follow: Vec<Pattern>,
        age: Duration,
    ) -> Result<NewTicket, TicketError> {
        let Credential::Root(root) = &caller.credential else {
            return Err(TicketError::FromTicket);
        };
        if !(1..=TICKET_MAX_PATTERNS).contains(&follow.len()) {
            return Err(TicketError::Number);
        }
        let allowed = caller.rights.allowed(Right::Follow);
        let is_refused = |pattern: &&Pattern| match pattern.as_exact() {
            Some(topic) => !allowed.covers(topic),
            // Gives what both stand for, as a stream of that pattern does.
            None => allowed.is_nothing(),
        };
        if let Some(pattern) = follow.iter().find(is_refused) {
            return Err(TicketError::NotAllowed(pattern.clone()));
        }
        let after = Timestamp::now().after(age.min(TICKET_MAX_AGE));
        let expires = caller.expires.map_or(after, |end| end.min(after));
        let grants = Grants {
            follow,
            ..Grants::default()
        };
        let ticket = Ticket::new(grants, expires, root.clone());
        Ok(NewTicket {
            ticket: self.ticket_keys.sign(&ticket)?,
            expires,
        })
    }

    /// Reads the files anew. If the access file is wrong, the rules before it stay.
    pub fn reload(&self) -> Result<(), AccessFileError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let old = self.rules.borrow().clone();
        // What was fetched stays; what is in files is read again.
        let known = |source: &keys::KeySource| {
            let issuers = old.issuers.iter().filter(|_| source.path().is_none());
            issuers
                .map(|issuer| issuer.keys.clone())
                .find(|keys| keys.source == *source)
        };
        let (file, issuers) = AccessFile::read_with(path, known)?;
        let rules = Rules::new(&file, issuers);
        self.rules.send_replace(Arc::new(rules));
        Ok(())
    }

    /// Reads the files again when they change, and keeps the keys of issuers fresh, for ever.
    pub async fn run(&self) {
        tokio::join!(
            self.watch_files(),
            self.keep_keys_fresh(),
            self.watch_passes()
        );
    }

    async fn watch_files(&self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let known = self
                .seen
                .lock()
                .expect("nobody panics while holding it")
                .clone();
            let now = look_settled(&known, || self.look()).await;
            let before = {
                let mut seen = self.seen.lock().expect("nobody panics while holding it");
                std::mem::replace(&mut *seen, now.clone())
            };
            if now.ticket_keys != before.ticket_keys {
                self.ticket_keys.forget();
            }
            if now.access != before.access {
                self.reload_and_tell();
            }
        }
    }

    async fn watch_passes(&self) {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                () = changes.next() => self.passes.judge_all(|identity| self.renew(identity)),
                () = tokio::time::sleep(LOOK_INTERVAL) => self.passes.end_expired(Timestamp::now()),
            }
        }
    }

    async fn keep_keys_fresh(&self) {
        loop {
            let rules = self.rules.borrow().clone();
            let fetching = rules.issuers.iter().map(|issuer| issuer.keys.keep_fresh());
            futures_util::future::join_all(fetching).await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Reads the files anew, and logs what came of it.
    pub fn reload_and_tell(&self) {
        self.ticket_keys.forget();
        match self.reload() {
            Ok(()) if self.is_open() => (),
            Ok(()) => tracing::info!("the access file was read again"),
            Err(error) => tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the access file is refused; the rules before it stay"
            ),
        }
    }

    fn look(&self) -> Seen {
        let rules = self.rules.borrow().clone();
        let of_keys = rules
            .issuers
            .iter()
            .filter_map(|issuer| issuer.keys.source.path());
        let paths = self.path.iter().map(PathBuf::as_path).chain(of_keys);
        Seen {
            access: paths.map(FileState::of).collect(),
            ticket_keys: FileState::of(self.ticket_keys.path()),
        }
    }

    /// The first 12 hexadecimal digits of the SHA-256 of the access file whose rules are in force; `None` if everybody may do everything.
    pub fn fingerprint(&self) -> Option<String> {
        self.rules.borrow().fingerprint.clone()
    }

    /// The access file and what it has, in words; `None` if everybody may do everything.
    pub fn describe(&self) -> Option<String> {
        let rules = self.rules.borrow().clone();
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            number => format!("{number} {what}s"),
        };
        let path = self.path.as_ref()?.display();
        let tokens = count(rules.tokens.len(), "token");
        Some(match rules.issuers.len() {
            0 => format!("{path} ({tokens})"),
            issuers => format!("{path} ({tokens}, {})", count(issuers, "issuer")),
        })
    }
}
