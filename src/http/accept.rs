//! What a request's `Accept` names.

use poem::http::{HeaderMap, header};

use super::problem::{Code, Problem};

/// Whether `Accept` names this very media type. A range such as `*/*` names none, and one that weighs 0 is refused. A header that
/// cannot be read is an error, and never taken for absent. Source: RFC 9110, 12.5.1.
pub(super) fn names(headers: &HeaderMap, media_type: &str) -> Result<bool, Problem> {
    let mut is_named = false;
    for value in headers.get_all(header::ACCEPT) {
        let ranges = str::from_utf8(value.as_bytes()).map_err(|_| {
            let detail = "header accept is not UTF-8; send media types, such as application/json";
            Problem::new(Code::InvalidHeader, detail)
        })?;
        is_named |= ranges.split(',').any(|range| is_of(range, media_type));
    }
    Ok(is_named)
}

/// Whether a range of `Accept` is this very media type.
fn is_of(range: &str, media_type: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_named = parts
        .next()
        .is_some_and(|named| named.eq_ignore_ascii_case(media_type));
    let is_refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
    is_named && !is_refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_named_wherever_it_stands_and_however_it_is_spelled() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, "text/html, */*;q=0.1".parse().unwrap());
        headers.append(
            header::ACCEPT,
            "Text/Event-Stream;q=0.9,application/x-ndjson; q=0"
                .parse()
                .unwrap(),
        );
        let names = |media_type| names(&headers, media_type).unwrap();
        assert!(names("text/event-stream"));
        assert!(names("text/html"));
        assert!(!names("application/x-ndjson"));
        assert!(!names("application/json"));
    }
}
