//! Who a credential stands for, and why it does not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    TICKET_MAX_PATTERNS,
    jwt::{Jwt, JwtRefused},
    ticket::{Ticket, TicketKeyError},
    token::{TOKEN_PREFIX, TokenHash},
};
use crate::{
    event::Timestamp,
    filter::Pattern,
    rights::{Quota, Rights},
};

/// Who calls, and what it may do now. Cheap to clone as an `Arc`.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) name: String,
    pub(super) rights: Rights,
    pub(super) quota: Quota,
    pub(super) account: Option<Arc<str>>,
    pub(super) expires: Option<Timestamp>,
    pub(super) credential: Credential,
}

impl Identity {
    /// Its name, for people: that of the token, or whom the JSON Web Token is about. `None` if it showed no credential, or a
    /// ticket that was made without one.
    pub fn name(&self) -> Option<&str> {
        (!self.name.is_empty()).then_some(&self.name)
    }

    /// What it may do.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// How much it may take at a time.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// What it takes is counted under this name, which stays when the access file changes. A ticket is counted as what it came
    /// from, a JSON Web Token as its subject, and all who show no credential as one. `None` where nobody is counted, because
    /// everybody may do everything.
    pub fn account(&self) -> Option<&Arc<str>> {
        self.account.as_ref()
    }

    /// When its credential ends, if it ends by itself.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Whether it showed no credential.
    pub fn is_nobody(&self) -> bool {
        self.credential == Credential::Root(Root::Nobody)
    }

    /// Whether it came with a ticket, which makes no other tickets.
    pub fn has_ticket(&self) -> bool {
        matches!(self.credential, Credential::Ticket(_))
    }
}

/// What a caller showed, as far as the hub has to know it later: no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Root(Root),
    Ticket(Box<Ticket>),
}

/// What rights come from in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Root {
    Nobody,
    Token(TokenHash),
    Jwt(Box<Jwt>),
}

/// A credential as it was sent. [`Debug`](std::fmt::Debug) does not show it.
#[derive(Clone, Copy)]
pub enum Presented<'a> {
    /// None at all.
    Nothing,
    /// A token or a JSON Web Token, from a header.
    Token(&'a str),
    /// A ticket, from a URL.
    Ticket(&'a str),
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Token(_) => "a token",
            Self::Ticket(_) => "a ticket",
        })
    }
}

/// Why a credential is refused. Never says what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No token of the access file has this hash.
    #[error("this token is not in the access file: it was removed, or it was not copied whole")]
    UnknownToken,
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// Not of any form that is known.
    #[error(
        "it is neither a token of this hub, which begins with {TOKEN_PREFIX}, nor a JSON Web Token"
    )]
    Form,
    /// More than one, of which others might take another.
    #[error("the request shows more than one credential; send one")]
    Several,
    /// Not the header of a token.
    #[error(
        "the header is neither `Authorization: Bearer TOKEN` nor `Basic` with the token as password"
    )]
    Scheme,
    /// A ticket in a header.
    #[error("this is a ticket, which is sent in the URL: ?ticket=…")]
    MisplacedTicket,
    /// A token in a URL.
    #[error(
        "only tickets are taken in a URL, where others may read it; send a token as `Authorization: Bearer`"
    )]
    MisplacedToken,
    /// Not a ticket.
    #[error("it does not look like a ticket; it may have been cut")]
    TicketForm,
    /// A ticket of somebody else.
    #[error("its signature was not made with this hub's ticket key")]
    TicketSignature,
    /// What a ticket came from is no longer good.
    #[error("what the ticket was made with is no longer good: {0}")]
    Parent(Box<Reason>),
    /// A JSON Web Token.
    #[error(transparent)]
    Jwt(#[from] JwtRefused),
    /// The issuer of a token that was good before is gone.
    #[error("its issuer is no longer in the access file")]
    IssuerGone,
}

/// Why no ticket is made.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// Tickets do not make tickets.
    #[error("a ticket makes no other tickets; ask with the token it came from")]
    FromTicket,
    /// A pattern that the caller may not follow.
    #[error("you may not follow {0}, so no ticket can be made for it")]
    NotAllowed(Pattern),
    /// No pattern, or too many.
    #[error("a ticket is for 1 to {TICKET_MAX_PATTERNS} topics or patterns")]
    Number,
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] TicketKeyError),
}
