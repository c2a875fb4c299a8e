//! The console: the page at `/` and its parts. They are in the binary, so it works with no internet and no files beside it.

use std::hash::{DefaultHasher, Hash, Hasher};

use poem::{
    Endpoint, IntoResponse, Request, Response, Route,
    endpoint::make_sync,
    get,
    http::{StatusCode, header},
};

/// What the page may do: load its own parts, and talk to its own hub. Nothing in an event's data can make it do more, and
/// `trusted-types 'none'` forbids to make elements out of text at all.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// The page, which is also what `/` gives: poem takes `/` for the API's, whatever else stands there.
pub(super) const PAGE: &str = "/index.html";

/// Path, content type and content of every part.
const PARTS: &[(&str, &str, &str)] = &[
    (PAGE, HTML, include_str!("../console/index.html")),
    (
        "/console/style.css",
        STYLE,
        include_str!("../console/style.css"),
    ),
    (
        "/console/icon.svg",
        IMAGE,
        include_str!("../console/icon.svg"),
    ),
    // Browsers ask for it beside every page that names no icon, such as the docs.
    ("/favicon.ico", IMAGE, include_str!("../console/icon.svg")),
    // For pages and for programs, and under the name that they know: the client library.
    (
        "/segno.js",
        SCRIPT,
        include_str!("../../clients/js/segno.js"),
    ),
    (
        "/console/again.js",
        SCRIPT,
        include_str!("../console/again.js"),
    ),
    (
        "/console/columns.js",
        SCRIPT,
        include_str!("../console/columns.js"),
    ),
    (
        "/console/operate.js",
        SCRIPT,
        include_str!("../console/operate.js"),
    ),
    (
        "/console/past.js",
        SCRIPT,
        include_str!("../console/past.js"),
    ),
    (
        "/console/theme.js",
        SCRIPT,
        include_str!("../console/theme.js"),
    ),
    ("/console/app.js", SCRIPT, include_str!("../console/app.js")),
    ("/console/dom.js", SCRIPT, include_str!("../console/dom.js")),
    (
        "/console/event.js",
        SCRIPT,
        include_str!("../console/event.js"),
    ),
    (
        "/console/filter.js",
        SCRIPT,
        include_str!("../console/filter.js"),
    ),
    (
        "/console/history.js",
        SCRIPT,
        include_str!("../console/history.js"),
    ),
    ("/console/hub.js", SCRIPT, include_str!("../console/hub.js")),
    (
        "/console/json.js",
        SCRIPT,
        include_str!("../console/json.js"),
    ),
    (
        "/console/live.js",
        SCRIPT,
        include_str!("../console/live.js"),
    ),
    (
        "/console/news.js",
        SCRIPT,
        include_str!("../console/news.js"),
    ),
    (
        "/console/rate.js",
        SCRIPT,
        include_str!("../console/rate.js"),
    ),
    (
        "/console/rows.js",
        SCRIPT,
        include_str!("../console/rows.js"),
    ),
    (
        "/console/send.js",
        SCRIPT,
        include_str!("../console/send.js"),
    ),
    (
        "/console/session.js",
        SCRIPT,
        include_str!("../console/session.js"),
    ),
    (
        "/console/signin.js",
        SCRIPT,
        include_str!("../console/signin.js"),
    ),
    (
        "/console/stream.js",
        SCRIPT,
        include_str!("../console/stream.js"),
    ),
    (
        "/console/subscribe.js",
        SCRIPT,
        include_str!("../console/subscribe.js"),
    ),
    (
        "/console/topics.js",
        SCRIPT,
        include_str!("../console/topics.js"),
    ),
];

/// Whether there is a part of it at this path.
pub(super) fn has(path: &str) -> bool {
    path == "/" || PARTS.iter().any(|(part, _, _)| *part == path)
}

/// Adds the page and its parts to `routes`.
pub(super) fn add_to(routes: Route) -> Route {
    PARTS
        .iter()
        .fold(routes, |routes, (path, content_type, content)| {
            routes.at(path, get(part(content_type, content)))
        })
}

fn part(content_type: &'static str, content: &'static str) -> impl Endpoint<Output = Response> {
    let tag = tag_of(content);
    make_sync(move |request: Request| {
        let known = request.headers().get_all(header::IF_NONE_MATCH);
        let response = Response::builder()
            .header(header::ETAG, &tag)
            // Asked again each time, so that a new segno is a new page at once.
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(header::REFERRER_POLICY, "no-referrer");
        if known.iter().any(|known| known.as_bytes() == tag.as_bytes()) {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        response
            .content_type(content_type)
            .body(content)
            .into_response()
    })
}

/// The same for the same content, whichever build it is in.
pub(super) fn tag_of(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
