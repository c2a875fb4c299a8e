//! segno, a persistent event hub: the map of its code.
//!
//! Programs POST events; each is committed to a SQLite file under an id that only grows, then announced; `GET /sse` replays
//! what lies after the id a subscriber has, then follows live, with no seam.
//!
//! # Who knows whom: arrows point down only
//!
//! ```text
//!  main ─ cli ─ config   know: flags and variables           client   knows: HTTP from outside, nothing of the hub's inside
//!    │                   (settings go down as plain structs)
//!  server            knows: sockets, signals, the order of stopping
//!    ├── retention   knows: the clock, what is old                 talks to the hub
//!    ├── limits      knows: what each address and caller has taken asked by server and http; no I/O
//!    ├── auth        knows: tokens, tickets, the access file       asked by http: who is calling; no HTTP of the hub, no SQL
//!    ├── monitor     knows: the clock, what is slow                talks to the hub
//!    ├── joining     knows: how a hub comes to the file of another   asks it as a client
//!    ├── service_manager   knows: what systemd wants to hear       nothing of the hub
//!    └── http/       knows: requests, JSON, SSE frames, statuses   no SQL
//!          │
//!  hub/              knows: order, announcing, falling behind      no HTTP, no SQL
//!    │
//!  db                knows: SQLite, transactions                   no HTTP, no channels
//!  jetstream         knows: NATS, how to read on when it fails     not what a command means
//!    │
//!  rights            knows: what a caller may do                   no I/O
//!    │
//!  files             knows: when a file has changed, and is whole; how one is made   not what is in it
//!    │
//!  filter, event     know: what a valid topic, id or filter is     no I/O
//!  peer_address      knows: who is at the other end of a connection
//!  metrics           knows: what is counted                        not where it is read
//!  process           knows: what this process takes of the machine
//! ```
//!
//! The test `tidy` holds the code to it.
//!
//! # An event in
//!
//! `http::api` reads a request into [`NewEvent`](event::NewEvent)s, whose constructors hold every rule.
//! [`Hub::publish`](hub::Hub::publish) puts them, with a place for the answer, into the writer's bounded queue; a full queue
//! is [`Busy`](hub::PublishError::Busy). The [writer](hub::Writer) takes all that waits as one command, puts it in order,
//! and applies it: [appends](db::Appender) it in one statement, commits, announces it to the feeds in id order. Then it answers.
//!
//! # An event out
//!
//! `http::api` reads a request into a [`Start`](hub::Start) and a [`Filter`](filter::Filter).
//! [`Hub::subscribe`](hub::Hub::subscribe) first joins the feed of that filter; then [`Subscription`](hub::Subscription)
//! reads pages after its cursor, from memory if they are recent, else from the file, until it has caught up; then it takes
//! what the feed announces, and goes back to pages when it lags. `http::frame` turns a batch into bytes, once for all
//! who share the feed. The answer is a head and a stream, as a type of its own; poem, which passes responses only, never sees it.
//! `server::audience` hands the bytes to sockets: subscribers that want the same and have caught up share one subscription and one
//! task, and part when one of them is slow. `server::framing` makes the chunks of HTTP/1.1, once for an audience. Over HTTP/2 a stream is the body of an
//! answer, in `server::http2`.
//!
//! | word | meaning |
//! |---|---|
//! | subscriber | a client that follows, with its connection |
//! | subscription | a filter and a cursor: what one subscriber, or an audience, is given next |
//! | feed | a filter, and the receivers of what is announced that matches it |
//! | audience, member | subscribers that are sent the same bytes from one subscription; one of them |
//! | permit | what counts a connection or a stream against the limits, until it is dropped |
//!
//! # Who is calling
//!
//! `http::caller` finds it, once, before the ways of a request part: [`Access`](auth::Access) turns the credential that a request
//! shows into an [`Identity`](auth::Identity) with its [`Rights`](rights::Rights). `http::operations` says what each operation
//! needs at least, by its group in the OpenAPI document; the operation asks for the topics it is about. What a reader is allowed
//! is part of its filter, so replay, live and history cannot differ. What lasts, a stream or an export, holds a
//! [`Pass`](auth::Pass), which ends with the right. How much a caller may take is in its identity, and counted by [`limits`] under a
//! name that outlives a change of the access file.
//!
//! # Invariants
//!
//! 1. Announce order = commit order = id order, and the commit comes first. One task does all three, so a request that is
//!    dropped half-way cannot part them.
//! 2. A subscription yields each matching event after its cursor once, in id order; what is at or below the cursor is
//!    skipped.
//! 3. Every write to the file goes through the writer, trims too. Readers have their own pool and read pages; no statement stays open
//!    while a client is slow.
//! 4. An id is never used twice. Nobody promises ids without holes.
//! 5. What is trimmed is told: the first id, or the mark of a trimmed topic, is raised before the first event goes, and a
//!    page is given to a subscriber only if neither has passed its cursor while it was read.
//! 6. Everything that waits has a bound with a name: queue, feed, page, window, data, connections, drain.
//!
//! # Where to find
//!
//! | what | where |
//! |---|---|
//! | a request becomes an event | `http/api/publish.rs`, whose bodies `http/api/body.rs` reads |
//! | an event gets its id and time, and its key is judged | `db/draft.rs` |
//! | what is asked for is put in order, as commands | `hub/order.rs`, `hub/command.rs` |
//! | a cluster's order is followed | `hub/order/replicated.rs`, over `jetstream.rs` |
//! | it is inserted and committed | `db/append.rs`, called by `hub/applier.rs` alone |
//! | it is announced | `hub/announcements.rs`, called by `hub/applier.rs` alone |
//! | a subscriber replays, then follows | `hub/subscription.rs` |
//! | an event becomes the bytes of a stream | `http/frame.rs`, asked by `http/api/follow.rs` |
//! | these bytes reach sockets | `server/audience.rs` |
//! | the caller of a request is found, before the ways of a request part | `http/caller.rs` |
//! | a refusal gets its code and status | `http/problem.rs` |
//! | a refusal becomes a stream, for browsers | `http/refused_stream.rs` |
//! | a socket is bound, a connection is accepted | `server/listener.rs` |
//! | a client that does not read is cut | `server/paced_socket.rs`, over HTTP/2 `server/http2.rs` |
//! | the certificate is read, and read again | `server/tls.rs` |
//! | it is ordered from an authority, and renewed | `server/acme.rs` |
//! | what a connection of HTTP/2 may hold | `server/http2.rs` |
//! | what waits lets others answer first | `http/turn.rs` |
//!
//! # Stopping
//!
//! Stop accepting → [`Hub::drain`](hub::Hub::drain) closes the queue → the writer stores what it took, answers and ends →
//! the feeds end → subscriptions yield `None` → streams end cleanly → connections end → the WAL is put into the file.
//!
//! # In reading order
//!
//! [`event`], [`filter`], [`peer_address`], [`rights`], [`auth`], [`metrics`], [`process`], [`db`], [`hub`], [`retention`], [`monitor`], `joining`, [`limits`], [`service_manager`], [`http`],
//! [`server`], [`config`], [`cli`], [`client`].

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "in a test a panic is the report")
)]

pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod db;
pub mod event;
mod files;
pub mod filter;
pub mod http;
pub mod hub;
#[cfg(feature = "cluster")]
pub mod jetstream;
#[cfg(feature = "cluster")]
pub mod joining;
pub mod limits;
pub mod metrics;
pub mod monitor;
pub mod peer_address;
pub mod process;
pub mod retention;
pub mod rights;
pub mod scan;
pub mod server;
pub mod service_manager;
pub mod turns;
