//! Where a request may show a credential: `Authorization`, or `ticket=` in the query of what a page reads. And how it is told
//! that the credential is not good, or not enough.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{
    Request,
    http::{HeaderMap, Method, header},
};

use super::{
    EVENTS_PATH, STREAM_PATH, TOPIC_PREFIX,
    problem::{Code, Problem},
};
use crate::{
    auth::{Access, Identity, Presented, Reason},
    rights::Right,
};

/// Name of the query parameter with a ticket.
pub(super) const TICKET: &str = "ticket";

/// Whether what is at this path can be read with a ticket, by pages that can set no header.
fn takes_ticket(path: &str) -> bool {
    let is_topic = || {
        path.strip_prefix(TOPIC_PREFIX)
            .is_some_and(|topic| !topic.is_empty())
    };
    [STREAM_PATH, EVENTS_PATH].contains(&path) || is_topic()
}

/// A credential as a request shows it.
enum Shown<'a> {
    Nothing,
    Token(Cow<'a, str>),
    Ticket(String),
}

/// A credential that is not good.
#[derive(Debug)]
pub(super) struct RefusedCredential {
    pub(super) reason: Reason,
    /// Whose it is, where that is sure.
    pub(super) name: Option<String>,
}

/// Who sent `request`, by what it shows.
pub(super) async fn identify(
    request: &Request,
    access: &Access,
) -> Result<Arc<Identity>, RefusedCredential> {
    let shown = Shown::of(request, access.is_open());
    let shown = shown.map_err(|reason| RefusedCredential { reason, name: None })?;
    let presented = match &shown {
        Shown::Nothing => Presented::Nothing,
        Shown::Token(token) => Presented::Token(token),
        Shown::Ticket(ticket) => Presented::Ticket(ticket),
    };
    access.identify(presented).await.map_err(|reason| {
        let name = access.whose(presented, &reason);
        RefusedCredential { reason, name }
    })
}

impl<'a> Shown<'a> {
    /// `ignores_tokens` where everybody may do everything: what a proxy asked for, or a habit, does no harm there.
    fn of(request: &'a Request, ignores_tokens: bool) -> Result<Self, Reason> {
        let ticket = ticket_of(request)?;
        let token = match ignores_tokens {
            true => None,
            false => token_of(request.headers())?,
        };
        match (token, ticket) {
            (None, None) => Ok(Self::Nothing),
            (Some(token), None) => Ok(Self::Token(token)),
            (None, Some(ticket)) => Ok(Self::Ticket(ticket)),
            (Some(_), Some(_)) => Err(Reason::Several),
        }
    }
}

/// The ticket in the query, where one may stand.
fn ticket_of(request: &Request) -> Result<Option<String>, Reason> {
    let uri = request.uri();
    let Some(query) = uri.query() else {
        return Ok(None);
    };
    // Spares the parsing. A name may be spelled with percent signs.
    if ![TICKET, "access_token", "%"]
        .iter()
        .any(|sign| query.contains(sign))
    {
        return Ok(None);
    }
    let parameters: Vec<(String, String)> = request.params().unwrap_or_default();
    if parameters.iter().any(|(name, _)| name == "access_token") {
        return Err(Reason::MisplacedToken);
    }
    let mut tickets = parameters.into_iter().filter(|(name, _)| name == TICKET);
    let ticket = tickets.next();
    if tickets.next().is_some() {
        return Err(Reason::Several);
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match ticket {
        Some((_, ticket)) if is_read && takes_ticket(uri.path()) => Ok(Some(ticket)),
        // Elsewhere it is a parameter that nobody knows.
        _ => Ok(None),
    }
}

/// The token in `Authorization`. Source: RFC 6750, 2.1; RFC 7617.
fn token_of(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Reason> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        // Which one holds would depend on who reads them.
        return Err(Reason::Several);
    }
    let value = value.to_str().map_err(|_| Reason::Scheme)?;
    let (scheme, rest) = value.split_once(' ').ok_or(Reason::Scheme)?;
    let rest = rest.trim();
    match scheme {
        scheme if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(rest.into())),
        scheme if scheme.eq_ignore_ascii_case("basic") => {
            let pair = STANDARD.decode(rest).map_err(|_| Reason::Scheme)?;
            let pair = String::from_utf8(pair).map_err(|_| Reason::Scheme)?;
            let (_, password) = pair.split_once(':').ok_or(Reason::Scheme)?;
            Ok(Some(password.to_owned().into()))
        }
        _ => Err(Reason::Scheme),
    }
}

