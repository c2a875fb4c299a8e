//! Who a request comes from. Found once, before the ways of a request part; asked by all that depends on it.

use std::{net::IpAddr, sync::Arc};

use poem::{Request, http::HeaderMap};

use super::{
    credential::{self, Lacking, RefusedCredential},
    operations::Need,
    problem::Problem,
};
use crate::{
    auth::{Access, Identity, Pass},
    filter::{Allowed, Filter},
    limits::{Account, BodyPermit, ConnectionPermit, LimitHit, Limits, StreamPermit},
    peer_address::PeerAddress,
    rights::Right,
};

/// The sender of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The other end of the connection.
    pub(super) peer: PeerAddress,
    connection: Arc<ConnectionPermit>,
    /// What `X-Forwarded-For` says, if the request has one.
    forwarded: Option<Arc<str>>,
    /// What its credential stands for.
    identity: Arc<Identity>,
}

impl Caller {
    /// Reads it from a request that comes from the server, and notes it in the request. If the credential is not good, it is
    /// noted as one who shows none, for what is public.
    pub(super) async fn find(
        request: &mut Request,
        access: &Access,
    ) -> Result<(), RefusedCredential> {
        let identified = credential::identify(request, access).await;
        let (identity, outcome) = match identified {
            Ok(identity) => (identity, Ok(())),
            Err(refused) => (access.nobody(), Err(refused)),
        };
        let connection = request
            .data::<Arc<ConnectionPermit>>()
            .expect("the server puts it into every request");
        let address = request.remote_addr().as_socket_addr();
        let caller = Self {
            peer: address.map_or(PeerAddress::Unix, |address| (*address).into()),
            connection: connection.clone(),
            forwarded: forwarded(request.headers()),
            identity,
        };
        request.set_data(caller);
        outcome
    }

    /// The caller of a request in which it was [noted](Self::find).
    pub(super) fn of(request: &Request) -> &Self {
        request
            .data::<Self>()
            .expect("noted before the ways of a request part")
    }

    /// Refuses a caller who may do nothing of what is needed, before its body is read. Which topics it may do it to is asked
    /// when they are known.
    pub(super) fn enter(&self, need: Need) -> Result<(), Problem> {
        let rights = self.identity.rights();
        let has_none = |right| rights.allowed(right).is_nothing();
        let lacking = match need {
            Need::Nothing => return Ok(()),
            Need::Operate if rights.may_operate() => return Ok(()),
            Need::Operate => Lacking::Operate,
            Need::Credential if !self.identity.is_nobody() || !rights.are_none() => return Ok(()),
            Need::Credential => Lacking::Credential,
            // Who may read a topic is told that it may not erase it; from others it is hidden.
            Need::Right(Right::Erase) if !has_none(Right::Follow) => return Ok(()),
            Need::Right(right) if !has_none(right) => return Ok(()),
            Need::Right(right) => Lacking::Right(right, None),
        };
        Err(self.noted(credential::lacking(&self.identity, &lacking)))
    }

    /// The same refusal, with whose request it was, for a log line.
    pub(super) fn noted(&self, problem: Problem) -> Problem {
        let name = self.identity.name().map(str::to_owned);
        problem.of_caller(self.client_address(), name)
    }

    /// The refusal of a credential that is not good.
    pub(super) fn invalid(&self, refused: RefusedCredential) -> Problem {
        let problem = credential::refused(&refused.reason);
        problem.of_caller(self.client_address(), refused.name)
    }

    /// What lets it go on reading; `None` if nothing can end that.
    pub(super) fn pass(&self, access: &Access) -> Result<Option<Pass>, Problem> {
        access.pass(&self.identity).map_err(|reason| {
            let name = self.identity.name().map(str::to_owned);
            self.invalid(RefusedCredential { reason, name })
        })
    }

    /// Its own address, where a trusted proxy says so.
    fn client_address(&self) -> IpAddr {
        self.connection.client_address(self.forwarded.as_deref())
    }

    /// Refuses it if it may not do this to `topic`.
    pub(super) fn must(&self, right: Right, topic: &str) -> Result<(), Problem> {
        match self.may(right, topic) {
            true => Ok(()),
            false => {
                let lacking = Lacking::Right(right, Some(topic));
                Err(self.noted(credential::lacking(&self.identity, &lacking)))
            }
        }
    }

    /// Whether it may do this to `topic`.
    pub(super) fn may(&self, right: Right, topic: &str) -> bool {
        self.identity.rights().may(right, topic)
    }

    /// Whether it may do this to every topic.
    pub(super) fn may_everywhere(&self, right: Right) -> bool {
        self.identity.rights().allowed(right).is_everything()
    }

    /// The topics it may follow.
    pub(super) fn allowed_to_follow(&self) -> &Allowed {
        self.identity.rights().allowed(Right::Follow)
    }

    /// What it reads that wants `wanted`: no more than it is allowed. Refused if it asks for a topic by its name that it is not
    /// allowed; a pattern gives what of it is allowed.
    pub(super) fn reads(&self, wanted: Filter) -> Result<Filter, Problem> {
        for topic in wanted.named_topics() {
            self.must(Right::Follow, topic)?;
        }
        let allowed = self.allowed_to_follow().clone();
        Ok(wanted.within(allowed))
    }

    /// What its credential stands for.
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The limits that hold for it.
    pub(super) fn limits(&self) -> &Limits {
        self.connection.limits()
    }

    /// Opens one more stream, if it may.
    pub(super) fn open_stream(&self, filter: &Filter) -> Result<StreamPermit, LimitHit> {
        let forwarded = self.forwarded.as_deref();
        let account = self.account();
        self.connection
            .open_stream(filter.followed_bytes(), forwarded, account)
    }

    /// Permits a body of `announced` bytes, if there is memory for it.
    pub(super) fn hold_body(&self, announced: usize) -> Result<BodyPermit, LimitHit> {
        self.connection
            .hold_body(announced, self.forwarded.as_deref())
    }

    /// Publishes `events` events, if its rate and that of its address allow it.
    pub(super) fn publish(&self, events: usize) -> Result<(), LimitHit> {
        let account = self.account();
        self.connection
            .publish(events, self.forwarded.as_deref(), account)
    }

    /// As it is counted, whatever its address; `None` where nobody is.
    fn account(&self) -> Option<Account<'_>> {
        let name = self.identity.account()?;
        let quota = self.identity.quota();
        Some(Account { name, quota })
    }
}

/// Where the header is there more than once, the last is the newest. Bytes that are no text spoil the entry they stand in and no other:
/// the first entries may be the client's own words, and the last are those of proxies.
fn forwarded(headers: &HeaderMap) -> Option<Arc<str>> {
    let values = headers.get_all("x-forwarded-for").iter();
    let hops: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!hops.is_empty()).then(|| hops.join(",").into())
}

/// Whether a head, which nobody has parsed, has an `X-Forwarded-For`.
pub(crate) fn is_forwarded(head: &[u8]) -> bool {
    let name = b"\nx-forwarded-for:";
    head.windows(name.len())
        .any(|bytes| bytes.eq_ignore_ascii_case(name))
}
