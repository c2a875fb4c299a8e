//! Pages of other sites: what a browser may be made to send to a hub that it can reach and the page's author cannot.
//!
//! A browser sends a page's requests whoever made the page, to a hub on loopback too. It says where they come from, and a page
//! cannot change that. A name of the page's author that is made to point to the hub (DNS rebinding) makes the two one site for
//! the browser; then only `Host` tells.

use std::net::IpAddr;

use poem::{
    Request,
    http::{HeaderName, Method, Version, header, uri::Scheme},
};

use super::{
    cors::Cors,
    problem::{Code, Problem},
    public_url::{PublicUrl, authority_of},
};
use crate::peer_address::PeerAddress;

/// Where a request comes from, as a browser sees it. Source: W3C Fetch Metadata Request Headers.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Paths that take JSON, which a page of another site cannot send unasked, but by a body without a content type.
const JSON_PATHS: [&str; 3] = ["/events", "/messages", "/send_rest"];

/// The one `Host` of a request; before HTTP/1.1 there may be none. One that cannot be read is an error, and never taken for a name.
///
/// Source: RFC 9112, 3.2: a request of HTTP/1.1 has one, and who receives another refuses it, because proxies before and behind
/// may disagree about where it goes.
fn host_of(request: &Request) -> Result<Option<&str>, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let detail = match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.to_str() {
            Ok(host) => return Ok(Some(host)),
            Err(_) => {
                "the Host header is not ASCII; send the name as DNS has it, such as xn--bcher-kva.example"
            }
        },
        (None, _) if request.version() < Version::HTTP_11 => return Ok(None),
        (None, _) => "the request has no Host header; HTTP/1.1 requires one",
        (Some(_), Some(_)) => "the request has more than one Host header; send one",
    };
    Err(Problem::new(Code::InvalidHost, detail))
}

/// Host without its port.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// What is asked of requests that a browser may have sent.
#[derive(Debug)]
pub(super) struct CrossSite {
    pub(super) public: Option<PublicUrl>,
    /// Other names of the hub.
    pub(super) names: Vec<String>,
    /// Whether a name that could be anybody's is refused: where no credential is asked for.
    pub(super) asks_host: bool,
}

