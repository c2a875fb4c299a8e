//! How the blocks of a stream are told apart on a connection. Pure.

use std::{io::Write, time::SystemTime};

use bytes::Bytes;
use poem::{Response, http::Version};

/// What ends a body in chunks. Source: RFC 9112, 7.1.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What stands around a block, by the version of HTTP that the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Framing {
    /// Nothing: the end of the connection is the end of the stream. For HTTP/1.0.
    Plain,
    /// Each block is a chunk of HTTP/1.1. Source: RFC 9112, 7.1.
    Chunked,
}

impl Framing {
    pub(super) fn of(version: Version) -> Self {
        match version == Version::HTTP_11 {
            true => Self::Chunked,
            false => Self::Plain,
        }
    }

    /// A block as it goes to the socket. An audience does this once for all its members.
    pub(super) fn frame(self, block: Bytes) -> Bytes {
        match self {
            Self::Plain => block,
            Self::Chunked => chunk(&block, b"").into(),
        }
    }

    /// The last block of a stream.
    pub(super) fn frame_last(self, block: Bytes) -> Bytes {
        match self {
            Self::Plain => block,
            Self::Chunked => chunk(&block, LAST_CHUNK).into(),
        }
    }
}

/// `block` as a chunk, and `rest` behind it.
fn chunk(block: &[u8], rest: &[u8]) -> Vec<u8> {
    // 16 digits of a length, and two line breaks.
    let mut chunk = Vec::with_capacity(block.len() + rest.len() + 20);
    write!(chunk, "{:x}\r\n", block.len()).expect("memory takes every byte");
    chunk.extend_from_slice(block);
    chunk.extend_from_slice(b"\r\n");
    chunk.extend_from_slice(rest);
    chunk
}

/// The head of an answer as bytes.
pub(super) fn answer_head(response: &Response, framing: Framing) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if framing == Framing::Chunked {
        head.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    // Not `connection: close`, although the connection ends with the stream: Node's `fetch` would take a kill for a clean end.
    head.extend_from_slice(format!("date: {date}\r\n\r\n").as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_its_length_in_front_and_the_last_one_an_end_behind() {
        let block = Bytes::from_static(b":\nid: 1\ndata: a long line\n\n");
        assert_eq!(Framing::of(Version::HTTP_10).frame(block.clone()), block);
        let chunked = Framing::of(Version::HTTP_11);
        let expected = "1b\r\n:\nid: 1\ndata: a long line\n\n\r\n";
        assert_eq!(chunked.frame(block.clone()), expected);
        assert_eq!(chunked.frame_last(block), format!("{expected}0\r\n\r\n"));
    }
}
