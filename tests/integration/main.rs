//! The hub from outside: real sockets, a real file, deadlines instead of sleeps.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod backup;
mod bad_input;
mod bench;
mod browser;
mod clock;
mod command_line;
mod console;
mod cors;
mod crash;
mod disk;
mod drain;
mod erase;
mod faults;
mod history;
mod limits;
mod openapi;
mod publish;
mod readme;
mod restore;
mod retention;
mod sight;
mod stream;
mod test_hub;
mod tidy;
