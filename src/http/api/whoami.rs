//! Who a caller is to the hub, and what it may do.

use std::num::NonZeroU32;

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi, types::Example};
use serde::Serialize;

use super::{Api, Tag};
use crate::{
    auth::Identity,
    event::Timestamp,
    http::{
        caller::Caller,
        problem::{Code, Codes, ProblemOf},
        schema::{Json, Nullable},
    },
    rights::Right,
};

/// The operation that tells a caller what it may do.
#[derive(Clone)]
pub(in crate::http) struct AccessApi(pub(in crate::http) Api);

#[OpenApi]
impl AccessApi {
    /// Who am I
    ///
    /// The name behind the credential and what it may do at this moment; who shows none is told what everybody may. The console
    /// asks it, and it is a cheap way to try a token. `segno token check` says the same without a hub.
    #[oai(
        path = "/whoami",
        method = "get",
        tag = "Tag::Access",
        operation_id = "whoami"
    )]
    async fn whoami(&self, request: &Request) -> Result<CallerKnown, ProblemOf<AskWho>> {
        let is_open = self.0.settings.access.is_open();
        let told = Whoami::of(Caller::of(request).identity(), is_open);
        Ok(CallerKnown::Told(Json::of(&told), "no-store".into()))
    }
}

/// A caller.
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub(super) struct Whoami {
    /// The name of its token, or whom its JSON Web Token is about; null if it shows no credential.
    name: Nullable<String>,
    /// Whether everybody may do everything, because the hub has no access file.
    open: bool,
    /// Topics and patterns that it may publish on.
    publish: Vec<String>,
    /// Topics and patterns that it may follow, and read the history of.
    follow: Vec<String>,
    /// Topics and patterns whose events it may erase.
    erase: Vec<String>,
    /// Whether it may read the hub's figures: `/metrics`, `/stats` and `/health/ready`.
    operate: bool,
    /// Streams that it may have open; null if it has no such limit of its own.
    streams: Nullable<u32>,
    /// Events a second that it may publish; null if it has no such limit of its own.
    rate: Nullable<u32>,
    /// When its credential ends; null if it does not end by itself.
    expires_at: Nullable<Timestamp>,
}

impl Whoami {
    fn of(caller: &Identity, open: bool) -> Self {
        let patterns = |right| {
            let patterns = caller.rights().allowed(right).as_patterns();
            // Only a ticket has rights that are no one list, and it is taken where events are read alone.
            patterns.expect("what a token may do is one list")
        };
        Self {
            name: Nullable(caller.name().map(str::to_owned)),
            open,
            publish: patterns(Right::Publish),
            follow: patterns(Right::Follow),
            erase: patterns(Right::Erase),
            operate: caller.rights().may_operate(),
            streams: Nullable(caller.quota().streams.map(NonZeroU32::get)),
            rate: Nullable(caller.quota().rate.map(NonZeroU32::get)),
            expires_at: Nullable(caller.expires()),
        }
    }
}

impl Example for Whoami {
    fn example() -> Self {
        Self {
            name: Nullable(Some("billing".into())),
            open: false,
            publish: vec!["orders.**".into()],
            follow: vec!["orders.**".into(), "public.**".into()],
            erase: vec![],
            operate: false,
            streams: Nullable(Some(5)),
            rate: Nullable(None),
            expires_at: Nullable(Some(Timestamp::from_millis(1_798_761_600_000))),
        }
    }
}

/// The answer of `GET /whoami`.
#[derive(Debug, ApiResponse)]
pub(super) enum CallerKnown {
    /// The caller.
    #[oai(status = 200)]
    Told(Json<Whoami>, #[oai(header = "Cache-Control")] String),
}

/// The refusals of `GET /whoami`. No right is needed, so none can lack.
#[derive(Debug)]
pub(super) struct AskWho;

impl Codes for AskWho {
    const CODES: &'static [Code] = &[];
    const RIGHTS: &'static [Code] = &[Code::CredentialMissing, Code::CredentialInvalid];
}
