//! segno
pub mod cli;
pub mod client;
pub mod config;
pub mod event;
pub mod event_log;
pub mod filter;
pub mod http;
pub mod hub;
pub mod server;
