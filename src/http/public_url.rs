//! The address under which clients reach the hub, where a proxy has it under another.

use std::{fmt, str::FromStr, sync::Arc};

use poem::http::Uri;

/// An address such as `https://example.com/segno`, without a slash at its end. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    text: Arc<str>,
    /// Host and port in lower case, without the port that is usual for the scheme: what browsers put into `Host` and `Origin`.
    authority: Arc<str>,
}

/// Text that is not such an address.
#[derive(Debug, thiserror::Error)]
#[error("a public URL looks like https://example.com or https://example.com/segno")]
pub struct InvalidPublicUrl;

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidPublicUrl)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().unwrap_or_default();
        let user = uri.authority().is_some_and(|at| at.as_str().contains('@'));
        let origin = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        let authority = authority_of(&origin).ok_or(InvalidPublicUrl)?;
        // `Uri` drops a fragment without a word.
        let is_plain = uri.query().is_none() && !text.contains(['#', '>', '"']);
        match is_web && !host.is_empty() && !user && is_plain {
            true => Ok(Self {
                text: text.trim_end_matches('/').into(),
                authority: authority.into(),
            }),
            false => Err(InvalidPublicUrl),
        }
    }
}

impl PublicUrl {
    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let (scheme, _) = self.text.split_once("://").expect("it was read as one");
        format!("{scheme}://{}", self.authority)
    }

    /// Host and port, as browsers name them.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where clients find what the hub has at `path`.
pub(super) fn public(url: Option<&PublicUrl>, path: fmt::Arguments<'_>) -> String {
    match url {
        Some(url) => format!("{url}{path}"),
        None => path.to_string(),
    }
}

/// Host and port of an origin, in lower case, without the port that is usual for its scheme.
pub(super) fn authority_of(origin: &str) -> Option<String> {
    let (scheme, authority) = origin.split_once("://")?;
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let authority = authority.strip_suffix(usual).unwrap_or(authority);
    Some(authority.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_a_scheme_a_host_and_perhaps_a_path() {
        for (text, url) in [
            ("https://example.com", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("http://10.0.0.1:8000/a/b/", "http://10.0.0.1:8000/a/b"),
        ] {
            assert_eq!(text.parse::<PublicUrl>().unwrap().to_string(), url);
        }
        for bad in [
            "",
            "example.com",
            "/segno",
            "ftp://example.com",
            "https://",
            "https://example.com/?a=b",
            "https://example.com/#a",
            "https://user@example.com",
        ] {
            assert!(bad.parse::<PublicUrl>().is_err(), "{bad}");
        }
    }
}
