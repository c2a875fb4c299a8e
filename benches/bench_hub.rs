//! What the benches share: the hub and the floors as processes of their own, a load that is cheap, and the lines printed.
//!
//! Every figure is measured beside a floor in the same run, in turns, because a machine that others use is never as fast
//! twice. The processor time is that of the process under test alone; the load is one thread that reads and writes raw
//! sockets.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod floor;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod report;

use std::{path::PathBuf, time::Duration};

use mimalloc::MiMalloc;
use tempfile::TempDir;

use report::Report;

/// The allocator of the hub: the floor of an empty handler must not be lower than it is.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes of an event's data.
pub(crate) const DATA_BYTES: usize = 100;

/// How long one turn of a measurement takes, where nothing else is said.
pub(crate) const TURN: Duration = Duration::from_millis(1200);

/// Turns of which the median is taken.
pub(crate) const TURNS: usize = 5;

/// A measurement and the name it is chosen by.
pub(crate) type Bench = (&'static str, fn(&mut Report));

/// Runs the benches whose names contain one of the words on the command line, or all. `--full` runs the long ones whole.
///
/// `cargo bench` passes `--bench`. Without it, as `cargo test` runs this, it measures nothing and only shows that it could.
pub(crate) fn main(benches: &[Bench]) {
    if floor::run_if_asked() {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        process::Process::hub(folder().path()).stop();
        return;
    }
    _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut report = Report::new(arguments.iter().any(|argument| argument == "--full"));
    for (name, bench) in benches {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            bench(&mut report);
        }
    }
}

/// A folder on the disk of the build, where syncing costs what it costs.
pub(crate) fn folder() -> TempDir {
    let parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&parent).unwrap();
    tempfile::tempdir_in(parent).unwrap()
}

/// The data of an event, [`DATA_BYTES`] long: room for the moment it is sent, then filling.
pub(crate) fn data() -> String {
    let stamp = format!("{{\"t\":\"{:019}\",\"pad\":\"", 0);
    let pad = DATA_BYTES - stamp.len() - 2;
    format!("{stamp}{}\"}}", "x".repeat(pad))
}

/// A `POST /events` with one event on `topic`.
pub(crate) fn post(topic: &str) -> Vec<u8> {
    post_body(
        "application/json",
        &format!("{{\"topic\":\"{topic}\",\"data\":{}}}", data()),
    )
}

/// The same request with a token.
pub(crate) fn with_token(request: Vec<u8>, token: &str) -> Vec<u8> {
    let request = String::from_utf8(request).unwrap();
    let (line, rest) = request.split_once("\r\n").unwrap();
    format!("{line}\r\nauthorization: Bearer {token}\r\n{rest}").into_bytes()
}

/// A `POST /events` with a batch of NDJSON.
pub(crate) fn post_batch(events: usize, topic: impl Fn(usize) -> String) -> Vec<u8> {
    let data = data();
    let lines: String = (0..events)
        .map(|index| format!("{{\"topic\":\"{}\",\"data\":{data}}}\n", topic(index)))
        .collect();
    post_body("application/x-ndjson", &lines)
}

pub(crate) fn post_body(content_type: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /events HTTP/1.1\r\nhost: localhost\r\nuser-agent: segno-bench\r\naccept: */*\r\n\
         content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A `GET /sse`; `query` is what stands behind it, such as `?topic=a`.
pub(crate) fn follow(query: &str) -> Vec<u8> {
    format!(
        "GET /sse{query} HTTP/1.1\r\nhost: localhost\r\nuser-agent: segno-bench\r\n\
         accept: text/event-stream\r\n\r\n"
    )
    .into_bytes()
}