/// What a request is told whose credential is not good.
pub(super) fn refused(reason: &Reason) -> Problem {
    let detail = format!("the credential is refused: {reason}");
    let challenge = challenge("invalid_token", &reason.to_string());
    Problem::new(Code::CredentialInvalid, detail).challenging(challenge)
}

/// What a caller is told who may not do what it asked for: `what` says what it lacks.
pub(super) fn lacking(identity: &Identity, what: &Lacking<'_>) -> Problem {
    let lacks = match what {
        Lacking::Right(right, None) => format!("the right `{right}`"),
        Lacking::Right(right, Some(topic)) => {
            format!("the right `{right}` for the topic '{topic}'")
        }
        Lacking::Operate => "the right `operate`".into(),
        Lacking::Credential => "a credential that is good".into(),
    };
    if identity.is_nobody() {
        let detail = format!(
            "this needs {lacks}, and the request shows no credential; send `Authorization: Bearer TOKEN`"
        );
        return Problem::new(Code::CredentialMissing, detail).challenging("Bearer".into());
    }
    let detail = match identity.name() {
        Some(name) => format!("'{name}' does not have {lacks}"),
        None => format!("the ticket does not have {lacks}"),
    };
    let challenge = challenge("insufficient_scope", &detail);
    Problem::new(Code::NotAllowed, detail).challenging(challenge)
}

/// What a caller does not have.
pub(super) enum Lacking<'a> {
    /// A right, for a topic if one was named.
    Right(Right, Option<&'a str>),
    /// The right to read the hub's figures.
    Operate,
    /// Any credential at all.
    Credential,
}

/// The value of `WWW-Authenticate`. Source: RFC 6750, 3, which also says which characters a description may have.
fn challenge(error: &str, description: &str) -> String {
    let is_fit = |c: &char| matches!(*c, ' '..='~') && !matches!(c, '"' | '\\');
    let description: String = description.chars().filter(is_fit).collect();
    format!("Bearer error=\"{error}\", error_description=\"{description}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        headers: &[(&str, &str)],
        uri: &str,
    ) -> Result<Option<(&'static str, String)>, Reason> {
        let mut request = Request::builder().uri(uri.parse().unwrap()).finish();
        for (name, value) in headers {
            let name: poem::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        Ok(match Shown::of(&request, false)? {
            Shown::Nothing => None,
            Shown::Token(token) => Some(("token", token.into_owned())),
            Shown::Ticket(ticket) => Some(("ticket", ticket)),
        })
    }

    #[test]
    fn a_credential_is_read_from_one_place() {
        let token = |text: &str| Ok(Some(("token", text.to_owned())));
        let ticket = |text: &str| Ok(Some(("ticket", text.to_owned())));
        for (authorization, expected) in [
            ("Bearer abc", token("abc")),
            ("bearer  abc ", token("abc")),
            ("Basic OmFiYw==", token("abc")),
            ("BASIC dXNlcjphOmI=", token("a:b")),
            ("Basic YWJj", Err(Reason::Scheme)),
            ("Basic ???", Err(Reason::Scheme)),
            ("Digest abc", Err(Reason::Scheme)),
            ("abc", Err(Reason::Scheme)),
            ("", Err(Reason::Scheme)),
        ] {
            let found = shown(&[("authorization", authorization)], "/events");
            assert_eq!(found, expected, "{authorization}");
        }
        assert_eq!(shown(&[], "/events"), Ok(None));
        assert_eq!(shown(&[], "/sse?topic=a&ticket=a.b"), ticket("a.b"));
        assert_eq!(shown(&[], "/events?%74icket=a.b"), ticket("a.b"));
        assert_eq!(shown(&[], "/topics/a/b?ticket=a.b"), ticket("a.b"));
        assert_eq!(shown(&[], "/topics?ticket=a.b"), Ok(None));
        assert_eq!(shown(&[], "/topics/?ticket=a.b"), Ok(None));
        assert_eq!(shown(&[], "/events/1?ticket=a.b"), Ok(None));
        let bearer = ("authorization", "Bearer a");
        assert_eq!(shown(&[bearer, bearer], "/"), Err(Reason::Several));
        assert_eq!(shown(&[bearer], "/sse?ticket=a.b"), Err(Reason::Several));
        assert_eq!(shown(&[], "/sse?ticket=a&ticket=b"), Err(Reason::Several));
        let misplaced = shown(&[], "/sse?access_token=abc");
        assert_eq!(misplaced, Err(Reason::MisplacedToken));
    }

    #[test]
    fn a_challenge_is_fit_for_a_header() {
        assert_eq!(
            challenge("invalid_token", "a \"b\\c\"\r\nx: ü"),
            "Bearer error=\"invalid_token\", error_description=\"a bcx: \""
        );
    }
}
