//! Swagger UI, the page at `/docs`: the library that poem-openapi brings, in a page of our own, under a policy that lets run what is
//! in it and nothing else.

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{
    Endpoint, Request, Response,
    endpoint::make_sync,
    http::{StatusCode, header},
};
use ring::digest::{SHA256, digest};

use super::{console::tag_of, public_url::PublicUrl};

const PAGE: &str = include_str!("../console/docs/page.html");
const STYLE: &str = include_str!("../console/docs/style.css");
const SCRIPT: &str = include_str!("../console/docs/start.js");

/// The page. `swagger` is the page of poem-openapi, for the library and the style in it. Scripts and styles are named by their hashes,
/// so that the policy is as strict as that of the console. It sends requests to the hub that it came from, or to where the document
/// says that the hub is.
pub(super) fn page(
    swagger: &str,
    public: Option<&PublicUrl>,
) -> impl Endpoint<Output = Response> + use<> {
    let swagger_style = between(
        swagger,
        "<style charset=\"UTF-8\">",
        "</style>\n    <script",
    );
    let swagger_script = between(swagger, "<script charset=\"UTF-8\">", "</script>\n</head>");
    let policy = policy_of(&[swagger_script, SCRIPT], &[swagger_style, STYLE], public);
    let html = PAGE
        .replace("{:style}", STYLE)
        .replace("{:script}", SCRIPT)
        .replace("{:swagger-style}", swagger_style)
        .replace("{:swagger-script}", swagger_script);
    let tag = tag_of(&html);
    make_sync(move |request: Request| {
        let known = request.headers().get_all(header::IF_NONE_MATCH);
        let response = Response::builder()
            .header(header::ETAG, &tag)
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::CONTENT_SECURITY_POLICY, &policy);
        if known.iter().any(|known| known.as_bytes() == tag.as_bytes()) {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        response
            .content_type("text/html; charset=utf-8")
            .body(html.clone())
    })
}

fn policy_of(scripts: &[&str], styles: &[&str], public: Option<&PublicUrl>) -> String {
    let hashes = |parts: &[&str]| {
        let hashes: Vec<String> = parts.iter().map(|part| hash(part)).collect();
        hashes.join(" ")
    };
    let hub = public.map_or_else(String::new, |url| format!(" {}", url.origin()));
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src 'self' data:; connect-src 'self'{hub}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hashes(scripts),
        hashes(styles)
    )
}

/// What must be so, or a new poem-openapi makes another page: then its tests say so.
const OF_POEM: &str = "the page of poem-openapi has a style and a library";

fn between<'a>(html: &'a str, open: &str, close: &str) -> &'a str {
    let (_, rest) = html.split_once(open).expect(OF_POEM);
    let (part, _) = rest.split_once(close).expect(OF_POEM);
    part
}

/// How a policy names what an element holds. Source: Content Security Policy 3, 2.3.1. A browser reads the page without carriage
/// returns.
fn hash(part: &str) -> String {
    let part = part.replace("\r\n", "\n").replace('\r', "\n");
    let hash = digest(&SHA256, part.as_bytes());
    format!("'sha256-{}'", STANDARD.encode(hash))
}
