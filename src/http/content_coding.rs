//! What answers are packed with, for a client that asks for it: gzip or zstd.
//!
//! Pages of JSON and NDJSON are packed, streams never are: an event must not wait in a packer. Each piece of a body is packed by
//! itself as the client takes it, so that between two pieces nothing is held but a checksum, however many clients read slowly. It costs
//! a few bytes in a hundred. No answer of JSON names its length in its head before this: the server does, of the body that is sent.

use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::Body as _;
use poem::{
    Body, Response,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};

use crate::turns::Turns;

/// Bytes below which a body is sent as it is: it fits into a packet or two, packed or not.
const ANSWER_MIN_BYTES: u64 = 1024;

/// Bytes that are packed at a time. As many as the log is read by: see `api/history/page.rs`.
const PIECE_MAX_BYTES: usize = 64 * 1024;

/// Source: zstd's own levels; 1 is as fast as the log is read, and gives three quarters of what 3 saves.
const ZSTD_LEVEL: i32 = 1;

/// What a body is packed with. Source: RFC 1952 and RFC 8878; RFC 9110, 8.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentCoding {
    Gzip,
    Zstd,
}

impl ContentCoding {
    /// The one that the client likes best; of two it likes alike, zstd, which costs less. `None` if it wants the body as it is, or
    /// does not say so in a way that can be read. Source: RFC 9110, 12.5.3.
    pub(super) fn wanted(headers: &HeaderMap) -> Option<Self> {
        let (mut gzip, mut zstd, mut any, mut identity) = (None, None, None, None);
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for item in value.to_str().ok()?.split(',') {
                let (name, weight) = read_item(item)?;
                match name.to_ascii_lowercase().as_str() {
                    "gzip" | "x-gzip" => gzip = Some(weight),
                    "zstd" => zstd = Some(weight),
                    "identity" => identity = Some(weight),
                    "*" => any = Some(weight),
                    _ => (),
                }
            }
        }
        let weight = |named: Option<u16>| named.or(any).unwrap_or(0);
        let (gzip, zstd) = (weight(gzip), weight(zstd));
        if gzip.max(zstd) <= identity.unwrap_or(0) {
            return None;
        }
        Some(match zstd >= gzip {
            true => Self::Zstd,
            false => Self::Gzip,
        })
    }

    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }

    fn packer(self) -> Packer {
        match self {
            Self::Gzip => Packer::Gzip(Crc::new()),
            Self::Zstd => Packer::Zstd,
        }
    }
}

/// A coding and its weight in thousandths; `None` if it cannot be read.
fn read_item(item: &str) -> Option<(&str, u16)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next()?;
    let Some(weight) = parts.next() else {
        return Some((name, 1000));
    };
    let weight: f32 = weight
        .strip_prefix("q=")
        .or_else(|| weight.strip_prefix("Q="))?
        .parse()
        .ok()?;
    let weight = (weight * 1000.0).clamp(0.0, 1000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 1000"
    )]
    Some((name, weight as u16))
}

/// Whether it is JSON, or lines of it. Source: the media types of `api/history.rs`.
fn is_json(response: &Response) -> bool {
    let media_type = response.content_type().unwrap_or_default();
    ["application/json", "application/x-ndjson"]
        .iter()
        .any(|json| media_type.starts_with(json))
}

/// Packs the body of `response` if that is a page and `wanted` says how, and says that it depends on what was asked for.
pub(super) fn pack(
    mut response: Response,
    wanted: Option<ContentCoding>,
    turns: &Turns,
) -> Response {
    if response.status() != StatusCode::OK || !is_json(&response) {
        return response;
    }
    let body: BoxBody<Bytes, io::Error> = response.take_body().into();
    if body
        .size_hint()
        .upper()
        .is_some_and(|bytes| bytes < ANSWER_MIN_BYTES)
    {
        response.set_body(Body::from(body));
        return response;
    }
    let depends = HeaderValue::from_static("accept-encoding");
    response.headers_mut().append(header::VARY, depends);
    let Some(coding) = wanted else {
        response.set_body(Body::from(body));
        return response;
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, coding.name());
    response.set_body(Body::from_bytes_stream(packed(body, coding, turns.clone())));
    response
}

/// The body, packed piece by piece as it is taken.
fn packed(
    body: BoxBody<Bytes, io::Error>,
    coding: ContentCoding,
    turns: Turns,
) -> impl Stream<Item = io::Result<Bytes>> {
    struct State {
        body: BoxBody<Bytes, io::Error>,
        /// What is left of the bytes that the body gave last.
        rest: Bytes,
        packer: Packer,
        is_first: bool,
        turns: Turns,
    }
    let begin = State {
        body,
        rest: Bytes::new(),
        packer: coding.packer(),
        is_first: true,
        turns,
    };
    stream::try_unfold(Some(begin), async |state| {
        let Some(mut state) = state else {
            return Ok(None);
        };
        while state.rest.is_empty() {
            let Some(frame) = state.body.frame().await else {
                let end = state.packer.end(state.is_first);
                return Ok(Some((end, None)));
            };
            state.rest = frame?.into_data().unwrap_or_default();
        }
        let bytes = state.rest.len().min(PIECE_MAX_BYTES);
        let piece = state.rest.split_to(bytes);
        let is_first = std::mem::take(&mut state.is_first);
        // It takes up to a millisecond, for which others would wait.
        let mut packer = state.packer;
        let packing = state.turns.beside(move || {
            let packed = packer.pack(&piece, is_first)?;
            Ok((packed, packer))
        });
        let packed: io::Result<_> = packing.await;
        let (packed, packer) = packed?;
        state.packer = packer;
        Ok(Some((packed, Some(state))))
    })
}

