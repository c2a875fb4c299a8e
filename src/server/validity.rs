//! From when until when a certificate is good.

use chrono::NaiveDateTime;

/// The time within which a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) begins: i64,
    pub(super) ends: i64,
}

/// Source: X.690, 8.1.2, and RFC 5280, 4.1.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

impl Validity {
    /// Reads it from a certificate in DER; `None` where that is none.
    ///
    /// By hand: rustls has read the rest of it, but tells no times, and a parser of all of X.509 is ten crates.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = of_tag(SEQUENCE, certificate)?;
        let (mut fields, _) = of_tag(SEQUENCE, certificate)?;
        if let Some((_, rest)) = of_tag(VERSION, fields) {
            fields = rest;
        }
        // The serial number, the algorithm, the issuer.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            (_, fields) = of_tag(tag, fields)?;
        }
        let (validity, _) = of_tag(SEQUENCE, fields)?;
        let (begins, rest) = time(validity)?;
        let (ends, _) = time(rest)?;
        Some(Self { begins, ends })
    }
}

fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, text, rest) = next(der)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        // Source: RFC 5280, 4.1.2.5.1: two digits of a year, which is 1950 at the least.
        UTC_TIME if text >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
    Some((time.and_utc().timestamp(), rest))
}

/// What is in the first value of `der`, and what comes behind it, if it is of this tag.
fn of_tag(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    match next(der)? {
        (found, content, rest) if found == tag => Some((content, rest)),
        _ => None,
    }
}

/// Tag and content of the first value of `der`, and what comes behind it.
fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (bytes, der) = match first {
        0..=0x7f => (usize::from(first), der),
        // As many bytes of a length follow.
        0x81..=0x84 => {
            let (length, der) = der.split_at_checked(usize::from(first - 0x80))?;
            let bytes = length
                .iter()
                .fold(0, |bytes, &byte| bytes << 8 | usize::from(byte));
            (bytes, der)
        }
        _ => return None,
    };
    let (content, rest) = der.split_at_checked(bytes)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(begins: time::OffsetDateTime, ends: time::OffsetDateTime) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["hub.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (begins, ends);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_from_when_until_when_it_is_good() {
        // The second is written in another form: from 2050 on years have four digits.
        for (begins, ends) in [
            ((1975, 1, 1), (2026, 2, 28)),
            ((2049, 12, 31), (4096, 1, 1)),
        ] {
            let [begins, ends] =
                [begins, ends].map(|(year, month, day)| rcgen::date_time_ymd(year, month, day));
            let validity = Validity::of(&certificate(begins, ends)).unwrap();
            assert_eq!(validity.begins, begins.unix_timestamp());
            assert_eq!(validity.ends, ends.unix_timestamp());
        }
    }

    #[test]
    fn no_part_of_a_certificate_is_read_beyond_its_end() {
        let whole = certificate(
            rcgen::date_time_ymd(2026, 1, 1),
            rcgen::date_time_ymd(2027, 1, 1),
        );
        for end in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused_without_a_panic(der in prop::collection::vec(any::<u8>(), 0..200)) {
            Validity::of(&der);
        }
    }
}
