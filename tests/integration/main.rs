//! The hub from outside: real sockets, a real file, deadlines instead of sleeps.
//!
//! A test that takes many seconds or thousands of sockets has a name that begins with `slow_`: `cargo test -- --skip slow_` leaves
//! these out at the desk. `tests/run`, and so CI, runs all.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod access;
#[cfg(feature = "acme")]
mod acme;
mod api_page;
mod attacks;
mod backup;
mod bad_input;
mod bench;
mod bodies;
mod browser;
mod clients;
mod clock;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod cluster_disk;
#[cfg(feature = "cluster")]
mod cluster_faults;
#[cfg(feature = "cluster")]
mod cluster_join;
mod command_line;
#[cfg(feature = "cluster")]
mod compose;
mod console;
mod console_access;
mod console_daily;
mod content_coding;
mod contract;
mod cors;
mod crash;
mod credentials;
mod cross_site;
mod disk;
mod docs;
mod drain;
#[cfg(feature = "cluster")]
mod engine;
mod erase;
mod examples;
mod faults;
mod filters;
mod flags;
mod foreign;
mod formats;
mod history;
mod htmx;
mod http2;
mod javascript;
mod jwt_issuer;
mod limits;
mod listening;
#[cfg(feature = "cluster")]
mod nats;
mod openapi;
mod operator;
mod proxies;
mod publish;
mod python;
mod quotas;
mod refusals;
mod relay;
mod restore;
mod retention;
mod running;
mod sight;
mod soak;
#[cfg(feature = "otlp")]
mod spans;
mod stream;
mod subscribers;
mod test_hub;
mod tickets;
mod tidy;
mod tls;
#[cfg(feature = "cluster")] // What is watched of a cluster too.
mod watching;
