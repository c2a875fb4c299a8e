//! The address of a hub, as people write it.

use std::path::PathBuf;

use reqwest::Url;

use super::Error;

/// Where a hub is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What requests are for.
    pub(super) base: Url,
    /// The socket file that connections go to, if it is not a host.
    pub(super) socket: Option<PathBuf>,
}

/// Reads `http://host:8000` and `https://host`, and for plain HTTP the short forms `host:8000`, `host`, `:8000` and `8000`; without a
/// host it is this machine. A socket file is `unix:/run/segno.sock`.
pub(super) fn parse(text: &str) -> Result<Address, Error> {
    match text.strip_prefix("unix:") {
        Some("") => Err(Error::InvalidUrl(text.to_owned())),
        Some(path) => Ok(Address {
            base: Url::parse("http://localhost").expect("it is a URL"),
            socket: Some(path.strip_prefix("//").unwrap_or(path).into()),
        }),
        None => Ok(Address {
            base: parse_url(text)?,
            socket: None,
        }),
    }
}

fn parse_url(text: &str) -> Result<Url, Error> {
    let invalid = || Error::InvalidUrl(text.to_owned());
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.strip_prefix(':').unwrap_or(text);
    let whole = match text {
        _ if is_port(port) => format!("http://127.0.0.1:{port}"),
        _ if text.contains("://") => text.to_owned(),
        _ => format!("http://{text}"),
    };
    let url = Url::parse(&whole).map_err(|_| invalid())?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_understood() {
        for (text, url) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/"),
            ("https://hub.example/segno", "https://hub.example/segno"),
            ("localhost:8000", "http://localhost:8000/"),
            ("localhost:8000/segno", "http://localhost:8000/segno"),
            ("hub.example", "http://hub.example/"),
            ("[::1]:8000", "http://[::1]:8000/"),
            (":8000", "http://127.0.0.1:8000/"),
            ("8000", "http://127.0.0.1:8000/"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), url);
        }
        let socket = |text| parse(text).unwrap().socket;
        assert_eq!(
            socket("unix:/run/segno.sock"),
            Some("/run/segno.sock".into())
        );
        assert_eq!(
            socket("unix:///run/segno.sock"),
            Some("/run/segno.sock".into())
        );
        assert_eq!(socket("unix:segno.sock"), Some("segno.sock".into()));
        assert_eq!(socket("localhost:8000"), None);
        for text in ["", ":", ":x", "99999", "ftp://hub", "://x", "a b", "unix:"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, Error::InvalidUrl(_)), "{text}: {error:?}");
        }
    }
}