/// What packs a body, and what it remembers from piece to piece.
enum Packer {
    /// The checksum and the length so far. Each piece is deflated by itself and ends at a byte, so that one can stand behind the
    /// other. Source: RFC 1951, 3.2.4.
    Gzip(Crc),
    /// Each piece is a frame, and frames can stand one behind the other. Source: RFC 8878, 3.
    Zstd,
}

/// A head without a name or a time, from whatever system. Source: RFC 1952, 2.3.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A last block without anything in it. Source: RFC 1951, 3.2.6.
const DEFLATE_END: [u8; 2] = [3, 0];

impl Packer {
    fn pack(&mut self, piece: &[u8], is_first: bool) -> io::Result<Bytes> {
        match self {
            Self::Gzip(sum) => {
                sum.update(piece);
                let mut packed = Vec::with_capacity(piece.len() / 2 + 64);
                if is_first {
                    packed.extend_from_slice(&GZIP_HEAD);
                }
                deflate(piece, &mut packed)?;
                Ok(packed.into())
            }
            Self::Zstd => zstd::bulk::compress(piece, ZSTD_LEVEL).map(Bytes::from),
        }
    }

    /// What stands at the end; `is_empty` says that there was no piece.
    fn end(self, is_empty: bool) -> Bytes {
        match self {
            Self::Gzip(sum) => {
                let head = if is_empty { &GZIP_HEAD[..] } else { &[] };
                let (crc, length) = (sum.sum().to_le_bytes(), sum.amount().to_le_bytes());
                [head, &DEFLATE_END, &crc, &length].concat().into()
            }
            Self::Zstd if is_empty => {
                let empty = zstd::bulk::compress(&[], ZSTD_LEVEL);
                empty.expect("memory takes every byte").into()
            }
            Self::Zstd => Bytes::new(),
        }
    }
}

/// Deflates `piece` to the end of a byte, with blocks of which none is the last.
fn deflate(piece: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut deflate = Compress::new(Compression::fast(), false);
    loop {
        let done = usize::try_from(deflate.total_in()).expect("a piece is in memory");
        out.reserve(PIECE_MAX_BYTES / 4);
        let status = deflate.compress_vec(&piece[done..], out, FlushCompress::Full)?;
        // Room that is left says that nothing waits for room.
        if status == Status::Ok && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures_util::StreamExt;

    use super::*;

    fn wanted(values: &[&str]) -> Option<ContentCoding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT_ENCODING, value.parse().unwrap());
        }
        ContentCoding::wanted(&headers)
    }

    #[test]
    fn the_client_says_which_coding_it_likes_best() {
        use ContentCoding::{Gzip, Zstd};
        for (values, coding) in [
            (&[][..], None),
            (&[""], None),
            (&["gzip"], Some(Gzip)),
            (&["GZip"], Some(Gzip)),
            (&["x-gzip"], Some(Gzip)),
            (&["zstd"], Some(Zstd)),
            (&["gzip, deflate, br, zstd"], Some(Zstd)),
            (&["gzip, deflate", "zstd"], Some(Zstd)),
            (&["gzip, zstd;q=0.9"], Some(Gzip)),
            (&["gzip ; q=0.5 , zstd ; q=0.501"], Some(Zstd)),
            (&["br, deflate"], None),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.000, zstd;q=0"], None),
            (&["*"], Some(Zstd)),
            (&["*;q=0"], None),
            (&["zstd;q=0, *"], Some(Gzip)),
            (&["identity"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip"], Some(Gzip)),
            (&["gzip, identity;q=0"], Some(Gzip)),
            (&["gzip;q=x"], None),
            (&["gzip;level=9"], None),
        ] {
            assert_eq!(wanted(values), coding, "{values:?}");
        }
    }

    async fn whole(coding: ContentCoding, frames: &[&'static [u8]]) -> Vec<u8> {
        let frames: Vec<_> = frames
            .iter()
            .map(|frame| Ok::<_, io::Error>(Bytes::from_static(frame)))
            .collect();
        let body = Body::from_bytes_stream(stream::iter(frames));
        let pieces = packed(body.into(), coding, Turns::default()).map(|piece| piece.unwrap());
        pieces.collect::<Vec<_>>().await.concat()
    }

    /// Pieces that deflate to more than they are, to nearly nothing, and to the room that there is, and none at all.
    #[tokio::test]
    async fn what_was_packed_in_pieces_is_unpacked_as_one() {
        let noise: Vec<u8> = {
            let mut random = fastrand::Rng::with_seed(7);
            (0..300_000).map(|_| random.u8(..)).collect()
        };
        let noise: &'static [u8] = noise.leak();
        let whole_piece = &noise[..PIECE_MAX_BYTES];
        let cases: [&[&'static [u8]]; 6] = [
            &[],
            &[b""],
            &[b"a"],
            &[noise],
            &[noise, b"", &[b'x'; 200_000], b"end"],
            &[whole_piece, &noise[..16_000], &noise[..16_384]],
        ];
        for frames in cases {
            let expected = frames.concat();
            let packed = whole(ContentCoding::Gzip, frames).await;
            let mut unpacked = Vec::new();
            // One member, not several: not every client reads on behind the first.
            let mut reader = flate2::bufread::GzDecoder::new(&packed[..]);
            reader.read_to_end(&mut unpacked).unwrap();
            assert!(reader.into_inner().is_empty());
            assert!(unpacked == expected, "{} bytes", expected.len());
            let packed = whole(ContentCoding::Zstd, frames).await;
            assert!(zstd::decode_all(&packed[..]).unwrap() == expected);
        }
    }
}
