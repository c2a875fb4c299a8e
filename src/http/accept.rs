//! What a request's `Accept` names.

use poem::http::{HeaderMap, header};

/// Whether `Accept` names this very media type. A range such as `*/*` names none, and one that weighs 0 is refused.
/// Source: RFC 9110, 12.5.1.
pub(super) fn names(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.into_iter().any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts
            .next()
            .is_some_and(|named| named.eq_ignore_ascii_case(media_type));
        let is_refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        is_named && !is_refused
    })
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
        assert!(names(&headers, "text/event-stream"));
        assert!(names(&headers, "text/html"));
        assert!(!names(&headers, "application/x-ndjson"));
        assert!(!names(&headers, "application/json"));
    }
}
