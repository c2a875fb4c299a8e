//! Tickets: a right to follow that fits into a URL, because a browser's `EventSource` can set no header.
//!
//! A ticket says what it is good for and which credential it came from, and carries a signature made with a key of the hub.
//! So it needs no store, and every hub that shares the key takes it. What is in it can be read by whoever holds it.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{
    Reason, Root,
    token::{from_hex, hex, random},
};
use crate::{
    event::Timestamp,
    files::{OWNER_ONLY, beside, create_new},
    rights::Grants,
};

/// Longest ticket that is looked at, in bytes: four times what 20 patterns of 100 bytes need.
pub const TICKET_MAX_BYTES: usize = 16 * 1024;

/// What is signed begins with this, so that the key cannot be made to sign anything else.
const CONTEXT: &[u8] = b"segno ticket 1\n";

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    pub(super) grants: Grants,
    /// Milliseconds since 1970.
    expires: i64,
    /// The credential it came from, whose rights it shares and with which it dies.
    pub(super) from: Root,
}

impl Ticket {
    pub(super) fn new(grants: Grants, expires: Timestamp, from: Root) -> Self {
        Self {
            grants,
            expires: expires.as_millis(),
            from,
        }
    }

    pub(super) fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.expires)
    }
}

/// The file with the keys that tickets are signed with, one a line: 64 hexadecimal digits. The first signs, and a ticket signed
/// with any of them is good: a new key is put before the old one, and the old one removed a day later.
#[derive(Debug)]
pub(super) struct TicketKeys {
    path: PathBuf,
    /// `None` until they are needed.
    keys: Mutex<Option<Arc<[hmac::Key]>>>,
}

/// Why the key of tickets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeyError {
    /// The file cannot be read or made.
    #[error("cannot read or make the key of tickets, {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the file is not a key.
    #[error("{path}:{line}: a key of tickets is 64 hexadecimal digits, as `openssl rand -hex 32` prints them", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl TicketKeys {
    pub(super) fn of(path: PathBuf) -> Self {
        Self {
            path,
            keys: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Signs `ticket`. Makes the file where there is none.
    pub(super) fn sign(&self, ticket: &Ticket) -> Result<String, TicketKeyError> {
        let keys = match self.get()? {
            Some(keys) => keys,
            None => {
                self.make()?;
                // Another hub that shares the file may have been first: its key is the one.
                self.get()?
                    .ok_or_else(|| self.io(ErrorKind::NotFound.into()))?
            }
        };
        let json = serde_json::to_vec(ticket).expect("a ticket is plain data");
        let said = URL_SAFE_NO_PAD.encode(json);
        let signature = hmac::sign(&keys[0], &signed(&said));
        Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What the ticket `text` says, if its signature is good.
    pub(super) fn open(&self, text: &str) -> Result<Ticket, Reason> {
        if text.len() > TICKET_MAX_BYTES {
            return Err(Reason::TicketForm);
        }
        let (said, signature) = text.split_once('.').ok_or(Reason::TicketForm)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Reason::TicketForm)?;
        let keys = self.get().unwrap_or_else(|error| {
            tracing::error!(error = %anyhow::Error::from(error), "no ticket is taken");
            None
        });
        let is_ours = |key| hmac::verify(key, &signed(said), &signature).is_ok();
        if !keys.iter().flat_map(|keys| keys.iter()).any(is_ours) {
            return Err(Reason::TicketSignature);
        }
        let json = URL_SAFE_NO_PAD
            .decode(said)
            .map_err(|_| Reason::TicketForm)?;
        serde_json::from_slice(&json).map_err(|_| Reason::TicketForm)
    }

    /// Takes the keys anew from the file when they are needed next.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<[hmac::Key]>>> {
        self.keys.lock().expect("nobody panics while holding it")
    }

    /// The keys; `None` if there is no file.
    fn get(&self) -> Result<Option<Arc<[hmac::Key]>>, TicketKeyError> {
        let mut known = self.lock();
        if known.is_none() {
            *known = match fs::read_to_string(&self.path) {
                Ok(text) => Some(self.read(&text)?),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(self.io(error)),
            };
        }
        Ok(known.clone())
    }

    fn read(&self, text: &str) -> Result<Arc<[hmac::Key]>, TicketKeyError> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<hmac::Key> = lines
            .map(|(number, line)| match from_hex(line) {
                Some(key) => Ok(hmac::Key::new(hmac::HMAC_SHA256, &key)),
                None => Err(self.invalid(number + 1)),
            })
            .collect::<Result<_, _>>()?;
        match keys.is_empty() {
            true => Err(self.invalid(1)),
            false => Ok(keys.into()),
        }
    }

    /// Makes the file with a new key, readable by its owner alone. One that is there already stays.
    fn make(&self) -> Result<(), TicketKeyError> {
        let new = beside(&self.path, &format!(".{}", hex(&random()[..8])));
        let made = create_new(&new, OWNER_ONLY)
            .and_then(|mut file| {
                writeln!(file, "{}", hex(&random()))?;
                file.sync_all()
            })
            // Whole or not at all, and never over another hub's.
            .and_then(|()| match fs::hard_link(&new, &self.path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            });
        _ = fs::remove_file(&new);
        made.map_err(|error| self.io(error))
    }

    fn io(&self, source: io::Error) -> TicketKeyError {
        TicketKeyError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn invalid(&self, line: usize) -> TicketKeyError {
        TicketKeyError::Invalid {
            path: self.path.clone(),
            line,
        }
    }
}