impl CrossSite {
    /// Refuses what a page of another site may have made a browser send, and a request that does not say clearly for whom it is.
    pub(super) fn check(
        &self,
        request: &Request,
        peer: PeerAddress,
        cors: Option<&Cors>,
    ) -> Result<(), Problem> {
        let headers = request.headers();
        let host = host_of(request)?;
        // No browser opens a socket file, and a proxy that does names the hub as it likes.
        let asks_host = self.asks_host && peer != PeerAddress::Unix;
        // A request without one is from no browser.
        if let Some(host) = host.filter(|_| asks_host) {
            self.check_host(host)?;
        }
        let reads = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS
        );
        if reads {
            return Ok(());
        }
        self.check_origin(request, host, cors)?;
        let has_origin = headers.contains_key(header::ORIGIN);
        if has_origin
            && !headers.contains_key(header::CONTENT_TYPE)
            && JSON_PATHS.contains(&request.uri().path())
        {
            return Err(Problem::new(
                Code::UnsupportedContentType,
                "the body has no content type, as a page of another site would send it; send `content-type: application/json`",
            ));
        }
        Ok(())
    }

    /// Whether the request names the hub by a name that nobody else can point to it.
    fn check_host(&self, host: &str) -> Result<(), Problem> {
        if self.is_own(host) {
            return Ok(());
        }
        Err(Problem::new(
            Code::WrongHost,
            format_args!(
                "a page could have made up the name '{}' to get at this hub, which asks for no credential; if it is the hub's, \
                 start it with --public-url and its address, or with --access",
                without_port(host)
            ),
        ))
    }

    fn is_own(&self, host: &str) -> bool {
        let name = without_port(host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok()
            // A name of one label is found in a list of the machine or of its network, and not in the public one.
            || (!name.is_empty() && !name.contains('.'))
            || name.eq_ignore_ascii_case("localhost.")
            || self.is_public(name)
    }

    fn is_public(&self, name: &str) -> bool {
        let public = self
            .public
            .as_ref()
            .map(|url| without_port(url.authority()));
        public.is_some_and(|public| public.eq_ignore_ascii_case(name))
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Whether a request that changes something comes from the hub's own page, from one that is allowed, or from no page.
    fn check_origin(
        &self,
        request: &Request,
        host: Option<&str>,
        cors: Option<&Cors>,
    ) -> Result<(), Problem> {
        let headers = request.headers();
        if cors.is_some_and(|cors| cors.lets_write(headers)) {
            return Ok(());
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (origin, another) = (origins.next(), origins.next());
        let is_ours = match headers.get(SEC_FETCH_SITE) {
            Some(site) => matches!(site.as_bytes(), b"same-origin" | b"none"),
            None if another.is_some() => false,
            // From no browser; or from an old one, which cannot do without `Origin` where the site is another.
            None => origin.is_none_or(|origin| {
                let origin = origin.to_str().unwrap_or_default();
                // Whoever is on the way can put a page without TLS at the hub's own name.
                let is_forgeable =
                    *request.scheme() == Scheme::HTTPS && origin.starts_with("http://");
                let authority = authority_of(origin).filter(|_| !is_forgeable);
                authority.is_some_and(|authority| self.is_same(&authority, host))
            }),
        };
        match is_ours {
            true => Ok(()),
            false => Err(Problem::new(
                Code::CrossSite,
                format_args!(
                    "a page of {} may not change anything here; start the hub with --cors-origin to allow its origin",
                    origin
                        .and_then(|origin| origin.to_str().ok())
                        .unwrap_or("another site")
                ),
            )),
        }
    }

    fn is_same(&self, authority: &str, host: Option<&str>) -> bool {
        let is_host = host.is_some_and(|host| {
            let host = host.to_ascii_lowercase();
            let usual = [":80", ":443"].map(|port| host.strip_suffix(port));
            host == authority || usual.contains(&Some(authority))
        });
        let public = self.public.as_ref();
        is_host || public.is_some_and(|url| url.authority() == authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::CorsOrigin;

    fn check(
        cross_site: &CrossSite,
        origins: &[&str],
        request: &str,
        headers: &[(&str, &str)],
    ) -> Option<&'static str> {
        let (method, path) = request.split_once(' ').unwrap();
        let mut request = Request::builder()
            .method(method.parse().unwrap())
            .uri(path.parse().unwrap())
            .finish();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let origins: Vec<CorsOrigin> = origins.iter().map(|text| text.parse().unwrap()).collect();
        let cors = Cors::of(&origins, false);
        let peer = PeerAddress::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let refused = cross_site.check(&request, peer, cors.as_ref()).err();
        refused.map(|problem| problem.code().as_str())
    }

    fn on_loopback() -> CrossSite {
        CrossSite {
            public: Some("https://hub.example/".parse().unwrap()),
            names: vec!["other.example".into()],
            asks_host: true,
        }
    }

    #[test]
    fn a_request_that_changes_something_comes_from_no_other_site() {
        const OWN: (&str, &str) = ("host", "localhost:8000");
        let refused = Some("cross_site");
        let fetch = |site| ("sec-fetch-site", site);
        let origin = |origin| ("origin", origin);
        for (headers, expected) in [
            (vec![OWN], None),
            (vec![OWN, fetch("none")], None),
            (
                vec![OWN, fetch("same-origin"), origin("http://localhost:8000")],
                None,
            ),
            (
                vec![OWN, fetch("same-site"), origin("http://localhost:3000")],
                refused,
            ),
            (
                vec![OWN, fetch("cross-site"), origin("https://evil.example")],
                refused,
            ),
            (vec![OWN, fetch("cross-site")], refused),
            (vec![OWN, fetch("")], refused),
            (vec![OWN, origin("http://localhost:8000")], None),
            (vec![OWN, origin("http://LOCALHOST:8000")], None),
            (vec![OWN, origin("http://localhost:8001")], refused),
            (vec![OWN, origin("http://localhost")], refused),
            (vec![OWN, origin("null")], refused),
            (vec![OWN, origin("")], refused),
            (vec![OWN, origin("file://localhost:8000")], refused),
            (vec![OWN, origin("https://hub.example")], None),
            (vec![OWN, origin("https://hub.example:444")], refused),
            (vec![OWN, origin("https://hub.example.evil")], refused),
            (
                vec![
                    OWN,
                    origin("http://localhost:8000"),
                    origin("https://evil.example"),
                ],
                refused,
            ),
            (vec![("host", "hub:80"), origin("http://hub")], None),
            // An origin that was allowed by flag, whatever the browser says of the site.
            (
                vec![OWN, fetch("cross-site"), origin("https://app.example")],
                None,
            ),
        ] {
            for method in ["POST", "DELETE", "PUT"] {
                let found = check(
                    &on_loopback(),
                    &["https://app.example"],
                    &format!("{method} /topics/a"),
                    &headers,
                );
                assert_eq!(found, expected, "{method} {headers:?}");
            }
            let reads = check(&on_loopback(), &[], "GET /events", &headers);
            assert_eq!(reads, None, "{headers:?}");
        }
        let from_anywhere = [OWN, fetch("cross-site"), origin("https://evil.example")];
        assert_eq!(
            check(&on_loopback(), &["*"], "POST /topics/a", &from_anywhere),
            None
        );
        let without_origin = [OWN, fetch("cross-site")];
        assert_eq!(
            check(&on_loopback(), &["*"], "POST /topics/a", &without_origin),
            refused
        );
    }

    #[test]
    fn a_body_without_a_content_type_is_no_json_of_a_page() {
        let page = [("host", "localhost"), ("origin", "http://localhost")];
        for path in JSON_PATHS {
            let request = format!("POST {path}");
            let found = check(&on_loopback(), &[], &request, &page);
            assert_eq!(found, Some("unsupported_content_type"), "{path}");
            let typed = [page[0], page[1], ("content-type", "application/json")];
            assert_eq!(check(&on_loopback(), &[], &request, &typed), None);
            assert_eq!(check(&on_loopback(), &[], &request, &page[..1]), None);
        }
        assert_eq!(check(&on_loopback(), &[], "POST /topics/a", &page), None);
    }

    #[test]
    fn a_name_that_could_be_anybodys_is_refused_where_nothing_else_is_asked() {
        for (host, is_own) in [
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("localhost", true),
            ("localhost.:8000", true),
            ("hub:8000", true),
            ("hub.example", true),
            ("HUB.example:443", true),
            ("Other.example:8443", true),
            ("evil.example:8000", false),
            ("127.0.0.1.evil.example", false),
            ("hub.example.evil", false),
            ("xhub.example", false),
            ("", false),
            (":8000", false),
            ("evil.example.", false),
        ] {
            for request in ["GET /events", "GET /sse", "POST /events", "GET /"] {
                let found = check(&on_loopback(), &[], request, &[("host", host)]);
                let expected = (!is_own).then_some("wrong_host");
                assert_eq!(found, expected, "{host:?} {request}");
            }
        }
        for unclear in [
            &[("host", "localhost"), ("host", "evil.example")][..],
            &[("host", "büro")],
            &[("host", "büro.evil.example")],
        ] {
            let found = check(&on_loopback(), &[], "GET /", unclear);
            assert_eq!(found, Some("invalid_host"), "{unclear:?}");
        }
        let with_access = CrossSite {
            public: None,
            names: Vec::new(),
            asks_host: false,
        };
        let any = [("host", "any.example")];
        assert_eq!(check(&with_access, &[], "GET /events", &any), None);
    }
}
