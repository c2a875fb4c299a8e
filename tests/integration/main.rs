//! The hub from outside: real sockets, a real file, deadlines instead of sleeps.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod publish;
mod test_hub;