fn signed(said: &str) -> Vec<u8> {
    [CONTEXT, said.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn ticket() -> Ticket {
        let grants = serde_json::from_str(r#"{"follow":["orders.eu"]}"#).unwrap();
        Ticket::new(
            grants,
            Timestamp::from_millis(1_800_000_000_000),
            Root::Nobody,
        )
    }

    #[test]
    fn the_key_is_made_at_the_first_use_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segno.db-ticket-key");
        let keys = TicketKeys::of(path.clone());
        assert_eq!(keys.open("a.b"), Err(Reason::TicketForm));
        assert_eq!(keys.open("a.bbbb"), Err(Reason::TicketSignature));
        assert!(!path.exists());
        let text = keys.sign(&ticket()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Another hub, or the same one after a restart.
        let another = TicketKeys::of(path);
        assert_eq!(another.open(&text), Ok(ticket()));
        assert_eq!(keys.open(&another.sign(&ticket()).unwrap()), Ok(ticket()));
    }

    #[test]
    fn a_key_is_replaced_without_killing_its_tickets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let keys = TicketKeys::of(path.clone());
        let old = keys.sign(&ticket()).unwrap();
        let old_key = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# new\n{}\n{old_key}", "ab".repeat(32))).unwrap();
        keys.forget();
        let new = keys.sign(&ticket()).unwrap();
        assert_ne!(old, new);
        assert_eq!(keys.open(&old), Ok(ticket()));
        fs::write(&path, "ab".repeat(32)).unwrap();
        keys.forget();
        assert_eq!(keys.open(&old), Err(Reason::TicketSignature));
        assert_eq!(keys.open(&new), Ok(ticket()));
        fs::write(&path, "\nzz\n").unwrap();
        keys.forget();
        let error = keys.sign(&ticket()).unwrap_err();
        assert!(matches!(error, TicketKeyError::Invalid { line: 2, .. }));
    }

    #[test]
    fn a_ticket_with_any_byte_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = TicketKeys::of(folder.path().join("key"));
        let good = keys.sign(&ticket()).unwrap();
        assert_eq!(keys.open(&good), Ok(ticket()));
        for at in 0..good.len() {
            for new in [b'A', b'B', b'.', b'_'] {
                let mut bad = good.clone().into_bytes();
                if std::mem::replace(&mut bad[at], new) != new {
                    let bad = String::from_utf8(bad).unwrap();
                    assert!(keys.open(&bad).is_err(), "{bad}");
                }
            }
            assert!(keys.open(&good[..at]).is_err());
        }
        assert!(keys.open(&format!("{good}A")).is_err());
        assert!(keys.open(&format!("{good}.")).is_err());
        assert!(keys.open(&"A".repeat(TICKET_MAX_BYTES + 1)).is_err());
    }
}
